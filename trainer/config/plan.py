"""Config sections `tables` and `plan`: how embedding tables are kept and placed, or declared without data."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from trainer.config.base import Section
from trainer.config.hardware import HardwareConfig
from trainer.config.source import absolute_path

# `sharding.sharders` offers these; it imports torch, so the names stand here once more.
ShardingType = Literal[
    "data_parallel",
    "table_wise",
    "row_wise",
    "column_wise",
    "table_row_wise",
    "table_column_wise",
    "grid_shard",
]
_RANGE = re.compile(r"^(\d+)(?:\.\.(\d+))?$")
ComputeKernel = Literal["dense", "fused", "fused_uvm", "fused_uvm_caching", "key_value"]


class IdsConfig(Section):
    """How ids without a vocabulary get rows of their own, and lose them."""

    num_embeddings: int = Field(ge=3)
    """Rows of the table: 0 for padding, 1 for all ids without a row of their own, the others for ids."""
    evict: Literal["lfu", "lru", "distance_lfu", "ttl"] = "lfu"
    """Whose row a new id takes where none is free: that of the id seen least often (`lfu`), longest unseen
    (`lru`), or with the least `count / (steps unseen + 1) ^ decay_exponent` (`distance_lfu`); or nobody's
    (`ttl`)."""
    min_count: int = Field(default=1, ge=1)
    """An id gets a row once it was seen so many times in training."""
    ttl_steps: int | None = Field(default=None, ge=1)
    """An id that was in none of so many steps loses its row, under every policy; `ttl` needs it."""
    decay_exponent: float | None = Field(default=None, gt=0)
    """Of `distance_lfu`; default 1."""

    @model_validator(mode="after")
    def _of_the_policy(self) -> IdsConfig:
        if self.evict == "ttl" and self.ttl_steps is None:
            raise ValueError("`evict: ttl` needs `ttl_steps`")
        if self.decay_exponent is not None and self.evict != "distance_lfu":
            raise ValueError("`decay_exponent` goes with `evict: distance_lfu`")
        return self


class PretrainedConfig(Section):
    """Vectors made elsewhere that the rows of a table start from, by the ids of the raw rows."""

    path: str
    """Parquet file, or a folder of such, or a NumPy array `.npy` whose row numbers are the ids; relative to
    `data.root`, or a URL."""
    id_column: str | None = None
    """Column of a Parquet file with the ids, as the raw rows have them."""
    vector_column: str | None = None
    """Column of a Parquet file with the vectors: lists of as many numbers as the table is wide."""
    min_found_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the table's ids that must have a vector; the others start as without vectors. None at all is
    always an error."""

    @property
    def by_row_number(self) -> bool:
        """Return whether the file is an array without ids."""
        return self.path.endswith(".npy")

    @model_validator(mode="after")
    def _columns_of_the_format(self) -> PretrainedConfig:
        named = [name for name in ("id_column", "vector_column") if getattr(self, name) is not None]
        if self.by_row_number and named:
            raise ValueError(f"an array has no columns: leave `{named[0]}` out")
        if not self.by_row_number and len(named) < 2:
            raise ValueError("a Parquet file needs `id_column` and `vector_column`")
        return self


EmbeddingDim = Annotated[int, Field(ge=1)] | Literal["auto"]


