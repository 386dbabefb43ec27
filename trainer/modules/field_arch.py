"""Every feature as a field of a factorization machine: a vector of width D and a first-order weight.

A sparse feature's table holds both: the last columns of a row belong to the first-order weight of its id, so
that one lookup, one shard and one optimizer state serve the two. Of a dense feature both are multiplied by
its value.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from sharding.tables import TableSpec, build_collections
from trainer.batch import Batch
from trainer.modules.sequence_pooling import MeanSequencePooling
from trainer.modules.sparse_arch import FeatureVectors, SparseModelSection, looked_up
from trainer.registry import ModelInputs

# One holds the weight. The CPU kernels want widths that are multiples of 4, so three stay as they are.
WEIGHT_COLUMNS = 4


class FieldModelSection(SparseModelSection):
    """Config keys of models with first-order weights, which stand in 4 further columns of a table."""

    def linear_features(self, inputs: ModelInputs) -> Collection[str]:
        """Return the features with a first-order weight."""
        return inputs.features

    def vector_features(self, inputs: ModelInputs) -> Collection[str]:
        """Return the features with a vector."""
        return inputs.features

    def completed(self, inputs: ModelInputs) -> ModelInputs:
        """Return the inputs with columns for first-order weights and vectors where each is used."""
        linear, vectors = self.linear_features(inputs), self.vector_features(inputs)

        def width(table: TableSpec) -> int:
            used = table.embedding_dim if _uses(table, vectors) else 0
            return used + (WEIGHT_COLUMNS if _uses(table, linear) else 0)

        tables = (replace(table, embedding_dim=width(table)) for table in inputs.tables)
        return replace(inputs, tables=tuple(tables))


def _uses(table: TableSpec, features: Collection[str]) -> bool:
    return any(feature in features for feature in table.features)


class FieldArch(nn.Module):
    """Looks up all features; the tables are on the meta device until they are sharded.

    Args:
        inputs: features and tables, as `FieldModelSection.completed` returns them.
        config: says which features have what; a sequence kept by `pooling: none` has the mean of its ids'
            first-order weights, and the vector that `sequence_pooling` makes.

    Attributes:
        num_fields: F = dense features, and sparse and sequence features with a vector.

    Source: Rendle 2010, Factorization Machines, equation 1: the terms w_0 + sum_i w_i x_i, and v_i x_i.
    """

    def __init__(self, inputs: ModelInputs, config: FieldModelSection) -> None:
        super().__init__()
        bags, rows = build_collections(inputs.tables)
        self.embedding_bag_collection = bags
        self.embedding_collection = rows
        self.vectors = _FieldVectors(inputs, config)
        dim = config.embedding_dim
        self.dense_fields = _DenseFields(inputs.num_dense, dim) if inputs.num_dense else None
        self.bias = nn.Parameter(torch.zeros(1))
        self.num_fields = inputs.num_dense + len(self.vectors.features)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the fields [B, F, D], dense ones first, and the first-order term [B, 1] in float32."""
        sparse = batch.sparse
        pooled = None if self.embedding_bag_collection is None else self.embedding_bag_collection(sparse)
        sequences = None if self.embedding_collection is None else self.embedding_collection(sparse)
        fields_BFD, linear_B1 = self.vectors(sparse, pooled, sequences)
        linear_B1 = linear_B1 + self.bias
        if self.dense_fields is None:
            return fields_BFD, linear_B1
        dense_BFD, dense_B1 = self.dense_fields(batch.dense_BF)
        return torch.cat([dense_BFD, fields_BFD], dim=1), linear_B1 + dense_B1


class _DenseFields(nn.Module):
    """Vectors v_i x_i [B, F, D] and the first-order sum of w_i x_i [B, 1] of the dense features."""

    def __init__(self, num_dense: int, embedding_dim: int) -> None:
        super().__init__()
        self.vectors_FD = nn.Parameter(torch.randn(num_dense, embedding_dim) / num_dense)
        self.weights = nn.Linear(num_dense, 1, bias=False)

    def forward(self, dense_BF: Tensor) -> tuple[Tensor, Tensor]:
        return dense_BF.unsqueeze(2) * self.vectors_FD, self.weights(dense_BF)


class _FieldVectors(nn.Module):
    """Vectors [B, F, D] and the first-order sum [B, 1] of the sparse features."""

    def __init__(self, inputs: ModelInputs, config: FieldModelSection) -> None:
        super().__init__()
        self.linear = [name for name in inputs.features if name in config.linear_features(inputs)]
        self.features = [name for name in inputs.features if name in config.vector_features(inputs)]
        self.tables = inputs.tables
        # Columns of each feature's table that belong to vectors: all but those of first-order weights.
        self.columns = {
            feature: table.embedding_dim - (WEIGHT_COLUMNS if _uses(table, self.linear) else 0)
            for table in inputs.tables
            for feature in table.features
        }
        tables = tuple(
            replace(table, embedding_dim=self.columns[table.features[0]], features=used)
            for table in inputs.tables
            if (used := tuple(name for name in table.features if name in self.features))
        )
        vectors_alone = replace(inputs, features=tuple(self.features), tables=tables)
        self.vectors = FeatureVectors(vectors_alone, config.sequence_pooling, config.embedding_dim)
        self.mean = MeanSequencePooling()

    def forward(
        self,
        sparse: KeyedJaggedTensor,
        pooled: KeyedTensor | None,
        sequences: dict[str, JaggedTensor] | None,
    ) -> tuple[Tensor, Tensor]:
        found, kept = looked_up(self.tables, sparse, pooled, sequences)
        weights = {name: found[name][:, self._weight(name)] for name in self.linear if name in found}
        for name in self.linear:
            if name in kept:
                weights[name] = self.mean(_columns(kept[name], self._weight(name)))
        linear_B1 = torch.cat(list(weights.values()), dim=1).sum(dim=1, keepdim=True)
        fields_BFD = self.vectors.joined(
            {name: found[name][:, self._vector(name)] for name in self.features if name in found},
            {name: _columns(kept[name], self._vector(name)) for name in self.features if name in kept},
        )
        return fields_BFD, linear_B1

    def _vector(self, feature: str) -> slice:
        return slice(0, self.columns[feature])

    def _weight(self, feature: str) -> slice:
        return slice(self.columns[feature], self.columns[feature] + 1)


def _columns(sequence: JaggedTensor, columns: slice) -> JaggedTensor:
    return JaggedTensor(sequence.values()[:, columns], lengths=sequence.lengths())
