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
from trainer.modules.item_section import ItemFeatures
from trainer.modules.over_ranks import world
from trainer.modules.sequence_pooling import segment_rows, segment_sum

_POOLED = (EmbeddingBagCollection, ShardedEmbeddingBagCollection)
_SEQUENCES = (EmbeddingCollection, ShardedEmbeddingCollection)


class LookupPenalty(nn.Module):
    """`l2 / 2` times the sum of squares of the vectors that a row looks up, as a mean over the rows.

    Of a pooled list that is the pooled vector; of a sequence that is kept, the vector of each id. Rows of
    weight 0 count in the number of rows alone, as in the loss, so that the mean over ranks is that of the
    global batch at every world size. Items that a step looks up for all rows at once, such as `shared`
    negatives, count once a step. Vectors are taken as the collections return them, however they are sharded
    and pipelined.

    Args:
        l2: weight; 0 does nothing.

    Attributes:
        parts: batches of a step.
    """

    def __init__(self, l2: float) -> None:
        super().__init__()
        self.l2, self.parts = l2, 1
        self._squares: list[tuple[Tensor, Tensor]] = []

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
        counted_B, total = (weights_B > 0).float(), weights_B.new_zeros(())
        for squares_B, of_step in self._squares:
            total = total + (squares_B * counted_B).sum() + of_step / self.parts
        self._squares.clear()
        penalty: Tensor = self.l2 / 2 * total / max(1, len(weights_B))
        return penalty


class _Seen:
    """Takes the squares of what a collection returns: at once, or when a sharded one has exchanged it."""

    def __init__(self, squares: list[tuple[Tensor, Tensor]], tables: Sequence[TableSpec]) -> None:
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

    def _of(
        self, ids: KeyedJaggedTensor, vectors: KeyedTensor | dict[str, JaggedTensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of squares of each row, [B], and this rank's part of the step's, a scalar."""
        none = ids.values().new_zeros(()).float()
        if isinstance(vectors, KeyedTensor):
            features = set(vectors.keys())
            tables = [table for table in self._tables if features.issuperset(table.features)]
            pooled = pooled_vectors(vectors, ids, tables).values()
            return sum((v_BD.square().sum(dim=1) for v_BD in pooled), none), none
        of_rows, of_step = none.expand(ids.stride()), none
        for name, sequence in vectors.items():
            kept = sequence_vectors(sequence)
            squares_N1 = kept.values().square().sum(dim=1, keepdim=True)
            if ItemFeatures.is_of_step(name):
                copies = world()[1] if ItemFeatures.is_shared(name) else 1
                of_step = of_step + squares_N1.sum() / copies
            else:
                of_rows = of_rows + segment_sum(squares_N1, segment_rows(kept), kept.lengths()).squeeze(1)
        return of_rows, of_step
