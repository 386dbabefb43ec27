"""Bytes: what tables and dense layers need on a rank, and what a rank has left for tables.

TorchRec's estimate is corrected where it is known to be low: FBGEMM keeps optimizer state in fp32 whatever
the data type of the weights, LAMB has two moments, and a data-parallel table also has a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torchrec.distributed.planner.shard_estimators import EmbeddingStorageEstimator
from torchrec.distributed.planner.types import ParameterConstraints, ShardingOption, Storage, Topology

from sharding.dense_part import DensePart
from sharding.ssd import KEY_VALUE, key_value_bytes
from sharding.tables import TableSpec
from sharding.topology import Cluster
from sharding.units import GIB

# The moments that FBGEMM keeps in fp32, in its order: of each element, or of each row of a shard.
_MOMENTS: dict[str, tuple[Literal["element", "row"], ...]] = {
    "sgd": (),
    "adagrad": ("element",),
    "rowwise_adagrad": ("row",),
    "partial_rowwise_adam": ("element", "row"),
    "adam": ("element", "element"),
    "adamw": ("element", "element"),
    "lamb": ("element", "element"),
}

# Id, count and step of a slot's owner and of a candidate, 8 bytes each: `sharding.id_buckets`.
_SLOT_BYTES = 48


def weight_bytes(table: TableSpec, rows: int, columns: int) -> int:
    """Return the bytes of the weights of a shard [rows, columns]."""
    per_element = table.weight_bytes // (table.num_embeddings * table.embedding_dim)
    return rows * columns * per_element


def optimizer_bytes(optimizer: str, rows: int, columns: int) -> int:
    """Return the bytes of optimizer state of a shard [rows, columns]."""
    moments = _MOMENTS[optimizer]
    return 4 * rows * (columns * moments.count("element") + moments.count("row"))


def row_state_bytes(optimizer: str, rows: int) -> int:
    """Return the bytes of optimizer state that is one number for each row of a shard.

    FBGEMM keeps it in HBM even where a UVM kernel has weights and all other state in host memory.

    Source: `construct_split_state` of fbgemm_gpu.
    """
    return 4 * rows * _MOMENTS[optimizer].count("row")


def host_state_bytes(table: TableSpec, kernel: str, optimizer: str, rows: int, columns: int) -> int:
    """Return the bytes of optimizer state of a shard [rows, columns] in the host memory of a GPU rank.

    FBGEMM obeys `enforce_hbm` for weights and first moment alone: the second stays in host memory.

    Source: `SplitTableBatchedEmbeddingBagsCodegen.__init__` of fbgemm_gpu.
    """
    if "uvm" not in kernel:
        return 0
    moments = _MOMENTS[optimizer][1:] if table.enforce_hbm else _MOMENTS[optimizer]
    return 4 * rows * columns * moments.count("element")


def gradient_bytes(table: TableSpec, sharding_type: str, rows: int, columns: int) -> int:
    """Return the bytes of a shard's dense gradient; the fused kernels have none."""
    return weight_bytes(table, rows, columns) if sharding_type == "data_parallel" else 0


