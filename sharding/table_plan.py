"""Where one table lives: a record of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.distributed._shard.metadata import ShardMetadata
from torchrec.distributed.types import BoundsCheckMode, CacheParams, EnumerableShardingSpec, ParameterSharding
from torchrec.modules.embedding_configs import DataType

from sharding.ssd import KEY_VALUE
from sharding.tables import TableSpec

_COMPARED = (
    "num_embeddings",
    "embedding_dim",
    "data_type",
    "pooling",
    "sharding_type",
    "compute_kernel",
    "cache_load_factor",
    "enforce_hbm",
    "stochastic_rounding",
    "bounds_check_mode",
    "ranks",
)


@dataclass(frozen=True)
class Shard:
    """A block of a table on one rank."""

    rank: int
    row: int
    column: int
    rows: int
    columns: int


@dataclass(frozen=True)
class TablePlan:
    """Where one table lives.

    Attributes:
        name: table name.
        module: path of its collection in the model that was planned.
        num_embeddings: rows.
        embedding_dim: columns.
        data_type: of the weights.
        pooling: `sum`, `mean` or `none`.
        sharding_type: TorchRec's name.
        compute_kernel: TorchRec's name.
        cache_load_factor: share of the rows in HBM under `fused_uvm_caching` and `key_value`.
        shards: one for each block; a data-parallel table has a whole one on every rank.
        weight_bytes: over all ranks.
        optimizer_bytes: over all ranks.
        relative_ms: estimated time of the slowest shard, forward and backward.
        enforce_hbm: whether the UVM kernels keep weights and the first moment in HBM all the same.
        stochastic_rounding: whether GPU kernels round by chance; None for FBGEMM's default.
        bounds_check_mode: `fatal`, `warning` or `ignore` ids beyond the table; None for FBGEMM's default.
    """

    name: str
    module: str
    num_embeddings: int
    embedding_dim: int
    data_type: str
    pooling: str
    sharding_type: str
    compute_kernel: str
    cache_load_factor: float | None
    shards: tuple[Shard, ...]
    weight_bytes: int
    optimizer_bytes: int
    relative_ms: float
    enforce_hbm: bool | None = None
    stochastic_rounding: bool | None = None
    bounds_check_mode: str | None = None

    @property
    def ranks(self) -> tuple[int, ...]:
        """Return the ranks that hold rows, in order, each once."""
        return tuple(sorted({shard.rank for shard in self.shards if shard.rows}))

    def as_record(self) -> dict[str, Any]:
        """Return JSON-able values; a shard is `[rank, row, column, rows, columns]`."""
        record = asdict(self)
        record["ranks"] = list(self.ranks)
        # Last, because a row-wise table has one for each rank.
        record["shards"] = [list(shard.values()) for shard in record.pop("shards")]
        return record

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> TablePlan:
        """Return the table that `as_record` described.

        Raises:
            ValueError: the shards do not cover the table, or lie on other ranks than it says.
        """
        values = {key: value for key, value in record.items() if key != "ranks"}
        table = cls(**{**values, "shards": tuple(Shard(*block) for block in record["shards"])})
        copies = len(table.shards) if table.sharding_type == "data_parallel" else 1
        covered = sum(shard.rows * shard.columns for shard in table.shards)
        if not covered or covered != copies * table.num_embeddings * table.embedding_dim:
            raise ValueError(f"the shards of table {table.name} do not cover it")
        if list(table.ranks) != record.get("ranks", list(table.ranks)):
            raise ValueError(f"the ranks of table {table.name} are not those of its shards, which count")
        return table

    def differences(self, other: TablePlan) -> list[str]:
        """Return each thing in which another plan of the table differs, without the table's name."""
        lines = []
        for key in _COMPARED:
            a, b = getattr(self, key), getattr(other, key)
            if a != b:
                shown = (rank_range(a), rank_range(b)) if key == "ranks" else (a, b)
                lines.append(f"{key} {shown[0]} -> {shown[1]}")
        if not lines and self.shards != other.shards:
            lines.append("the same ranks hold other blocks")
        return lines

    def against(self, table: TableSpec) -> list[str]:
        """Return one line for each thing that the table's own constraints do not allow."""
        lines = []
        pairs = (
            ("sharding_type", self.sharding_type, table.sharding_types),
            ("compute_kernel", self.compute_kernel, table.compute_kernels),
        )
        for key, planned, allowed in pairs:
            if allowed is not None and planned not in allowed:
                lines.append(f"table {self.name}: {key} {planned} (allowed: {', '.join(allowed)})")
        if table.ranks is not None and not set(self.ranks) <= set(table.ranks):
            lines.append(
                f"table {self.name}: ranks {rank_range(self.ranks)} (allowed: {rank_range(table.ranks)})"
            )
        return lines

    def parameter_sharding(
        self,
        device: str,
        local_world_size: int,
        first_rank: int = 0,
        output_type: DataType | None = None,
    ) -> ParameterSharding:
        """Return TorchRec's form of the table's plan, on ranks from `first_rank` on."""
        spec = None
        if self.sharding_type != "data_parallel":
            blocks = [
                ShardMetadata(
                    shard_offsets=[shard.row, shard.column],
                    shard_sizes=[shard.rows, shard.columns],
                    placement=_placement(first_rank + shard.rank, device, local_world_size),
                )
                for shard in self.shards
            ]
            spec = EnumerableShardingSpec(blocks)
        cached = self.compute_kernel in ("fused_uvm_caching", KEY_VALUE)
        return ParameterSharding(
            sharding_type=self.sharding_type,
            compute_kernel=self.compute_kernel,
            ranks=[first_rank + shard.rank for shard in self.shards],
            sharding_spec=spec,
            cache_params=CacheParams(load_factor=self.cache_load_factor) if cached else None,
            enforce_hbm=self.enforce_hbm,
            stochastic_rounding=self.stochastic_rounding,
            output_dtype=output_type,
            bounds_check_mode=None
            if self.bounds_check_mode is None
            else BoundsCheckMode[self.bounds_check_mode.upper()],
        )


def _placement(rank: int, device: str, local_world_size: int) -> str:
    place = torch.device("cuda", rank % local_world_size) if device == "cuda" else torch.device("cpu")
    return f"rank:{rank}/{place}"


def rank_range(ranks: Sequence[int]) -> str:
    """Write sorted ranks briefly: `0..7, 12`."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in runs) or "none"
