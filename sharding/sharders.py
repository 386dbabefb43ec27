"""Which sharding types and kernels there are for a table on a device, and the sharders that offer them.

TorchRec's own EmbeddingBagCollection sharder holds back the row-wise types on CPU although FBGEMM's CPU
kernels carry them; the subclass here offers them. That of EmbeddingCollection offers data_parallel there
although FBGEMM's kernel fails; `sharding.sequences` has one that does not. Everything else is TorchRec's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.types import ModuleSharder, ParameterSharding, ShardingEnv
from torchrec.modules.embedding_modules import EmbeddingCollection

from sharding.communication import FULL_PRECISION, TableCommunication
from sharding.errors import PlanError
from sharding.optimizers import ADAM_FAMILY
from sharding.sequences import ShardedSequences
from sharding.tables import TableSpec

Device = Literal["cuda", "cpu"]
SHARDING_TYPES = (
    "data_parallel",
    "table_wise",
    "row_wise",
    "column_wise",
    "table_row_wise",
    "table_column_wise",
    "grid_shard",
)
COLUMN_SPLITS = frozenset({"column_wise", "table_column_wise", "grid_shard"})
"""Types that may split a row over shards."""
HOST_TYPES = frozenset({"table_row_wise", "table_column_wise", "grid_shard"})
"""Types that keep a table, or a column block of it, inside one host."""
SEQUENCE_TYPES = ("data_parallel", "table_wise", "row_wise", "column_wise")
"""Types of sequence tables."""
_FUSED_KERNELS: dict[Device, tuple[str, ...]] = {
    "cpu": ("fused",),
    "cuda": ("fused", "fused_uvm", "fused_uvm_caching", "key_value"),
}
_DATA_TYPES: dict[Device, tuple[str, ...]] = {"cpu": ("fp32", "fp16"), "cuda": ("fp32", "fp16", "bf16")}
_FUSED_OPTIMIZERS: dict[Device, tuple[str, ...]] = {
    "cpu": ("rowwise_adagrad", "adagrad", "sgd"),
    "cuda": ("rowwise_adagrad", "adagrad", "sgd", *ADAM_FAMILY, "lamb"),
}
# Rows without a gradient stay as they are, as those that no id of the batch touched do in the fused kernels.
_DATA_PARALLEL_OPTIMIZERS = ("rowwise_adagrad", "adagrad", "sgd", *ADAM_FAMILY)
_OPTIMIZERS: dict[Device, tuple[str, ...]] = {
    device: tuple(dict.fromkeys((*fused, *_DATA_PARALLEL_OPTIMIZERS)))
    for device, fused in _FUSED_OPTIMIZERS.items()
}


class PooledSharder(EmbeddingBagCollectionSharder):
    """EmbeddingBagCollection sharder that offers, on CPU too, every type the kernels carry."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Return all seven types, whatever the device."""
        assert compute_device_type in ("cpu", "cuda")
        return list(SHARDING_TYPES)

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """Return `dense` for data_parallel, else the fused kernels of the device."""
        return _kernels(sharding_type, compute_device_type)


