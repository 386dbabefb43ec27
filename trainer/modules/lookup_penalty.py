"""L2 of the embeddings that a batch looks up, as part of the loss: for all optimizers, kernels, shardings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchrec.distributed.embedding import ShardedEmbeddingCollection
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.types import LazyAwaitable
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from sharding.tables import TableSpec, pooled_vectors, sequence_vectors
from trainer.modules.sequence_pooling import segment_rows, segment_sum

_POOLED = (EmbeddingBagCollection, ShardedEmbeddingBagCollection)
_SEQUENCES = (EmbeddingCollection, ShardedEmbeddingCollection)


class LookupPenalty(nn.Module):
    """`l2 / 2` times the sum of squares of the vectors that a row looks up, as a mean over the rows.

    Of a pooled list that is the pooled vector; of a sequence that is kept, the vector of each id. Rows of
    weight 0 count in the number of rows alone, as in the loss, so that the mean over ranks is that of the
    global batch at every world size. Vectors are taken as the collections return them, however they are
    sharded and pipelined.

    Args:
        l2: weight; 0 does nothing.
    """

    def __init__(self, l2: float) -> None:
        super().__init__()
        self.l2 = l2
        self._squares: list[Tensor] = []

    def watch(self, model: nn.Module, tables: Sequence[TableSpec]) -> None:
        """Look at what the collections of a model return from now on; call it once they are sharded.

        Args:
            model: with its tables.
            tables: of the model.
        """
        if not self.l2:
            return
        for module in model.modules():
            if isinstance(module, (*_POOLED, *_SEQUENCES)):
                module.register_forward_hook(_Seen(self._squares, tables))

    def forward(self, weights_B: Tensor) -> Tensor:
        """Return the penalty of the lookups since the last call, a float32 scalar.

        Args:
            weights_B: float32 [B], of the rows that were looked up.
        """
        counted_B = (weights_B > 0).float()
        total = sum(((squares_B * counted_B).sum() for squares_B in self._squares), weights_B.new_zeros(()))
        self._squares.clear()
        penalty: Tensor = self.l2 / 2 * total / max(1, len(weights_B))
        return penalty


class _Seen:
    """Takes the squares of what a collection returns: at once, or when a sharded one has exchanged it."""

    def __init__(self, squares: list[Tensor], tables: Sequence[TableSpec]) -> None:
        self._squares, self._tables = squares, tables

    def __call__(self, module: nn.Module, inputs: tuple[KeyedJaggedTensor], found: Any) -> None:
        if not module.training:
            return

        def take(vectors: Any) -> Any:
            self._squares.append(self._of(inputs[0], vectors))
            return vectors

        if isinstance(found, LazyAwaitable):
            found.callbacks.append(take)
        else:
            take(found)

    def _of(self, ids: KeyedJaggedTensor, vectors: KeyedTensor | dict[str, JaggedTensor]) -> Tensor:
        """Return the sum of squares of each row, [B]."""
        if isinstance(vectors, KeyedTensor):
            features = set(vectors.keys())
            tables = [table for table in self._tables if features.issuperset(table.features)]
            pooled = pooled_vectors(vectors, ids, tables).values()
            return sum((v_BD.square().sum(dim=1) for v_BD in pooled), ids.values().new_zeros(()).float())
        rows = []
        for sequence in map(sequence_vectors, vectors.values()):
            squares_N1 = sequence.values().square().sum(dim=1, keepdim=True)
            rows.append(segment_sum(squares_N1, segment_rows(sequence), sequence.lengths()).squeeze(1))
        return sum(rows[1:], rows[0])