class TableConfig(Section):
    """Settings of the embedding tables whose names match a glob; later globs win over earlier ones."""

    embedding_dim: EmbeddingDim | None = None
    """Columns of the table; `auto`: 6 rows^(1/4) as the next multiple of 4, at most `model.embedding_dim`."""
    data_type: Literal["fp32", "fp16", "bf16", "int8"] | None = None
    """Of the stored weights; default fp32. `bf16` is for GPUs. `int8` is refused: FBGEMM keeps a scale in a
    row, for which TorchRec's shards have no room."""
    sharding_types: list[ShardingType] | None = Field(default=None, min_length=1)
    """Sharding types that the planner may choose from, for instance `[table_wise, row_wise]`."""
    compute_kernels: list[ComputeKernel] | None = Field(default=None, min_length=1)
    """Kernels that the planner may choose from, for instance `[fused, fused_uvm_caching]`. `key_value`
    (weights on SSD) can be planned, not trained: the published builds of FBGEMM have no kernels for it."""
    min_partition: int | None = Field(default=None, ge=1)
    """Least width of a column-wise shard."""
    cache_load_factor: float | None = Field(default=None, gt=0, le=1)
    """Share of the rows held in HBM by `fused_uvm_caching` and `key_value`."""
    ranks: list[Annotated[int, Field(ge=0)]] | str | None = Field(default=None, min_length=1)
    """Ranks that the table may live on: `[0, 1, 5]` or `0..7, 12`. `table_row_wise` and `grid_shard` take
    hosts that these ranks make whole; `row_wise` and `data_parallel` need all ranks."""
    enforce_hbm: bool | None = None
    """Whether `fused_uvm` and `fused_uvm_caching` keep weights and optimizer state in HBM all the same,
    beside the cache; the second moment of `adam` and `lamb` stays in host memory."""
    stochastic_rounding: bool | None = None
    """Whether GPU kernels round `fp16` and `bf16` weights up or down by chance; default true, FBGEMM's. CPU
    kernels never do."""
    bounds_check_mode: Literal["fatal", "warning", "ignore"] | None = None
    """What the kernels do about an id beyond the table: stop, or take the first row of the shard that is
    asked, with or without a word; default `warning`, FBGEMM's. `data_parallel` tables are not checked."""
    weight_init_max: float | None = Field(default=None, gt=0)
    """Initial weights are uniform between this and its negative; default 1 / sqrt(rows), which is large for
    tables of few rows. Models of dot products may rank better from 0.001."""
    learning_rate: float | None = Field(default=None, ge=0)
    """Learning rate of the table; default `train.embedding_optimizer.learning_rate`. 0 freezes the table."""
    lookup_group: str | None = Field(default=None, min_length=1)
    """Name of a group: a rank looks up its tables of one group in one kernel call, where sharding type,
    kernel, data type, learning rate and pooled or not are equal too. Tables without a name are a group."""
    ids: IdsConfig | None = None
    """Gives ids that come and go rows of their own, for features with `hash: unbounded`."""
    pretrained: PretrainedConfig | None = None
    """What rows start from in place of random numbers. With `learning_rate: 0` they stay so."""

    @field_validator("ranks")
    @classmethod
    def _readable(cls, ranks: list[int] | str | None) -> list[int] | str | None:
        if isinstance(ranks, str):
            _numbers(ranks)
        return ranks

    def under(self, root: str) -> TableConfig:
        """Return the settings with the path of the vectors under `data.root`."""
        if self.pretrained is None:
            return self
        path = absolute_path(self.pretrained.path, root)
        return self.model_copy(update={"pretrained": self.pretrained.model_copy(update={"path": path})})

    def rank_numbers(self) -> tuple[int, ...] | None:
        """Return the ranks that the table may live on, sorted, each once; None for all."""
        if self.ranks is None:
            return None
        numbers = _numbers(self.ranks) if isinstance(self.ranks, str) else self.ranks
        return tuple(sorted(set(numbers)))


