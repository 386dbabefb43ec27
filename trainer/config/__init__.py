"""The run config: one strict, typed YAML for every verb. Imports neither torch nor Spark."""

from trainer.config.data import DataConfig
from trainer.config.derived import EarlierConfig, HistoryConfig, TargetEncodingConfig
from trainer.config.features import FeatureGroup, FeaturesConfig, OpConfig
from trainer.config.guard import GuardConfig
from trainer.config.hardware import GpuConfig, HardwareConfig, MachineConfig, MeasuredConfig
from trainer.config.labels import LabelConfig, Task, TaskLabelConfig
from trainer.config.metrics import MetricsConfig
from trainer.config.negatives import (
    InBatchConfig,
    NegativesConfig,
    NegativesFile,
    SamplingConfig,
    TrainSamplingConfig,
)
from trainer.config.plan import DeclaredTables, PlanConfig, RowsRange, TableConfig
from trainer.config.recommend import RecommendConfig
from trainer.config.rows import (
    CleanConfig,
    DownsampleConfig,
    LeaveLastConfig,
    SplitConfig,
    WeightsByConfig,
)
from trainer.config.run import ModelConfig, RunConfig
from trainer.config.source import JoinConfig, SourceConfig, VectorsConfig
from trainer.config.tracking import MlflowConfig
from trainer.config.train import (
    DenseOptimizerConfig,
    EarlyStoppingConfig,
    EmbeddingOptimizerConfig,
    LossConfig,
    PlateauConfig,
    ScheduleConfig,
    TableCommunicationConfig,
    TaskConfig,
    TrainConfig,
)
from trainer.config.user_rows import HoldOutConfig, UserRowsConfig

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
    "GuardConfig",
    "HardwareConfig",
    "HistoryConfig",
    "HoldOutConfig",
    "InBatchConfig",
    "JoinConfig",
    "LabelConfig",
    "LeaveLastConfig",
    "LossConfig",
    "MachineConfig",
    "MeasuredConfig",
    "MetricsConfig",
    "MlflowConfig",
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
    "Task",
    "TaskConfig",
    "TaskLabelConfig",
    "TrainConfig",
    "TrainSamplingConfig",
    "UserRowsConfig",
    "VectorsConfig",
    "WeightsByConfig",
]
