"""Embedding tables: from plain descriptions to TorchRec's collections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from sharding.errors import UserError
from sharding.id_buckets import IdPolicy

Pooling = Literal["sum", "mean", "none"]
_DATA_TYPES = {"fp32": DataType.FP32, "fp16": DataType.FP16, "bf16": DataType.BF16, "int8": DataType.INT8}


@dataclass(frozen=True)
class TableSpec:
    """One embedding table and how it is used.

    Attributes:
        name: table name; the same in plan, checkpoint and config globs.
        num_embeddings: rows.
        embedding_dim: columns.
        features: features that look it up.
        pooling: `none` keeps sequences (EmbeddingCollection), else EmbeddingBagCollection, which sums;
            `pooled_vectors` makes means of the sums.
        data_type: of the stored weights.
        pooling_factors: mean ids per row for each feature, for the planner.
        sharding_types: allowed sharding types; None for all.
        compute_kernels: allowed kernels; None for all.
        min_partition: least width of a column-wise shard.
        cache_load_factor: share of rows in HBM under `fused_uvm_caching`.
        learning_rate: of this table; None for the optimizer's.
        lookup_group: tables of different groups have kernel calls of their own; None is a group too.
        ids: how the ids of the data get its rows (`sharding.ids`); None where the ids are rows themselves.
        ranks: that it may live on, sorted; None for all.
        enforce_hbm: whether the UVM kernels keep weights and the first moment in HBM all the same.
        stochastic_rounding: whether GPU kernels round fp16 and bf16 by chance; None for FBGEMM's default.
        bounds_check_mode: what the kernels do about ids beyond the table; None for FBGEMM's default.
        weight_init_max: initial weights are uniform in (-m, m); None for 1 / sqrt(num_embeddings).
    """

    name: str
    num_embeddings: int
    embedding_dim: int
    features: tuple[str, ...]
    pooling: Pooling = "sum"
    data_type: str = "fp32"
    pooling_factors: tuple[float, ...] = ()
    sharding_types: tuple[str, ...] | None = None
    compute_kernels: tuple[str, ...] | None = None
    min_partition: int | None = None
    cache_load_factor: float | None = None
    learning_rate: float | None = None
    lookup_group: str | None = None
    ids: IdPolicy | None = None
    ranks: tuple[int, ...] | None = None
    enforce_hbm: bool | None = None
    stochastic_rounding: bool | None = None
    bounds_check_mode: str | None = None
    weight_init_max: float | None = None

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of the weights alone."""
        width = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}[self.data_type]
        return self.num_embeddings * self.embedding_dim * width


def build_collections(
    tables: Sequence[TableSpec], device: torch.device | str = "meta"
) -> tuple[EmbeddingBagCollection | None, EmbeddingCollection | None]:
    """Build the pooled and the sequence collection; either is None when no table needs it.

    Raises:
        UserError: two tables share a name, torch cannot hold a name, or sequence tables differ in
            `embedding_dim`.
    """
    names = [table.name for table in tables]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UserError("table names must be unique", where="tables", got=twice)
    # TorchRec keeps tables in an nn.ModuleDict, which takes neither dots nor its own attributes as keys.
    taken = [name for name in names if not name or "." in name or hasattr(nn.ModuleDict, name)]
    if taken:
        raise UserError(
            "torch cannot hold a table of this name",
            where="tables",
            got=taken,
            fixes=[f"name: {taken[0].replace('.', '_') or 'item'}_id in the feature's group"],
        )
    device = torch.device(device)
    pooled = [table for table in tables if table.pooling != "none"]
    sequence = [table for table in tables if table.pooling == "none"]
    dims = {table.embedding_dim for table in sequence}
    if len(dims) > 1:
        raise UserError(
            "tables of sequences (pooling: none) must share one embedding_dim",
            where=", ".join(f"tables.{table.name}" for table in sequence),
            got=sorted(dims),
        )
    bags = EmbeddingBagCollection(device=device, tables=[_bag(t) for t in pooled]) if pooled else None
    rows = EmbeddingCollection(device=device, tables=[_rows(t) for t in sequence]) if sequence else None
    return bags, rows


def pooled_vectors(
    pooled: KeyedTensor, ids: KeyedJaggedTensor, tables: Sequence[TableSpec]
) -> dict[str, Tensor]:
    """Return the pooled embeddings by feature, those of `mean` tables divided by the number of ids.

    Args:
        pooled: output of the EmbeddingBagCollection, sharded or not.
        ids: what was looked up.
        tables: the tables of the model.

    Returns:
        fp32 [B, D] for each feature; zeros where a row has no id.
    """
    vectors = dict(KeyedTensor(pooled.keys(), pooled.length_per_key(), pooled.values().float()).to_dict())
    for table in tables:
        for feature in table.features if table.pooling == "mean" else ():
            lengths_B = ids[feature].lengths()
            vectors[feature] = vectors[feature] / lengths_B.clamp(min=1).unsqueeze(1)
    return vectors


def sequence_vectors(sequence: JaggedTensor) -> JaggedTensor:
    """Return the vectors of a sequence feature, one for each id, in fp32 whatever the kernels look up."""
    values = sequence.values()
    if values.dtype == torch.float32:
        return sequence
    return JaggedTensor(values.float(), lengths=sequence.lengths())


def _bag(table: TableSpec) -> EmbeddingBagConfig:
    return EmbeddingBagConfig(
        name=table.name,
        num_embeddings=table.num_embeddings,
        embedding_dim=table.embedding_dim,
        feature_names=list(table.features),
        # A mean too is looked up as a sum. TorchRec averages inside the kernel under table_wise, after the
        # exchange under row_wise and not at all (1.8) under grid_shard: losses would depend on the plan.
        pooling=PoolingType.SUM,
        data_type=_DATA_TYPES[table.data_type],
        init_fn=None,
    )


def _rows(table: TableSpec) -> EmbeddingConfig:
    return EmbeddingConfig(
        name=table.name,
        num_embeddings=table.num_embeddings,
        embedding_dim=table.embedding_dim,
        feature_names=list(table.features),
        data_type=_DATA_TYPES[table.data_type],
    )
