"""MF, matrix factorization."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.errors import ConfigError
from trainer.item_sampling import ItemNegatives
from trainer.losses.ranking import Objective
from trainer.modules.field_arch import WEIGHT_COLUMNS
from trainer.modules.item_model import Examples, ItemModel
from trainer.modules.lookup import Found
from trainer.modules.sequence_pooling import segment_rows
from trainer.modules.user_item import UserItemSection
from trainer.registry import ModelInputs, register_model


class MfConfig(UserItemSection):
    """Config keys of `mf`; biases stand in 4 further columns of a table."""

    objective: Objective = "bpr"
    """As in other models of queries and items."""
    negatives: ItemNegatives = ItemNegatives(per_query=1)
    """Where the items come from that a user's own is told from, besides rows with label 0."""

    def item_columns(self, inputs: ModelInputs) -> int:
        """Return the columns of the items' table: a vector and a bias."""
        return super().item_columns(inputs) + WEIGHT_COLUMNS

    def completed(self, inputs: ModelInputs) -> ModelInputs:
        """Return the inputs with columns for biases."""
        user = inputs.table_of(self.user_feature(inputs))
        item = inputs.table_of(self.item_feature(inputs))
        if user.embedding_dim != item.embedding_dim:
            raise ConfigError(
                "users and items need vectors of one width",
                where=f"tables.{user.name}.embedding_dim",
                got=f"{user.embedding_dim}, items {item.embedding_dim}",
                fixes=[f"tables.{user.name}.embedding_dim: {item.embedding_dim}"],
            )
        if self.objective == "pointwise":
            wider = replace(user, embedding_dim=user.embedding_dim + WEIGHT_COLUMNS)
            tables = tuple(wider if table is user else table for table in inputs.tables)
            inputs = replace(inputs, tables=tables)
        return super().completed(inputs)


@register_model(
    "mf",
    config=MfConfig,
    task="retrieval",
    source="Koren et al. 2009, Matrix Factorization Techniques; Rendle et al. 2009, arXiv:1205.2618 (BPR)",
)
class MF(ItemModel):
    """The dot product of a user's and an item's vector, and a bias of each.

    What is the same for all items of a user plays no part in their order: under objectives that compare
    items, users have no bias.

    Args:
        inputs: features and tables, completed by the config.
        config: the model's config section.

    Source: Koren, Bell and Volinsky 2009, Matrix Factorization Techniques for Recommender Systems,
    equation 4; with `objective: bpr` Rendle et al. 2009, arXiv:1205.2618, section 4.3.1.
    """

    def __init__(self, inputs: ModelInputs, config: MfConfig) -> None:
        super().__init__(inputs, config)
        self.user_feature = config.user_feature(inputs)
        self.bias = nn.Parameter(torch.zeros(1)) if config.objective == "pointwise" else None

    def queries(self, found: Found, batch: Batch, examples: Examples | None) -> Tensor:  # noqa: ARG002
        """Return vector, bias and 1 of each row's user."""
        user_BX = found[self.user_feature]
        assert isinstance(user_BX, Tensor)
        one_B1 = torch.ones_like(user_BX[:, :1])
        if self.bias is None:
            query_BX = torch.cat([user_BX, 0 * one_B1, one_B1], dim=1)
        else:
            vector_BD, bias_B1 = _split(user_BX)
            query_BX = torch.cat([vector_BD, bias_B1 + self.bias, one_B1], dim=1)
        return query_BX if examples is None else query_BX[segment_rows(examples.targets)]

    def items(self, vectors_ND: Tensor) -> Tensor:
        """Return vector, 1 and bias of items."""
        vector_ND, bias_N1 = _split(vectors_ND)
        return torch.cat([vector_ND, torch.ones_like(bias_N1), bias_N1], dim=1)


def _split(row_NX: Tensor) -> tuple[Tensor, Tensor]:
    """Return the vector [N, D] and the bias [N, 1] of rows of a table."""
    width = row_NX.shape[1] - WEIGHT_COLUMNS
    return row_NX[:, :width], row_NX[:, width : width + 1]