def _numbers(text: str) -> list[int]:
    """Return the numbers of `0..7, 12`.

    Raises:
        ValueError: it is written otherwise.
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = _RANGE.match(part.strip())
        if match is None:
            raise ValueError(f"ranks are written 0..7 or 0..3, 8, not {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise ValueError(f"the range {part.strip()} ends before it begins")
        numbers += range(first, last + 1)
    return numbers


class RowsRange(Section):
    """Rows of declared tables that rise from table to table by the same factor."""

    min: int = Field(ge=1)
    """Rows of the first table."""
    max: int = Field(ge=1)
    """Rows of the last table."""

    @model_validator(mode="after")
    def _rising(self) -> RowsRange:
        if self.min > self.max:
            raise ValueError(f"`min` must not exceed `max`: {self.min} > {self.max}")
        return self

    def spread(self, count: int) -> list[int]:
        """Return the rows of each of `count` tables."""
        steps = max(1, count - 1)
        return [round(self.min * (self.max / self.min) ** (table / steps)) for table in range(count)]


class DeclaredTables(Section):
    """Tables that a plan is made for without a data set. Each is looked up by one feature of its own name."""

    num_embeddings: Annotated[int, Field(ge=1)] | list[Annotated[int, Field(ge=1)]] | RowsRange
    """Rows of each table: one number for all, a list of one for each, or `{min: 1000, max: 1000000}` beside a
    `count` of two tables or more."""
    count: int | None = Field(default=None, ge=1)
    """Number of tables; default 1, or the length of a list of `num_embeddings`."""
    embedding_dim: EmbeddingDim | None = None
    """Columns, or `auto`; `tables.<glob>.embedding_dim` wins; default the model's."""
    pooling: Literal["sum", "mean", "none"] = "sum"
    """How a row's ids become one vector; `none` keeps the sequence."""
    pooling_factor: float = Field(default=1.0, gt=0, le=1_000_000)
    """Mean number of ids per row."""

    @model_validator(mode="after")
    def _as_many(self) -> DeclaredTables:
        listed = len(self.num_embeddings) if isinstance(self.num_embeddings, list) else None
        if listed == 0:
            raise ValueError("`num_embeddings` is an empty list")
        if listed is not None and self.count not in (None, listed):
            raise ValueError(f"`count` is {self.count}, but `num_embeddings` lists {listed} tables")
        if isinstance(self.num_embeddings, RowsRange) and self.count in (None, 1):
            raise ValueError("`num_embeddings` from `min` to `max` needs a `count` of two tables or more")
        return self

    def rows(self) -> list[int]:
        """Return the rows of each table."""
        if isinstance(self.num_embeddings, list):
            return list(self.num_embeddings)
        count = self.count or 1
        if isinstance(self.num_embeddings, int):
            return [self.num_embeddings] * count
        return self.num_embeddings.spread(count)


class PlanConfig(Section):
    """How the sharding plan is made."""

    tables: dict[str, DeclaredTables] = Field(default_factory=dict)
    """Tables that `shardrec plan` takes where no data set is named, by name. A `*` in the name becomes 1, 2,
    ... up to their number: `user_*: {count: 400, num_embeddings: 1000000}`. A config that declares tables
    may leave out `data` (but for `num_lanes`, which says how many ranks can train) and `features`; then it is
    good for planning alone."""
    num_dense: int = Field(default=0, ge=0)
    """Dense inputs of the model beside `plan.tables`."""
    hardware: HardwareConfig = HardwareConfig()
    """GPUs and machines for `plan --cluster`, beside and in place of those of the catalogue. Figures of the
    ranks' own GPU, or of `cpu`, count for `train` too; memory that a host tells of itself stays."""
    rows_per_epoch: int | None = Field(default=None, ge=1)
    """Training rows, for time and price of an epoch; default those of the data set."""

    sharding_types: list[ShardingType] | None = Field(default=None, min_length=1)
    """Sharding types for every table, for sequence tables those of them that they can have;
    `tables.<glob>.sharding_types` wins."""
    storage_reserve_share: float = Field(default=0.15, ge=0, lt=1)
    """Share of each rank's memory left free for the framework and for what the plan does not reckon with."""
    dense_efficiency: float = Field(default=0.4, gt=0, le=1)
    """Share of the hardware's peak that dense layers are taken to reach: a guess, for the estimated time."""
    timeout_seconds: int = Field(default=60, ge=1)
    """After this time no better plan is sought; the first one is, for as long as it takes."""
