"""Looking up all features by name, and ids that are no features of the data set."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from sharding.tables import build_collections
from trainer.modules.sparse_arch import looked_up
from trainer.registry import ModelInputs

Found = dict[str, Tensor | JaggedTensor]
"""By feature: pooled vectors [B, D], or those of the ids of a table with `pooling: none`, [ids, D]."""


class Lookup(nn.Module):
    """Looks up all features; the tables are on the meta device until they are sharded.

    Args:
        inputs: features and tables.
    """

    def __init__(self, inputs: ModelInputs) -> None:
        super().__init__()
        bags, rows = build_collections(inputs.tables)
        self.embedding_bag_collection = bags
        self.embedding_collection = rows
        self.tables = inputs.tables
        self.features = [feature for table in inputs.tables for feature in table.features]

    def forward(self, sparse: KeyedJaggedTensor, given: Mapping[str, JaggedTensor] | None = None) -> Found:
        """Return the vectors.

        Args:
            sparse: ids of the batch.
            given: ids of B rows by feature, in place of those of the batch or beside them; features of the
                tables that neither has are looked up with no ids.
        """
        ids = with_ids(sparse, given or {}, self.features)
        pooled = None if self.embedding_bag_collection is None else self.embedding_bag_collection(ids)
        kept = None if self.embedding_collection is None else self.embedding_collection(ids)
        vectors, sequences = looked_up(self.tables, ids, pooled, kept)
        return {**vectors, **sequences}


def with_ids(
    sparse: KeyedJaggedTensor, given: Mapping[str, JaggedTensor], features: list[str]
) -> KeyedJaggedTensor:
    """Return the ids of the features: those given, else those of the batch, else none.

    Args:
        sparse: of B rows.
        given: of B rows each.
        features: the keys of the result.
    """
    if not given and features == sparse.keys():
        return sparse
    have = sparse.to_dict() | dict(given)
    empty = torch.zeros(sparse.stride(), dtype=torch.int64, device=sparse.device())
    values = [have[name].values() for name in features if name in have]
    lengths = [have[name].lengths() if name in have else empty for name in features]
    return KeyedJaggedTensor(features, torch.cat(values), lengths=torch.cat(lengths))
