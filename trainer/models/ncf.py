"""NCF, neural collaborative filtering: GMF, MLP and both together, NeuMF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt, field_validator, model_validator
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.config.base import Section
from trainer.item_sampling import ItemNegatives
from trainer.losses.ranking import Objective
from trainer.modules.arches import mlp
from trainer.modules.item_model import Examples, ItemModel
from trainer.modules.lookup import Found
from trainer.modules.sequence_pooling import segment_rows
from trainer.modules.user_item import UserItemSection
from trainer.registry import ModelInputs, register_model

# Pairs of query and item whose hidden units are in memory at once, in evaluation.
_PAIRS_AT_ONCE = 1 << 18


class PretrainedParts(Section):
    """Runs of GMF and of MLP that NeuMF starts from, trained on the same data set.

    Source: He et al. 2017, arXiv:1708.05031, section 3.4.1.
    """

    gmf: str
    """Run folder of a model with `parts: [gmf]`; relative to the folder that this run's own lies in."""
    mlp: str
    """Run folder of a model with `parts: [mlp]`."""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """Share of GMF in the first scores: its output weights times this, those of MLP times the rest."""


class NcfConfig(UserItemSection):
    """Config keys of `ncf`; the vectors of the parts stand side by side in the tables."""

    parts: list[Literal["gmf", "mlp"]] = Field(default=["gmf", "mlp"], min_length=1)
    """`gmf`, a weighted product of the vectors; `mlp`, a network over them; both are NeuMF."""
    mlp_embedding_dim: int = Field(default=32, ge=1)
    """Width of the vectors of `mlp`; `embedding_dim` is that of `gmf`."""
    mlp_layer_sizes: list[PositiveInt] = Field(default=[32, 16, 8], min_length=1)
    """Hidden layers over the two vectors."""
    objective: Objective = "pointwise"
    """As in other models of queries and items."""
    negatives: ItemNegatives = ItemNegatives(per_query=4)
    """Where the items come from that a user's own is told from, besides rows with label 0."""

    pretrained: PretrainedParts | None = None
    """Start from trained parts instead of random numbers."""

    @field_validator("parts")
    @classmethod
    def _once(cls, parts: list[str]) -> list[str]:
        if len(set(parts)) < len(parts):
            raise ValueError("a part is named twice")
        return parts

    @model_validator(mode="after")
    def _both_parts(self) -> NcfConfig:
        if self.pretrained is not None and len(self.parts) < 2:
            raise ValueError("`pretrained` joins two parts: `parts: [gmf, mlp]`")
        return self

    def part_runs(self) -> Mapping[str, str]:
        """Return the runs of GMF and MLP, if any."""
        return {} if self.pretrained is None else {"gmf": self.pretrained.gmf, "mlp": self.pretrained.mlp}

    def part_settings(self, part: str) -> dict[str, Any]:
        """Return this section with the part alone."""
        return {**self.model_dump(), "parts": [part], "pretrained": None}

    def part_tables(self, inputs: ModelInputs) -> tuple[str, ...]:
        """Return the tables of users and items."""
        features = self.user_feature(inputs), self.item_feature(inputs)
        return tuple(inputs.table_of(feature).name for feature in features)

    def join_parts(self, parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the layers of MLP, and output weights by which the first scores are the weighted mean."""
        assert self.pretrained is not None
        gmf, mlp, alpha = parts["gmf"], parts["mlp"], self.pretrained.alpha
        weight, bias = "network.score.weight", "network.score.bias"
        return {
            **mlp,
            weight: torch.cat([alpha * gmf[weight], (1 - alpha) * mlp[weight]], dim=1),
            bias: alpha * gmf[bias] + (1 - alpha) * mlp[bias],
        }

    def widths(self, inputs: ModelInputs) -> tuple[int, int]:
        """Return the columns of a table that belong to GMF and to MLP."""
        wide = inputs.table_of(self.item_feature(inputs)).embedding_dim
        return (wide if "gmf" in self.parts else 0, self.mlp_embedding_dim if "mlp" in self.parts else 0)

    def item_columns(self, inputs: ModelInputs) -> int:
        """Return the columns of both tables."""
        return sum(self.widths(inputs))

    def completed(self, inputs: ModelInputs) -> ModelInputs:
        """Return the inputs with the columns of both parts."""
        user = inputs.table_of(self.user_feature(inputs))
        wider = replace(user, embedding_dim=self.item_columns(inputs))
        tables = tuple(wider if table is user else table for table in inputs.tables)
        return super().completed(replace(inputs, tables=tables))


@register_model("ncf", config=NcfConfig, task="retrieval", source="He et al. 2017, arXiv:1708.05031")
class NCF(ItemModel):
    """A weighted product of a user's and an item's vector, and a network over two others of theirs.

    Args:
        inputs: features and tables, completed by the config.
        config: the model's config section.

    Source: He et al. 2017, arXiv:1708.05031, equations 9 (GMF), 10 (MLP) and 12 (NeuMF).
    """

    def __init__(self, inputs: ModelInputs, config: NcfConfig) -> None:
        super().__init__(inputs, config)
        self.user_feature = config.user_feature(inputs)
        mlp_dim = config.mlp_embedding_dim if "mlp" in config.parts else 0
        self.network = NeuralScores(self.item_dim - mlp_dim, mlp_dim, config.mlp_layer_sizes)

    def queries(self, found: Found, batch: Batch, examples: Examples | None) -> Tensor:  # noqa: ARG002
        """Return the vectors of each row's user."""
        user_BX = found[self.user_feature]
        assert isinstance(user_BX, Tensor)
        return user_BX if examples is None else user_BX[segment_rows(examples.targets)]

    def scores(self, queries_QX: Tensor, items: Tensor) -> Tensor:
        """Return what the network says of pairs, [Q, N]."""
        if items.dim() == 3:
            scores_QN: Tensor = self.network(queries_QX, items)
            return scores_QN
        step = max(1, _PAIRS_AT_ONCE // max(1, len(items)))
        parts = [self.network(some_QX, items.unsqueeze(0)) for some_QX in torch.split(queries_QX, step)]
        return torch.cat(parts) if parts else queries_QX.new_zeros(0, len(items))


class NeuralScores(nn.Module):
    """Scores of pairs of vectors that begin with those of GMF.

    Args:
        gmf_dim: columns of GMF; 0 leaves it out.
        mlp_dim: columns of MLP; 0 leaves it out.
        layer_sizes: hidden layers of MLP.
    """

    def __init__(self, gmf_dim: int, mlp_dim: int, layer_sizes: Sequence[int]) -> None:
        super().__init__()
        self.gmf_dim, last = gmf_dim, gmf_dim
        if mlp_dim:
            # One layer in two halves: that of a user is not computed again for each item.
            self.of_user = nn.Linear(mlp_dim, layer_sizes[0], bias=False)
            self.of_item = nn.Linear(mlp_dim, layer_sizes[0])
            for half in (self.of_user, self.of_item):
                nn.init.xavier_uniform_(half.weight, gain=2**-0.5)
            self.hidden = mlp(layer_sizes[0], layer_sizes[1:])
            last += layer_sizes[-1]
        self.has_mlp = mlp_dim > 0
        self.score = nn.Linear(last, 1)

    def forward(self, queries_QX: Tensor, items_QNX: Tensor) -> Tensor:
        """Return [Q, N].

        Args:
            queries_QX: [Q, X].
            items_QNX: [Q, N, X], or [1, N, X].
        """
        width, queries_Q1X = self.gmf_dim, queries_QX.unsqueeze(1)
        parts = []
        if width:
            parts.append(queries_Q1X[..., :width] * items_QNX[..., :width])
        if self.has_mlp:
            first = self.of_user(queries_Q1X[..., width:]) + self.of_item(items_QNX[..., width:])
            hidden = torch.relu(first)
            shape = hidden.shape[:2]
            parts.append(self.hidden(hidden.flatten(0, 1)).unflatten(0, shape))
        return self.score(torch.cat(parts, dim=2)).squeeze(2).float()  # type: ignore[no-any-return]
