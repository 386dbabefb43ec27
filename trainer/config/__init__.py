"""The run config: one strict, typed YAML for every verb. Imports neither torch nor Spark."""

from trainer.config.data import (
    DataConfig,
    FeatureGroup,
    FeaturesConfig,
    HistoryConfig,
    JoinConfig,
    LabelConfig,
    OpConfig,
    SourceConfig,
    SplitConfig,
)
from trainer.config.run import ModelConfig, PlanConfig, RecommendConfig, RunConfig, TableConfig
from trainer.config.train import (
    DenseOptimizerConfig,
    EarlyStoppingConfig,
    EmbeddingOptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)

__all__ = [
    "DataConfig",
    "DenseOptimizerConfig",
    "EarlyStoppingConfig",
    "EmbeddingOptimizerConfig",
    "FeatureGroup",
    "FeaturesConfig",
    "HistoryConfig",
    "JoinConfig",
    "LabelConfig",
    "ModelConfig",
    "OpConfig",
    "PlanConfig",
    "RecommendConfig",
    "RunConfig",
    "ScheduleConfig",
    "SourceConfig",
    "SplitConfig",
    "TableConfig",
    "TrainConfig",
]
