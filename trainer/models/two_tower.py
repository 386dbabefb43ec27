"""Two towers: a query tower and an item tower, trained by a softmax over items of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from trainer.batch import Batch
from trainer.errors import ConfigError
from trainer.item_sampling import ItemNegatives
from trainer.losses.ranking import Objective
from trainer.modules.arches import mlp
from trainer.modules.item_catalogue import ItemCatalogue
from trainer.modules.item_model import Examples, ItemModel, vectors_of
from trainer.modules.item_section import ItemModelSection
from trainer.modules.lookup import Found
from trainer.modules.sequence_pooling import MeanSequencePooling, segment_rows
from trainer.registry import ModelInputs, register_model


class TwoTowerConfig(ItemModelSection):
    """Config keys of `two_tower`."""

    needs: ClassVar[str] = "an item, and features of those who look for it"
    item_features: list[str] = Field(default_factory=list)
    """Sparse and sequence features of items besides their id; they need `data.catalogue`."""
    query_features: list[str] | None = Field(default=None, min_length=1)
    """Sparse and sequence features of queries. Default: all others, and lists of the items' table; the item's
    own id is none. All dense features are the query's: rows must have none of the item."""
    query_layer_sizes: list[PositiveInt] = Field(default=[128])
    """Hidden layers of the query tower; a linear layer to `output_dim` follows."""
    item_layer_sizes: list[PositiveInt] = Field(default=[128])
    """Hidden layers of the item tower; a linear layer to `output_dim` follows."""
    output_dim: int = Field(default=64, ge=1)
    """Width of what both towers give."""
    normalize: bool = True
    """Whether vectors of both have length 1: scores are cosines."""
    objective: Objective = "sampled_softmax"
    """As in other models of queries and items."""
    negatives: ItemNegatives = ItemNegatives(in_batch=True, log_q=True)
    """Where the items come from that a query's own is told from, besides rows with label 0."""
    temperature: float = Field(default=0.05, gt=0)
    """What scores are divided by in the loss, and in predictions too under `pointwise`: probabilities."""

    def item_feature(self, inputs: ModelInputs) -> str:
        """Return the feature that names the items' table, whatever else items have."""
        sides = set(self.item_features)
        tables = tuple(table for table in inputs.tables if not sides & {*table.features})
        return super().item_feature(replace(inputs, tables=tables))

    def of_queries(self, inputs: ModelInputs) -> tuple[str, ...]:
        """Return the features of queries.

        Raises:
            ConfigError: there is none, or one of them or of the items is no feature or the item's id.
        """
        item, known = self.item_feature(inputs), list(inputs.features)
        named = {"item_features": self.item_features, "query_features": self.query_features or []}
        for key, names in named.items():
            for name in names:
                if name not in known or name == item:
                    raise ConfigError(
                        "no such feature besides the item's id",
                        where=f"model.{key}",
                        got=name,
                        allowed=[other for other in known if other != item],
                    )
        others = [name for name in known if name != item and name not in self.item_features]
        chosen = tuple(others if self.query_features is None else self.query_features)
        both = [name for name in chosen if name in self.item_features]
        if not chosen or both:
            raise ConfigError(
                "a query needs features that are not the item's",
                where="model.query_features",
                got=both or "none",
                allowed=others or None,
            )
        return chosen

    def completed(self, inputs: ModelInputs) -> ModelInputs:
        """Return the inputs with the features of items under every name that the item has in a step."""
        self.of_queries(inputs)
        before = inputs.table_of(self.item_feature(inputs))
        inputs = super().completed(inputs)
        items = inputs.table_of(before.features[0])
        added = [name for name in items.features if name not in before.features]
        factors = dict(zip(items.features, items.pooling_factors, strict=True))
        tables = list(inputs.tables)
        for name in self.item_features:
            number, table = next((n, t) for n, t in enumerate(tables) if name in t.features)
            mean = dict(zip(table.features, table.pooling_factors, strict=False)).get(name, 1.0)
            features = (
                *table.features,
                *(side_feature(name, other) for other in (*added, before.features[0])),
            )
            known = table.pooling_factors or (1.0,) * len(table.features)
            more = [factors[other] * mean for other in added]
            tables[number] = replace(
                table,
                pooling="none",
                embedding_dim=items.embedding_dim,
                features=features,
                pooling_factors=(*known, *more, mean),
            )
        return replace(inputs, tables=tuple(tables))


