"""Config section `train`: batches, optimizers, schedule, stopping, checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainer.config.base import Section
from trainer.config.guard import GuardConfig
from trainer.config.metrics import ComparedMetric
from trainer.errors import ConfigError

Beta = Annotated[float, Field(ge=0, lt=1)]
"""Share of a running mean that a step keeps."""


class DenseOptimizerConfig(Section):
    """Optimizer of the dense (non-embedding) parameters."""

    name: Literal["adam", "adamw", "sgd", "adagrad", "lamb"] = "adam"
    """Torch's, and LAMB for very large batches."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Before the schedule's factor."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Apart from the gradient for `adamw` and `lamb`, an L2 term for the others."""
    momentum: float = Field(default=0.0, ge=0)
    """Only for `sgd`."""
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.999), strict=False)
    """Only for `adam`, `adamw` and `lamb`."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the denominator; not for `sgd`."""
    max_norm: float | None = Field(default=None, gt=0)
    """Bound of the norm of each unit's incoming weights after every step, in linear and convolution layers
    and attention projections that are not frozen. It limits how far layers magnify embeddings that
    `train.embedding_l2` keeps short."""


class EmbeddingOptimizerConfig(Section):
    """Optimizer of the embedding tables: FBGEMM's, fused into the backward pass, unless they are
    `data_parallel`.
    """

    name: Literal["rowwise_adagrad", "adagrad", "sgd", "adam", "adamw", "partial_rowwise_adam", "lamb"] = (
        "rowwise_adagrad"
    )
    """On CPU FBGEMM has `rowwise_adagrad`, `adagrad` and `sgd`: under the Adam family every rank keeps a copy
    of each table there (`data_parallel`), and there is no `lamb`."""
    learning_rate: float = Field(default=0.02, gt=0)
    """Before the schedule's factor; `tables.<glob>.learning_rate` wins."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the denominator; not for `sgd`."""
    weight_decay: float = Field(default=0.0, ge=0)
    """On the rows that a step touches: an L2 term of `rowwise_adagrad` (only on GPU), apart from the gradient
    for `adamw`, `partial_rowwise_adam` and `lamb`. `train.embedding_l2` is for every optimizer and device."""
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.999), strict=False)
    """Only for the Adam family and `lamb`."""


