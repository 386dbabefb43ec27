"""Models that rebuild the list of a user's items from a part of it: what CDAE and Mult-VAE share.

Both matrices between items and hidden units are tables: what goes in is the sum of the rows of the user's
items in one, what comes out is scored against the rows of another. There is no matrix of users and items.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torchrec.sparse.jagged_tensor import JaggedTensor

from sharding.tables import TableSpec
from trainer.batch import Batch
from trainer.errors import ConfigError
from trainer.modules.field_arch import WEIGHT_COLUMNS
from trainer.modules.item_model import Examples, ItemModel
from trainer.modules.item_section import ItemModelSection
from trainer.modules.row_dropout import row_numbers
from trainer.modules.row_noise import row_uniform
from trainer.modules.sequence_pooling import segment_rows
from trainer.registry import ModelInputs

_OUTPUT = "_output"
_INPUT_STREAM = 1


class AutoencoderSection(ItemModelSection):
    """Config keys of autoencoders over lists of items."""

    needs: ClassVar[str] = "a list of each user's items"
    input_dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of a user's items left out of the input in training; they are to be found all the same."""

    def hidden_columns(self) -> tuple[int, int]:
        """Return the columns of the input's table and of the output's, without its bias."""
        raise NotImplementedError

    def item_feature(self, inputs: ModelInputs) -> str:
        """Return the feature with the list of a user's items.

        Raises:
            ConfigError: there is none, or more than one.
        """
        if self.item in inputs.lists or (self.item is None and len(inputs.lists) == 1):
            return self.item or next(iter(inputs.lists))
        raise ConfigError(
            "the model needs a list of each user's items",
            where="model.item",
            got=self.item,
            allowed=sorted(inputs.lists) or None,
            fixes=[
                *(f"model.item: {name}" for name in sorted(inputs.lists)[:3]),
                "rows of users: data.user_rows",
            ],
        )

    def item_table(self, inputs: ModelInputs) -> TableSpec:
        """Return the table of the output."""
        table = inputs.table_of(self.item_feature(inputs))
        return next((other for other in inputs.tables if other.name == table.name + _OUTPUT), table)

    def item_columns(self, inputs: ModelInputs) -> int:  # noqa: ARG002
        """Return the columns of the output's table: hidden units, and a bias."""
        return self.hidden_columns()[1] + WEIGHT_COLUMNS

    def queries_per_row(self, inputs: ModelInputs) -> float:
        """Return the mean length of the lists."""
        name = self.item_feature(inputs)
        table = inputs.table_of(name)
        return dict(zip(table.features, table.pooling_factors, strict=False)).get(name, 1.0)

    def completed(self, inputs: ModelInputs) -> ModelInputs:
        """Return the inputs with a table for the output beside that of the input."""
        table = inputs.table_of(self.item_feature(inputs))
        output = replace(table, name=table.name + _OUTPUT, features=(), pooling_factors=())
        into = replace(table, embedding_dim=self.hidden_columns()[0], pooling="sum")
        tables = (*(into if other is table else other for other in inputs.tables), output)
        return super().completed(replace(inputs, tables=tables))


class ItemAutoencoder(ItemModel):
    """A model whose query is made of a row's list of items, and whose targets are all of them."""

    row_queries_only = True

    def __init__(self, inputs: ModelInputs, config: AutoencoderSection) -> None:
        super().__init__(inputs, config)
        self.input_dropout = config.input_dropout

    def examples(self, batch: Batch) -> Examples:
        """Return every known item of each row's list as a target, and a part of the list as the input."""
        ids = batch.sparse[self.item_feature]
        place_H, rows = segment_rows(ids), batch.size
        known_H = ids.values() >= self.sampler.first
        target_H = known_H & (batch.weights_B[place_H] > 0)
        targets = _chosen(ids.values(), place_H, target_H, rows)
        if self.input_dropout == 0.0:
            return Examples(targets)
        number_H = torch.arange(len(place_H), device=place_H.device) - ids.offsets()[:-1][place_H]
        # Each item of a row draws by its place in the list, as if it were a row of its own.
        mixed_H = row_numbers(batch.rows_B)[place_H] * 0x9E3779B1 + number_H
        kept_H = row_uniform(mixed_H, 1, _INPUT_STREAM).squeeze(1) >= self.input_dropout
        return Examples(targets, {self.item_feature: _chosen(ids.values(), place_H, kept_H, rows)})

    def scale(self, batch: Batch, examples: Examples | None) -> Tensor:
        """Return what makes up for the items that were left out, a number."""
        kept = 1.0 if examples is None else 1.0 - self.input_dropout
        return batch.weights_B.new_tensor(1.0 / kept)

    def items(self, vectors_ND: Tensor) -> Tensor:
        """Return hidden weights and bias of items."""
        return vectors_ND[:, : vectors_ND.shape[1] - WEIGHT_COLUMNS + 1]


def with_one(hidden_BH: Tensor) -> Tensor:
    """Return [B, H + 1], the last column being the 1 that an item's bias is multiplied by."""
    return torch.cat([hidden_BH, torch.ones_like(hidden_BH[:, :1])], dim=1)


def _chosen(ids_H: Tensor, place_H: Tensor, chosen_H: Tensor, rows: int) -> JaggedTensor:
    lengths_B = torch.bincount(place_H[chosen_H], minlength=rows)
    return JaggedTensor(ids_H[chosen_H], lengths=lengths_B)
