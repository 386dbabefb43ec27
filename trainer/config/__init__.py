"""The run config: one strict, typed YAML for every verb. Imports neither torch nor Spark."""

from trainer.config.data import DataConfig
from trainer.config.derived import EarlierConfig, HistoryConfig, TargetEncodingConfig
from trainer.config.features import FeatureGroup, FeaturesConfig, OpConfig
from trainer.config.hardware import GpuConfig, HardwareConfig, MachineConfig, MeasuredConfig
from trainer.config.negatives import (
    InBatchConfig,
    NegativesConfig,
    NegativesFile,
    SamplingConfig,
    TrainSamplingConfig,
)
from trainer.config.plan import DeclaredTables, PlanConfig, RowsRange, TableConfig
from trainer.config.rows import (
    CleanConfig,
    DownsampleConfig,
    LabelConfig,
    LeaveLastConfig,
    SplitConfig,
    WeightsByConfig,
)
from trainer.config.run import ModelConfig, RecommendConfig, RunConfig
from trainer.config.source import JoinConfig, SourceConfig, VectorsConfig
from trainer.config.train import (
    DenseOptimizerConfig,
    EarlyStoppingConfig,
    EmbeddingOptimizerConfig,
    LossConfig,
    PlateauConfig,
    ScheduleConfig,
    TableCommunicationConfig,
    TrainConfig,
)

__all__ = [
    "CleanConfig",
    "DataConfig",
    "DeclaredTables",
    "DenseOptimizerConfig",
    "DownsampleConfig",
    "EarlierConfig",
    "EarlyStoppingConfig",
    "EmbeddingOptimizerConfig",
    "FeatureGroup",
    "FeaturesConfig",
    "GpuConfig",
    "HardwareConfig",
    "HistoryConfig",
    "InBatchConfig",
    "JoinConfig",
    "LabelConfig",
    "LeaveLastConfig",
    "LossConfig",
    "MachineConfig",
    "MeasuredConfig",
    "ModelConfig",
    "NegativesConfig",
    "NegativesFile",
    "OpConfig",
    "PlanConfig",
    "PlateauConfig",
    "RecommendConfig",
    "RowsRange",
    "RunConfig",
    "SamplingConfig",
    "ScheduleConfig",
    "SourceConfig",
    "SplitConfig",
    "TableCommunicationConfig",
    "TableConfig",
    "TargetEncodingConfig",
    "TrainConfig",
    "TrainSamplingConfig",
    "VectorsConfig",
    "WeightsByConfig",
]