def side_feature(feature: str, item_feature: str) -> str:
    """Return the name under which a feature of the items that are looked up under another is looked up."""
    return f"{feature}:of:{item_feature}"


@register_model(
    "two_tower",
    config=TwoTowerConfig,
    task="retrieval",
    source="Yi et al. 2019, Sampling-Bias-Corrected Neural Modeling, RecSys",
)
class TwoTower(ItemModel):
    """A network over features of the query and one over those of the item; the score is their dot product.

    Lists are the means of their vectors. An item's features come from the data set's catalogue, whichever row
    or draw it came by.

    Args:
        inputs: features and tables, completed by the config.
        config: the model's config section.

    Source: Yi et al. 2019, Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations,
    section 3 (in-batch softmax, logQ correction, normalisation, temperature); Yang et al. 2020, Mixed
    Negative Sampling, for `negatives: {in_batch: true, shared: ...}`.
    """

    def __init__(self, inputs: ModelInputs, config: TwoTowerConfig) -> None:
        super().__init__(inputs, config)
        self.query_features, self.side_features = config.of_queries(inputs), config.item_features
        self.normalize = config.normalize
        widths = [inputs.table_of(name).embedding_dim for name in self.query_features]
        table = inputs.table_of(self.item_feature)
        self.catalogue = ItemCatalogue(self.side_features, table.num_embeddings)
        self.mean = MeanSequencePooling()
        self.query_tower = _tower(sum(widths) + inputs.num_dense, config.query_layer_sizes, config.output_dim)
        width = self.item_dim * (1 + len(self.side_features))
        self.item_tower = _tower(width, config.item_layer_sizes, config.output_dim)

    def queries(self, found: Found, batch: Batch, examples: Examples | None) -> Tensor:
        """Return the query tower's vector of each row."""
        parts = [batch.dense_BF]
        for name in self.query_features:
            vectors = found[name]
            parts.append(vectors if isinstance(vectors, Tensor) else self.mean(vectors))
        query_BX = self._given(self.query_tower(torch.cat(parts, dim=1)))
        return query_BX if examples is None else query_BX[segment_rows(examples.targets)]

    def item_inputs(self, name: str, ids: JaggedTensor) -> dict[str, JaggedTensor]:
        """Return the ids and those of their features."""
        sides = {side_feature(side, name): self.catalogue.of(side, ids)[0] for side in self.side_features}
        return {name: ids, **sides}

    def item_vectors(self, found: Found, name: str, ids: JaggedTensor) -> Tensor:
        """Return the item tower's vectors of ids that were looked up under a name."""
        parts = [vectors_of(found, name)]
        for side in self.side_features:
            _, lengths_N = self.catalogue.of(side, ids)
            values = vectors_of(found, side_feature(side, name))
            parts.append(self.mean(JaggedTensor(values, lengths=lengths_N)))
        return self._given(self.item_tower(torch.cat(parts, dim=1)))

    def _given(self, vectors_NX: Tensor) -> Tensor:
        return nn.functional.normalize(vectors_NX.float(), dim=1) if self.normalize else vectors_NX.float()


def _tower(in_features: int, layer_sizes: Sequence[int], output_dim: int) -> nn.Module:
    last = nn.Linear(layer_sizes[-1] if layer_sizes else in_features, output_dim)
    return nn.Sequential(mlp(in_features, layer_sizes), last)