class SequenceSharder(EmbeddingCollectionSharder):
    """EmbeddingCollection sharder whose data_parallel tables work on CPU too."""

    def shard(
        self,
        module: EmbeddingCollection,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> ShardedSequences:
        """Return the sharded collection."""
        return ShardedSequences(
            module,
            params,
            env,
            self.fused_params,
            device,
            qcomm_codecs_registry=self.qcomm_codecs_registry,
            use_index_dedup=self._use_index_dedup,
            module_fqn=module_fqn,
        )

    @property
    def sharded_module_type(self) -> type[ShardedSequences]:
        """Return what `shard` makes."""
        return ShardedSequences

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Return the four types of sequences, whatever the device."""
        assert compute_device_type in ("cpu", "cuda")
        return list(SEQUENCE_TYPES)

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """Return `dense` for data_parallel, else the fused kernels of the device."""
        return _kernels(sharding_type, compute_device_type)


def _kernels(sharding_type: str, device: str) -> list[str]:
    if sharding_type == "data_parallel":
        return ["dense"]
    return list(_FUSED_KERNELS["cpu" if device == "cpu" else "cuda"])


def sharders(communication: TableCommunication = FULL_PRECISION) -> list[ModuleSharder]:
    """Return the sharders that planning and training share.

    Args:
        communication: precision in which embeddings travel.
    """
    codecs = communication.codecs()
    return [PooledSharder(qcomm_codecs_registry=codecs), SequenceSharder(qcomm_codecs_registry=codecs)]


def sharding_types_of(table: TableSpec, optimizer: str, device: Device) -> tuple[str, ...]:
    """Return the sharding types that a table can have with an embedding optimizer on a device.

    Where the device has no fused kernel of the optimizer, every rank keeps a copy: `data_parallel`.
    """
    types: tuple[str, ...] = SEQUENCE_TYPES if table.pooling == "none" else SHARDING_TYPES
    fused, copied = optimizer in _FUSED_OPTIMIZERS[device], optimizer in _DATA_PARALLEL_OPTIMIZERS
    return tuple(kind for kind in types if (copied if kind == "data_parallel" else fused))


def kernels_of(sharding_types: Sequence[str], device: Device) -> tuple[str, ...]:
    """Return the kernels that any of the sharding types has on a device."""
    kernels = _FUSED_KERNELS[device] if any(kind != "data_parallel" for kind in sharding_types) else ()
    return (*kernels, "dense") if "data_parallel" in sharding_types else kernels


def check_optimizer(name: str, device: Device, weight_decay: float = 0.0) -> None:
    """Refuse an embedding optimizer that the kernels of a device do not have.

    Raises:
        PlanError: unknown optimizer, not offered on the device, or weight decay that it would ignore or
            take for another.
    """
    where = "train.embedding_optimizer"
    if name not in _OPTIMIZERS[device]:
        on_gpu = name in _OPTIMIZERS["cuda"]
        raise PlanError(
            f"the embedding optimizer is not offered on {device}",
            where=f"{where}.name",
            got=name,
            allowed=_OPTIMIZERS[device],
            fixes=[f"--set {where}.name=rowwise_adagrad"] + (["train on GPUs"] if on_gpu else []),
        )
    if not weight_decay:
        return
    # FBGEMM's SGD and Adagrad ignore it; its CPU row-wise Adagrad applies it to some tables only. Its Adam
    # keeps it apart from the gradient.
    what, instead = f"the fused {name} kernel on {device} has no weight decay", "rowwise_adagrad"
    if name == "adam":
        what, instead = "weight decay that is no part of the gradient makes adam an adamw", "adamw"
    elif name in (*ADAM_FAMILY, "lamb") or (device == "cuda" and name == "rowwise_adagrad"):
        return
    raise PlanError(
        what,
        where=f"{where}.weight_decay",
        got=weight_decay,
        allowed=0,
        fixes=[
            f"--set {where}.weight_decay=0 and --set train.embedding_l2={weight_decay}",
            "train on GPUs"
            if device == "cpu" and name == "rowwise_adagrad"
            else f"--set {where}.name={'adamw' if device == 'cpu' else instead}",
        ],
    )


def check_tables(tables: Sequence[TableSpec], device: Device, optimizer: str) -> None:
    """Refuse table settings that no kernel of the device meets.

    Raises:
        PlanError: names the table, what it asked for, and what there is.
    """
    check_optimizer(optimizer, device)
    for table in tables:
        offered = sharding_types_of(table, optimizer, device)
        kind = "sequence" if table.pooling == "none" else "pooled"
        place = f"{kind} tables on {device} with {optimizer}"
        _check_known(table, "sharding_types", table.sharding_types, offered, place)
        allowed = [t for t in offered if table.sharding_types is None or t in table.sharding_types]
        _check_known(table, "compute_kernels", table.compute_kernels, kernels_of(allowed, device), place)
        if table.data_type not in _DATA_TYPES[device]:
            raise PlanError(
                f"the data type is not offered for {place}",
                where=f"tables.{table.name}.data_type",
                got=table.data_type,
                allowed=_DATA_TYPES[device],
                fixes=[f"--set tables.{table.name}.data_type=fp16"],
            )
        _check_shape(table)


def _check_known(
    table: TableSpec, key: str, asked: tuple[str, ...] | None, offered: Sequence[str], place: str
) -> None:
    if asked is None:
        return
    unknown = [name for name in asked if name not in offered]
    if unknown or not asked:
        raise PlanError(
            f"not offered for {place}",
            where=f"tables.{table.name}.{key}",
            got=", ".join(unknown) or "an empty list",
            allowed=offered,
        )


def _check_shape(table: TableSpec) -> None:
    width = table.min_partition
    if width is not None and (table.embedding_dim % width or width % 4):
        raise PlanError(
            "the width of a column shard must divide embedding_dim and be a multiple of 4",
            where=f"tables.{table.name}.min_partition",
            got=width,
            allowed=[w for w in range(4, table.embedding_dim + 1, 4) if table.embedding_dim % w == 0],
        )
    if table.embedding_dim % 4:
        raise PlanError(
            "FBGEMM's kernels need a multiple of 4",
            where=f"tables.{table.name}.embedding_dim",
            got=table.embedding_dim,
            allowed=sorted({table.embedding_dim // 4 * 4 or 4, table.embedding_dim // 4 * 4 + 4}),
        )
    if table.pooling_factors and len(table.pooling_factors) != len(table.features):
        raise PlanError(
            "one pooling factor for each feature of the table",
            where=f"tables.{table.name}.pooling_factors",
            got=len(table.pooling_factors),
            allowed=len(table.features),
        )