def id_slot_bytes(tables: Sequence[TableSpec], ranks: int) -> int:
    """Return the bytes on a rank of the slots of ids that come and go, which all ranks share out."""
    return -(-sum(_SLOT_BYTES * table.num_embeddings for table in tables if table.ids is not None) // ranks)


def total_bytes(table: TableSpec, optimizer: str) -> int:
    """Return the bytes of the whole table, weights and optimizer state."""
    return table.weight_bytes + optimizer_bytes(optimizer, table.num_embeddings, table.embedding_dim)


@dataclass(frozen=True)
class MemoryBudget:
    """What a rank has for tables.

    Attributes:
        capacity_bytes: memory where tables live by default (HBM, or host memory on CPU).
        reserve_share: share of it that stays free for the framework and what nobody reckoned with.
        dense: the dense part of a rank, with its activations.
        id_slots: bytes of the slots of ids that come and go.
        left_bytes: what is left for tables and their buffers.
        host_left_bytes: host memory left for the UVM kernels of a GPU rank.
        ssd_left_bytes: SSD left for the kernel `key_value` of a GPU rank.
    """

    capacity_bytes: int
    reserve_share: float
    dense: DensePart
    left_bytes: int
    host_left_bytes: int
    ssd_left_bytes: int = 0
    id_slots: int = 0

    @property
    def dense_bytes(self) -> int:
        """Return the bytes of the dense part, with its activations."""
        return self.dense.total + self.dense.activations


def memory_budget(
    dense: DensePart, cluster: Cluster, reserve_share: float, id_slots: int = 0
) -> MemoryBudget:
    """Return what one rank has left beside its dense part and slots of ids; it may be a deficit."""
    capacity = int(cluster.rank_hardware.memory_gib * GIB)
    host = int(cluster.rank_hardware.host_memory_gib * GIB)
    left = int(capacity * (1 - reserve_share)) - dense.total - dense.activations - id_slots
    free = 1 - reserve_share
    ssd = int(cluster.rank_hardware.ssd_gib * GIB * free) if cluster.device == "cuda" else 0
    return MemoryBudget(capacity, reserve_share, dense, left, int(host * free), ssd, id_slots)


class TableStorageEstimator(EmbeddingStorageEstimator):
    """TorchRec's storage estimate, with our bytes for optimizer state and data-parallel gradients.

    The tables it sees must carry no optimizer of their own, else their state would count twice.
    """

    def __init__(
        self,
        topology: Topology,
        constraints: dict[str, ParameterConstraints],
        tables: Mapping[str, TableSpec],
        optimizer: str,
        **options: Any,
    ) -> None:
        super().__init__(topology=topology, constraints=constraints, **options)
        self._tables = tables
        self._optimizer = optimizer
        self._on_gpu = topology.compute_device == "cuda"

    def estimate(self, sharding_options: list[ShardingOption], *args: Any, **kwargs: Any) -> None:
        """Fill in `shard.storage` of every option."""
        super().estimate(sharding_options, *args, **kwargs)
        for option in sharding_options:
            assert not hasattr(option.tensor, "_optimizer_classes")
            for shard in option.shards:
                if option.compute_kernel == KEY_VALUE:
                    shard.storage = self._key_value(option, shard.size, shard.storage.hbm)
                else:
                    shard.storage = self._weights(option, shard.storage) + self._extra(option, shard.size)

    def _extra(self, option: ShardingOption, size: Sequence[int]) -> Storage:
        rows, columns = size
        table = self._tables[option.name]
        extra = optimizer_bytes(self._optimizer, rows, columns)
        extra += gradient_bytes(table, option.sharding_type, rows, columns)
        in_host = extra
        if self._on_gpu:
            in_host = host_state_bytes(table, option.compute_kernel, self._optimizer, rows, columns)
        return Storage(hbm=extra - in_host, ddr=in_host)

    def _key_value(self, option: ShardingOption, size: Sequence[int], in_and_out: int) -> Storage:
        """Return the bytes of a shard on SSD; of HBM TorchRec has counted what goes in and out alone."""
        rows, columns = size
        table = self._tables[option.name]
        weights = weight_bytes(table, rows, columns)
        held = key_value_bytes(table, rows, columns, weights // max(1, rows))
        state = optimizer_bytes(self._optimizer, rows, columns)
        return Storage(hbm=in_and_out + held.cache + state, ddr=held.buffers, ssd=weights)

    def _weights(self, option: ShardingOption, storage: Storage) -> Storage:
        """Return the bytes where `enforce_hbm` puts them: beside the cache, which there is all the same."""
        if not self._tables[option.name].enforce_hbm or "uvm" not in option.compute_kernel:
            return storage
        return Storage(hbm=storage.hbm + storage.ddr, ddr=0, ssd=storage.ssd)


Tier = Literal["hbm", "host", "ssd"]


def tiers(table: TableSpec) -> frozenset[Tier]:
    """Return where the kernels that a table may have keep its weights; `hbm` is host memory on CPU."""
    places: dict[str, Tier] = {KEY_VALUE: "ssd"}
    if not table.enforce_hbm:
        places |= {"fused_uvm": "host", "fused_uvm_caching": "host"}
    return frozenset(places.get(kernel, "hbm") for kernel in table.compute_kernels or ("fused",))


def least_bytes(tables: Sequence[TableSpec], optimizer: str) -> int:
    """Return the bytes that all tables need over all ranks, at the very least, where tables live by default.

    Of a table that may use a UVM kernel only state by row counts: the rest can leave HBM; on SSD all its
    optimizer state stays.
    Buffers and caches count nothing either, so that a sum above the capacity proves that no plan exists.
    """
    return sum(_least_in_hbm(table, optimizer) for table in tables)


def _least_in_hbm(table: TableSpec, optimizer: str) -> int:
    places = tiers(table)
    if "host" in places:
        return row_state_bytes(optimizer, table.num_embeddings)
    size = table.num_embeddings, table.embedding_dim
    least = _least_of_shard(table, optimizer, *size)
    return min(least, optimizer_bytes(optimizer, *size)) if "ssd" in places else least


def _least_of_shard(table: TableSpec, optimizer: str, rows: int, columns: int) -> int:
    """Return the least bytes in HBM of a shard whose weights stay there: state may leave all the same."""
    kernels = table.compute_kernels or ("fused",)
    leaves = max(host_state_bytes(table, kernel, optimizer, rows, columns) for kernel in kernels)
    return weight_bytes(table, rows, columns) + optimizer_bytes(optimizer, rows, columns) - leaves


def least_bytes_within(tables: Sequence[TableSpec], optimizer: str, within: frozenset[Tier]) -> int:
    """Return the least bytes of the tables that some kinds of memory must hold together."""
    return sum(_least_within(table, optimizer, within) for table in tables if tiers(table) <= within)


def _least_within(table: TableSpec, optimizer: str, within: frozenset[Tier]) -> int:
    if "ssd" in tiers(table):
        return table.weight_bytes
    if "host" not in within:
        return _least_in_hbm(table, optimizer)
    by_row = 0 if "hbm" in within else row_state_bytes(optimizer, table.num_embeddings)
    return total_bytes(table, optimizer) - by_row


def smallest_shard_bytes(
    table: TableSpec, sharding_types: Sequence[str], cluster: Cluster, optimizer: str
) -> int:
    """Return the size of the largest shard under the type that splits the table most finely."""
    if tiers(table) != {"hbm"}:
        return 0
    return min(
        _least_of_shard(table, optimizer, *shape)
        for shape in (_shard_shape(table, kind, cluster) for kind in sharding_types)
    )


def _shard_shape(table: TableSpec, sharding_type: str, cluster: Cluster) -> tuple[int, int]:
    rows, columns = table.num_embeddings, table.embedding_dim
    split_columns = table.min_partition or min(4, columns)
    by_host = -(-rows // cluster.local_world_size)
    return {
        "row_wise": (-(-rows // cluster.world_size), columns),
        "table_row_wise": (by_host, columns),
        "grid_shard": (by_host, split_columns),
        "column_wise": (rows, split_columns),
        "table_column_wise": (rows, split_columns),
    }.get(sharding_type, (rows, columns))