class TableCommunicationConfig(Section):
    """Precision of embeddings and their gradients between ranks; they are fp32 before and after."""

    forward: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    """Of embeddings. `int8` packs 32 numbers with a scale; where ranks add up their parts of a pooled vector
    (`row_wise`, `table_row_wise`, `grid_shard`) these travel in fp16."""
    backward: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Of gradients. Small ones become zero in `fp16`; `bf16` has the range of fp32."""


class ScheduleConfig(Section):
    """Learning-rate factor by step, applied to dense and embedding optimizers alike."""

    warmup_steps: int = Field(default=0, ge=0)
    """The factor rises linearly to 1 over these steps."""
    decay: Literal["constant", "linear", "polynomial", "cosine", "exponential", "step"] = "constant"
    """Shape of the way down; `step` falls to a tenth, or by `step_factor`, every `step_every_steps`."""
    decay_steps: int | None = Field(default=None, ge=1)
    """Steps after warm-up over which the factor falls to `final_factor`; default: the rest of the run."""
    final_factor: float = Field(default=0.0, ge=0, le=1)
    """Factor at the end of the decay. `exponential` never gets to 0: it ends at e^-5 (0.0067) instead."""
    power: float = Field(default=2.0, gt=0)
    """Of `polynomial`: the factor falls as (1 - done) ^ power."""
    step_every_steps: int | None = Field(default=None, ge=1)
    """Steps after warm-up between two falls of `step`, which needs it."""
    step_factor: float = Field(default=0.1, gt=0, lt=1)
    """What each fall of `step` multiplies the factor by."""

    @model_validator(mode="after")
    def _of_the_decay(self) -> ScheduleConfig:
        if (self.decay == "step") != (self.step_every_steps is not None):
            raise ValueError("`decay: step` needs `step_every_steps`, and no other decay has it")
        return self


class EarlyStoppingConfig(Section):
    """Stop when a metric of the validation split no longer improves; decided on rank 0 for all ranks."""

    metric: ComparedMetric = "auc"
    """Any of `metrics.names` but `calibration`, those of lists with their K: `ndcg@10`. With several tasks
    the name of one stands before it: `click/auc`."""
    patience: int = Field(default=2, ge=1)
    """Evaluations without improvement before stopping."""
    min_delta: float = Field(default=0.0, ge=0)
    """Smaller gains do not count."""


class PlateauConfig(Section):
    """Lower the learning rates when a metric of the validation split no longer improves."""

    metric: ComparedMetric = "auc"
    """As in `early_stopping`."""
    patience: int = Field(default=1, ge=1)
    """Evaluations without improvement before the next fall."""
    min_delta: float = Field(default=0.0, ge=0)
    """Smaller gains do not count."""
    factor: float = Field(default=0.1, gt=0, lt=1)
    """What each fall multiplies all learning rates by, besides the schedule."""
    least_factor: float = Field(default=1e-3, gt=0, le=1)
    """They fall no further than to this share."""


class EmaConfig(Section):
    """Average the dense part over the steps, for evaluation and scoring; checkpoints hold both."""

    decay: float = Field(default=0.999, gt=0, lt=1)
    """Share of the average that a step keeps: 0.999 averages over about 1,000 steps. Early ones keep less."""


class LossConfig(Section):
    """Of binary labels cross-entropy, or a form of it; of ratings the squared error.

    Models that score queries against items have those of binary labels under `objective: pointwise`, and
    `label_smoothing` under a softmax, whose share s is spread evenly over the items that are compared.
    """

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share s by which labels are drawn to the middle: y becomes y (1 - s) + s / 2."""
    focal_gamma: float = Field(default=0.0, ge=0)
    """Weight (1 - p)^gamma of each row, p being the probability given to its label: rows that are right
    already count less. Probabilities are no longer calibrated."""
    positive_weight: float = Field(default=1.0, gt=0)
    """Weight of rows with label 1 beside those with label 0."""
    huber_delta: float | None = Field(default=None, gt=0)
    """Of ratings: errors above this many standard deviations of the label count linearly, not squared."""

    @property
    def calibrated(self) -> bool:
        """Return whether the loss of binary labels is least where predictions are probabilities."""
        return (self.label_smoothing, self.focal_gamma, self.positive_weight) == (0.0, 0.0, 1.0)


class TaskConfig(Section):
    """How much a task counts among several."""

    weight: float = Field(default=1.0, ge=0)
    """Factor of its loss; 0 evaluates a task without learning it."""


