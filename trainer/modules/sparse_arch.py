"""The sparse arch: embedding tables and the vectors that they give, one per feature in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from sharding.tables import TableSpec, build_collections, pooled_vectors, sequence_vectors
from trainer.modules.sequence_pooling import SequencePooling, sequence_pooling
from trainer.registry import ModelInputs, ModelSection


class SparseModelSection(ModelSection):
    """Config keys of models that look up embedding tables."""

    sequence_pooling: SequencePooling = "attention"
    """How a sequence kept by `pooling: none` becomes one vector: by learned `attention` or the `mean`."""


class SparseArch(nn.Module):
    """Looks up all sparse and sequence features; the tables are on the meta device until they are sharded.

    Both collections take the whole KeyedJaggedTensor: TorchRec picks each one's features by name, sharded or
    not. The collections are plain attributes and `forward` only calls modules, so that
    DistributedModelParallel can replace them and TrainPipelineSparseDist can trace its way to them.

    Args:
        inputs: features and tables.
        pooling: of sequences whose table keeps them (`pooling: none`). Features that share a table share the
            attention too; a feature of one id beside them gets that id's embedding as it is.
        embedding_dim: one width D for all features: a feature whose table has another width gets a linear
            map to D (without bias). None leaves every feature its own width.
        vectors: makes the vectors of what is looked up, in place of `pooling` and `embedding_dim`.

    Attributes:
        num_features: F.
        out_dims: width of each feature's vector, in the order of `inputs.features`.
    """

    def __init__(
        self,
        inputs: ModelInputs,
        pooling: SequencePooling = "attention",
        embedding_dim: int | None = None,
        vectors: FeatureVectors | None = None,
    ) -> None:
        super().__init__()
        bags, rows = build_collections(inputs.tables)
        self.embedding_bag_collection = bags
        self.embedding_collection = rows
        self.vectors = FeatureVectors(inputs, pooling, embedding_dim) if vectors is None else vectors
        self.num_features = len(inputs.features)
        self.out_dims = self.vectors.out_dims

    def forward(self, sparse: KeyedJaggedTensor) -> Tensor:
        """Return one vector per feature and row.

        Args:
            sparse: ids; its keys may be in any order and may hold further features.

        Returns:
            [B, F, D] where `embedding_dim` was given, else [B, sum of the tables' widths].
        """
        pooled = None if self.embedding_bag_collection is None else self.embedding_bag_collection(sparse)
        sequences = None if self.embedding_collection is None else self.embedding_collection(sparse)
        vectors: Tensor = self.vectors(sparse, pooled, sequences)
        return vectors


def looked_up(
    tables: Sequence[TableSpec],
    sparse: KeyedJaggedTensor,
    pooled: KeyedTensor | None,
    sequences: dict[str, JaggedTensor] | None,
) -> tuple[dict[str, Tensor], dict[str, JaggedTensor]]:
    """Return what the collections found, by feature.

    Args:
        tables: the tables of the model.
        sparse: ids that were looked up.
        pooled: output of the EmbeddingBagCollection, or None without one.
        sequences: output of the EmbeddingCollection, or None without one.

    Returns:
        Pooled vectors, fp32 [B, table's width], and those of kept sequences, fp32 [ids, table's width].
    """
    found = {} if pooled is None else pooled_vectors(pooled, sparse, tables)
    return found, {name: sequence_vectors(ids) for name, ids in (sequences or {}).items()}


class FeatureVectors(nn.Module):
    """Puts the collections' outputs in the order of the features, by name.

    The order of `KeyedTensor.values()` is of no use: a sharded EmbeddingBagCollection reorders it by shard.

    Args:
        inputs: features, in the wanted order, and tables.
        pooling: how sequences become vectors.
        embedding_dim: see `SparseArch`.
    """

    def __init__(self, inputs: ModelInputs, pooling: SequencePooling, embedding_dim: int | None) -> None:
        super().__init__()
        self.features, self.tables = inputs.features, inputs.tables
        self.embedding_dim = embedding_dim
        table_of = {feature: table for table in inputs.tables for feature in table.features}
        dims = [table_of[feature].embedding_dim for feature in inputs.features]
        self.out_dims = tuple(embedding_dim or dim for dim in dims)
        # Lists rather than ModuleDicts: the name of a feature may hold a dot, a module's may not.
        kept = [table for table in inputs.tables if table.pooling == "none"]
        self.sequence_poolings = nn.ModuleList(sequence_pooling(pooling, t.embedding_dim) for t in kept)
        self.pooling_of = {feature: index for index, table in enumerate(kept) for feature in table.features}
        self.projections = nn.ModuleList(
            nn.Identity() if width == dim else nn.Linear(dim, width, bias=False)
            for dim, width in zip(dims, self.out_dims, strict=True)
        )

    def forward(
        self,
        sparse: KeyedJaggedTensor,
        pooled: KeyedTensor | None,
        sequences: dict[str, JaggedTensor] | None,
    ) -> Tensor:
        """Return the vectors side by side.

        Args:
            sparse: ids that were looked up.
            pooled: output of the EmbeddingBagCollection, or None without one.
            sequences: output of the EmbeddingCollection, or None without one.

        Returns:
            [B, F, D] where `embedding_dim` was given, else [B, sum of the tables' widths].
        """
        return self.joined(*looked_up(self.tables, sparse, pooled, sequences))

    def joined(self, found: dict[str, Tensor], sequences: dict[str, JaggedTensor]) -> Tensor:
        """Pool the sequences and return all vectors side by side, as `forward` does.

        Args:
            found: pooled vectors [B, table's width] by feature.
            sequences: those of the other features, [ids of all rows, table's width].
        """
        for name, sequence in sequences.items():
            found[name] = self.sequence_poolings[self.pooling_of[name]](sequence)
        vectors = [
            projection(found[name]) for name, projection in zip(self.features, self.projections, strict=True)
        ]
        joined = torch.cat(vectors, dim=1)
        if self.embedding_dim is None:
            return joined
        return joined.reshape(-1, len(self.features), self.embedding_dim)
