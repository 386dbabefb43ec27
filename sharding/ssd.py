"""Bytes of the SSD kernel `key_value`, which TorchRec's estimate leaves out for the most part.

FBGEMM keeps the weights in RocksDB, a cache of rows and all optimizer state in HBM, and in host memory two
buffers as large as the cache for rows that leave it. RocksDB's own write buffers are not counted: they follow
its settings, by default up to 4 x 2 GiB for each `embedding_dim` and data type on a rank.

Plans alone use it. The Python side of the kernel is in every FBGEMM package, but its operators are not: the
CPU and CUDA wheels of fbgemm-gpu 1.8.0 have no `EmbeddingRocksDBWrapper`, no `KVTensorWrapper` and no
`ssd_cache_populate_actions`, and its build files for open source leave their sources out.

Source: `SSDTableBatchedEmbeddingBags.__init__` and `ssd_state_splits` of fbgemm_gpu,
`_populate_ssd_tbe_params` of torchrec.distributed, and pytorch/FBGEMM issue 5666 on what is published.
"""

from __future__ import annotations

from dataclasses import dataclass

from sharding.errors import PlanError
from sharding.tables import TableSpec

KEY_VALUE = "key_value"
OPTIMIZERS = ("rowwise_adagrad", "partial_rowwise_adam", "adam", "adamw")
DATA_TYPES = ("fp32", "fp16")
# Slots of a cache set, and share of the rows where the config names none.
_ASSOCIATIVITY, _LOAD_FACTOR = 32, 0.2
# Beside a slot's row: two 8-byte words in HBM, and for each buffer of leaving rows 8 + 4 bytes.
_SLOT_BYTES, _LEAVING_BYTES, _BUFFERS = 16, 12, 2


@dataclass(frozen=True)
class KeyValueBytes:
    """What a shard takes under `key_value`.

    Attributes:
        cache: of HBM.
        buffers: of host memory.
    """

    cache: int
    buffers: int


def key_value_bytes(table: TableSpec, rows: int, columns: int, row_bytes: int) -> KeyValueBytes:
    """Return the bytes of a shard's cache and buffers.

    Args:
        table: with its cache load factor.
        rows: of the shard.
        columns: of the shard.
        row_bytes: of one row of the shard.
    """
    if not rows * columns:
        return KeyValueBytes(0, 0)
    sets = max(1, int((table.cache_load_factor or _LOAD_FACTOR) * rows / _ASSOCIATIVITY))
    slots = sets * _ASSOCIATIVITY
    return KeyValueBytes(slots * (row_bytes + _SLOT_BYTES), _BUFFERS * slots * (row_bytes + _LEAVING_BYTES))


def uses_ssd(table: TableSpec) -> bool:
    """Return whether the config lets a table live on SSD."""
    return KEY_VALUE in (table.compute_kernels or ())


def can_use_ssd(table: TableSpec, optimizer: str) -> bool:
    """Return whether the kernel takes a table's data type and the optimizer."""
    return table.data_type in DATA_TYPES and optimizer in OPTIMIZERS


def check_key_value(table: TableSpec, optimizer: str, ssd_gib: float) -> None:
    """Refuse `key_value` where the kernel or the machine does not carry it.

    Raises:
        PlanError: another data type or optimizer, or ranks without SSD.
    """
    if not uses_ssd(table):
        return
    where = f"tables.{table.name}"
    if optimizer not in OPTIMIZERS:
        raise PlanError(
            "the SSD kernel key_value has no such optimizer",
            where=f"{where}.compute_kernels",
            got=optimizer,
            allowed=OPTIMIZERS,
            fixes=["train.embedding_optimizer.name: rowwise_adagrad", "leave key_value out"],
        )
    if table.data_type not in DATA_TYPES:
        raise PlanError(
            "the SSD kernel key_value has no such data type",
            where=f"{where}.data_type",
            got=table.data_type,
            allowed=DATA_TYPES,
            fixes=[f"{where}.data_type: fp16", "leave key_value out of its compute_kernels"],
        )
    if not ssd_gib:
        raise PlanError(
            "the ranks of the cluster have no SSD for key_value",
            where=f"{where}.compute_kernels",
            got="ssd_gib 0",
            fixes=["plan.hardware.gpus.<name>.ssd_gib, or machines.<name>.ssd_gib", "leave key_value out"],
        )