class TrainConfig(Section):
    """How the model is trained. `batch_size_per_rank` is `global_batch_size / world_size`."""

    global_batch_size: int = Field(default=2048, ge=1)
    """Rows per step over all ranks: the same rows at every world size."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the training rows, each in another order."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many steps, even inside an epoch."""
    tail: Literal["drop", "pad"] = "drop"
    """The rows left over after the last full batch: dropped, or padded with zero-weight rows."""
    dense_optimizer: DenseOptimizerConfig = DenseOptimizerConfig()
    embedding_optimizer: EmbeddingOptimizerConfig = EmbeddingOptimizerConfig()
    table_communication: TableCommunicationConfig = TableCommunicationConfig()
    table_output_dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Of the embeddings that the kernels look up. `fp16` and `bf16` halve buffers and exchanges: embeddings
    travel between ranks as they are, and so do their gradients; the model gets fp32. `bf16` is for GPUs."""
    schedule: ScheduleConfig = ScheduleConfig()
    plateau: PlateauConfig | None = None
    ema: EmaConfig | None = None
    loss: LossConfig = LossConfig()
    embedding_l2: float = Field(default=0.0, ge=0)
    """L2 of embeddings under every optimizer: half of it times the sum of squares of the embeddings that a
    row looks up is added to its loss (not in the log). Of a pooled list the pooled embedding counts. Dense
    parameters have `dense_optimizer.weight_decay`."""
    tasks: dict[str, TaskConfig] = Field(default_factory=dict, examples=[{"like": {"weight": 0.5}}])
    """Weights of the tasks of `data.labels` by name; a task that is not named has weight 1."""
    frozen: list[str] = Field(default_factory=list)
    """Globs over names of dense parameters that stay as they are, such as `over_arch.*`; a table stays with
    `tables.<glob>.learning_rate: 0`."""
    max_gradient_norm: float | None = Field(default=None, gt=0)
    """Clip the norm of all dense gradients together; the fused embedding optimizers never see it."""
    dense_parallel: Literal["ddp", "fsdp", "hsdp"] = "ddp"
    """Who holds the dense part, its gradients and its optimizer state: `ddp`, every rank a copy; `fsdp`, all
    ranks one copy; `hsdp`, each group of ranks one copy. A rank alone holds everything. May change when a
    run goes on."""
    dense_shard_group_size: int | None = Field(default=None, ge=2)
    """Ranks that share one copy under `hsdp`; they are neighbours, and default to the ranks of one host."""
    table_shard_group_size: int | None = Field(default=None, ge=2)
    """Ranks that hold one copy of all tables together; they are neighbours. Default all ranks. A smaller
    number, whole hosts or a part of one, makes groups with a copy each (2-D sparse parallelism). May change
    when a run goes on."""
    table_sync_every_steps: int = Field(default=1, ge=1)
    """How often the copies are averaged over the groups, weights and optimizer state; also done before every
    evaluation and save. Needs `table_shard_group_size` where it is above 1."""
    micro_batches: int = Field(default=1, ge=1)
    """Parts that a rank's batch is cut into, to save memory: gradients of dense parameters are added up over
    them and applied once; tables learn from each part at once, as their fused optimizers do, but for
    `data_parallel` ones. `in_batch` negatives are those of the part. Plans reckon with the whole batch."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """`bf16` runs the dense part under autocast; `tf32` lets GPUs round the factors of fp32 matrix products
    to 10 bits. Tables keep their own data type."""
    pipeline: Literal["auto", "sparse_dist", "none"] = "auto"
    """`sparse_dist` sends the ids of the next batch between the ranks, and the batch after it to the device,
    while one is computed (TorchRec's TrainPipelineSparseDist): the same losses sooner, for the memory of two
    more batches. `auto` does so on GPUs where torch.fx can trace the model; not with `micro_batches`, nor
    with tables whose ids come and go."""
    evaluate_every_steps: int | None = Field(default=None, ge=1)
    """Evaluate the validation split this often; default: at the end of each epoch."""
    early_stopping: EarlyStoppingConfig | None = None
    checkpoint_every_steps: int | None = Field(default=None, ge=1)
    """Save this often; default: at the end of each epoch. A save happens at the end of the run as well."""
    keep_checkpoints: int = Field(default=3, ge=1)
    """Newest checkpoints kept, besides the best one."""
    guard: GuardConfig = GuardConfig()
    log_every_steps: int = Field(default=10, ge=1)
    """How often loss and samples/s are written, and a request to stop is looked at."""
    process_group_timeout_seconds: int = Field(default=120, ge=10)
    """How long a rank waits for the others before it gives up."""
    max_restarts: int = Field(default=0, ge=0)
    """Times that the driver starts again from the last checkpoint after a rank was lost."""

    @model_validator(mode="after")
    def _groups_of_hsdp(self) -> TrainConfig:
        if self.dense_shard_group_size is not None and self.dense_parallel != "hsdp":
            raise ValueError(
                f"`dense_shard_group_size` is for `dense_parallel: hsdp`, not for `{self.dense_parallel}`"
            )
        return self

    @model_validator(mode="after")
    def _sync_of_groups(self) -> TrainConfig:
        if self.table_sync_every_steps > 1 and self.table_shard_group_size is None:
            raise ConfigError(
                "without groups there is one copy of the tables, and nothing to average",
                where="train.table_sync_every_steps",
                got=self.table_sync_every_steps,
                allowed="1, or any number beside `train.table_shard_group_size`",
                fixes=["set train.table_shard_group_size", "leave train.table_sync_every_steps out"],
            )
        return self
