"""CDAE, the collaborative denoising autoencoder."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.item_sampling import ItemNegatives
from trainer.losses.ranking import Objective
from trainer.modules.item_autoencoder import AutoencoderSection, ItemAutoencoder, with_one
from trainer.modules.item_model import Examples
from trainer.modules.lookup import Found
from trainer.modules.user_item import UserItemSection
from trainer.registry import ModelInputs, register_model


class CdaeConfig(AutoencoderSection, UserItemSection):
    """Config keys of `cdae`; its hidden layer has `embedding_dim` units."""

    needs: ClassVar[str] = "the user's id and a list of its items"
    hidden_activation: bool = True
    """Whether hidden units pass a sigmoid."""
    objective: Objective = "pointwise"
    """As in other models of queries and items."""
    negatives: ItemNegatives = ItemNegatives(per_query=5)
    """Where the items come from that a user's own are told from."""
    input_dropout: float = Field(default=0.2, ge=0, lt=1)
    """Share of a user's items left out of the input in training; they are to be found all the same."""

    def hidden_columns(self) -> tuple[int, int]:
        """Return the hidden units twice."""
        return self.embedding_dim, self.embedding_dim

    def completed(self, inputs: ModelInputs) -> ModelInputs:
        """Return the inputs with users as wide as the hidden layer, and a table for the output."""
        user = inputs.table_of(self.user_feature(inputs))
        wider = replace(user, embedding_dim=self.embedding_dim)
        tables = tuple(wider if table is user else table for table in inputs.tables)
        return super().completed(replace(inputs, tables=tables))


@register_model(
    "cdae", config=CdaeConfig, task="retrieval", source="Wu et al. 2016, CDAE, WSDM, 10.1145/2835776.2835837"
)
class CDAE(ItemAutoencoder):
    """The user's items and the user itself in one hidden layer, from which all its items are to be found.

    Args:
        inputs: features and tables, completed by the config.
        config: the model's config section.

    Source: Wu et al. 2016, Collaborative Denoising Auto-Encoders for Top-N Recommender Systems, equations 9
    and 10.
    """

    def __init__(self, inputs: ModelInputs, config: CdaeConfig) -> None:
        super().__init__(inputs, config)
        self.user_feature = config.user_feature(inputs)
        self.bias_H = nn.Parameter(torch.zeros(config.embedding_dim))
        self.activation: nn.Module = nn.Sigmoid() if config.hidden_activation else nn.Identity()

    def queries(self, found: Found, batch: Batch, examples: Examples | None) -> Tensor:
        """Return the hidden units of each row, and a 1 for the bias."""
        items_BH, user_BH = found[self.item_feature], found[self.user_feature]
        assert isinstance(items_BH, Tensor)
        assert isinstance(user_BH, Tensor)
        hidden_BH = items_BH * self.scale(batch, examples) + user_BH + self.bias_H
        return with_one(self.activation(hidden_BH))
