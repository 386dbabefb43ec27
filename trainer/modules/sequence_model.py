"""Models that see the items of a row in their order and say which comes next."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from trainer.batch import Batch
from trainer.errors import ConfigError
from trainer.modules.by_length import encoded
from trainer.modules.item_lists import ages, chosen, newest, places, with_last
from trainer.modules.item_model import Examples, ItemModel
from trainer.modules.item_section import ItemModelSection
from trainer.modules.lookup import Found
from trainer.modules.sequence_pooling import segment_rows
from trainer.registry import ModelInputs


class SequenceModelSection(ItemModelSection):
    """Config keys of models of sequences."""

    needs: ClassVar[str] = "a list of each user's items, kept by `pooling: none`"
    history: str | None = None
    """Sequence with the row's items, oldest first. Default: the only list of the items' table."""
    max_length: int = Field(default=200, ge=1)
    """Of a longer history the newest items count."""
    positions: Literal["all", "last"] = "all"
    """Which items of a row are to be found in training: each by those before it, or only the last."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Share of the units of a layer dropped in training."""

    def item_feature(self, inputs: ModelInputs) -> str:
        """Return the feature that names the items' table.

        Raises:
            ConfigError: there is none, or more than one.
        """
        if not any(table.pooling == "none" and inputs.lists & {*table.features} for table in inputs.tables):
            raise ConfigError(
                "the model needs a list of each row's items, kept in their order",
                where="features.sequence",
                got="no sequence with `pooling: none`",
                fixes=["rows of users: data.user_rows", "a sequence with `history` and `pooling: none`"],
            )
        if self.item is None and self.history in inputs.lists:
            table = inputs.table_of(self.history)
            single = [name for name in table.features if name in inputs.features and name not in inputs.lists]
            return (single or [self.history])[0]
        return super().item_feature(inputs)

    def history_feature(self, inputs: ModelInputs) -> str:
        """Return the list with a row's items.

        Raises:
            ConfigError: there is none, or more than one.
        """
        table = inputs.table_of(self.item_feature(inputs))
        lists = [name for name in table.features if name in inputs.lists]
        if self.history in lists or (self.history is None and len(lists) == 1):
            return self.history or lists[0]
        raise ConfigError(
            "the model needs to know which list holds the items of a row; it shares the items' table",
            where="model.history",
            got=self.history,
            allowed=lists,
            fixes=[f"model.history: {name}" for name in lists]
            or [f"give a sequence `table: {table.name}` and `pooling: none`"],
        )

    def queries_per_row(self, inputs: ModelInputs) -> float:
        """Return the mean number of items to be found in a row."""
        return 1.0 if self.positions == "last" else max(1.0, self.mean_length(inputs))

    def mean_length(self, inputs: ModelInputs) -> float:
        """Return the mean length of a history, as far as it counts."""
        history = self.history_feature(inputs)
        table = inputs.table_of(history)
        known = dict(zip(table.features, table.pooling_factors, strict=False))
        return min(float(self.max_length), known.get(history, 1.0))

    def completed(self, inputs: ModelInputs) -> ModelInputs:
        """Return the inputs with what is looked up besides, once it is clear what the history is."""
        self.history_feature(inputs)
        return super().completed(inputs)


class SequenceModel(ItemModel):
    """What models of sequences have in common; a subclass gives `encoder`.

    A row is a user or session with the list of its items, or an event with its item and the list of those
    before it. In the first, training makes items of the list the targets and evaluation asks what follows the
    list; in the second the row's item stands at the end of its list, and evaluation scores it by the others.

    Args:
        inputs: features and tables, completed by the config.
        config: the model's config section.

    Attributes:
        encoder: from padded vectors [B, L, D] of which [B] count to vectors [B, L, X]; each may depend on
            those before it and itself.
    """

    encoder: nn.Module

    def __init__(self, inputs: ModelInputs, config: SequenceModelSection) -> None:
        super().__init__(inputs, config)
        self.history = config.history_feature(inputs)
        self.max_length, self.positions = config.max_length, config.positions

    def sequences(self, batch: Batch, count: int) -> JaggedTensor:
        """Return the newest `count` ids of each row to learn from, the row's own item being the last."""
        ids = batch.sparse[self.history]
        learnt_B = batch.weights_B > 0
        if self.rows_have_item:
            ids = with_last(ids, batch.sparse[self.item_feature].values())
            learnt_B = learnt_B & (batch.labels_BT[:, 0] > 0.5)
        return chosen(ids, learnt_B[segment_rows(ids)] & (ages(ids) < count))

    def examples(self, batch: Batch) -> Examples:
        """Return each row's items but the last, and of each the item that follows."""
        ids = self.sequences(batch, self.max_length + 1)
        place_N, age_N = places(ids), ages(ids)
        target_N = (place_N > 0) & (ids.values() >= self.sampler.first)
        if self.positions == "last":
            target_N &= age_N == 0
        inputs = {self.history: chosen(ids, age_N > 0)}
        return Examples(chosen(ids, target_N), inputs, extra=place_N[target_N] - 1)

    def queries(self, found: Found, batch: Batch, examples: Examples | None) -> Tensor:  # noqa: ARG002
        """Return one query for each target, or of each history's end; zeros where it is empty."""
        vectors = _lists(found[self.history])
        if examples is None:
            vectors = newest(vectors, self.max_length)
        hidden_NX = encoded(self.encoder, vectors)
        if examples is None:
            return ends(hidden_NX, vectors)
        return at_places(hidden_NX, vectors, segment_rows(examples.targets), examples.extra)


def at_places(hidden_NX: Tensor, lists: JaggedTensor, row_Q: Tensor, place_Q: Tensor) -> Tensor:
    """Return what was made of the elements at places of rows, [Q, X]."""
    return hidden_NX.index_select(0, lists.offsets()[row_Q] + place_Q)


def ends(hidden_NX: Tensor, lists: JaggedTensor) -> Tensor:
    """Return what was made of each list's last element, [B, X]; zeros where it is empty."""
    some_B = lists.lengths() > 0
    out_BX = hidden_NX.new_zeros(len(some_B), hidden_NX.shape[1])
    return out_BX.masked_scatter(some_B.unsqueeze(1), hidden_NX[lists.offsets()[1:][some_B] - 1])


def _lists(found: Tensor | JaggedTensor) -> JaggedTensor:
    assert isinstance(found, JaggedTensor)
    return found
