"""Config of models that score queries against items, and the features that they add to the items' table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import Field, model_validator

from sharding.tables import TableSpec
from trainer.config import LossConfig
from trainer.errors import ConfigError
from trainer.item_sampling import ItemNegatives
from trainer.losses.ranking import Objective
from trainer.registry import ModelInputs, ModelSection

_FORMS = {
    "pointwise": ("label_smoothing", "focal_gamma", "positive_weight"),
    "sampled_softmax": ("label_smoothing",),
    "softmax": ("label_smoothing",),
}


class ItemModelSection(ModelSection):
    """Config keys of models that score queries against items."""

    needs: ClassVar[str] = "an item"
    item: str | None = None
    """Feature whose table holds the items: the item's id in rows of events, else a list of them. Default:
    the one that shares its table with a list kept by `pooling: none`, else the only such list."""
    objective: Objective = "softmax"
    """`pointwise`: binary cross-entropy of each pair, of the rows' labels and of `negatives`; `bpr`: each
    positive above each negative; `sampled_softmax`: among the negatives; `softmax`: among all items."""
    negatives: ItemNegatives = ItemNegatives()
    """Where the items come from that a query's own is told from, besides rows with label 0."""
    temperature: float = Field(default=1.0, gt=0)
    """What scores are divided by in the loss, and in predictions too under `pointwise`: probabilities."""

    @property
    def own_loss(self) -> bool:
        """Return whether the model makes queries and targets itself, instead of taking the rows' labels."""
        return self.objective != "pointwise" or self.negatives.some

    @model_validator(mode="after")
    def _negatives_of_the_objective(self) -> ItemModelSection:
        drawn = self.negatives
        if self.objective in ("bpr", "sampled_softmax") and not drawn.some:
            raise ValueError(
                f"`objective: {self.objective}` needs negatives, such as `negatives: {{per_query: 1}}`"
            )
        if self.objective == "softmax" and drawn.some:
            raise ValueError("`objective: softmax` is over all items: leave `negatives` out")
        if drawn.log_q and self.objective != "sampled_softmax":
            raise ValueError("`negatives.log_q` is for `objective: sampled_softmax`")
        return self

    def item_feature(self, inputs: ModelInputs) -> str:
        """Return the feature that names the items' table.

        Raises:
            ConfigError: there is none, or more than one.
        """
        if self.item is not None:
            if self.item not in inputs.features:
                raise ConfigError(
                    "no such feature", where="model.item", got=self.item, allowed=list(inputs.features)
                )
            return self.item
        kept = [
            table for table in inputs.tables if table.pooling == "none" and inputs.lists & {*table.features}
        ]
        if len(kept) == 1:
            known = [name for name in kept[0].features if name in inputs.features]
            single = [name for name in known if name not in inputs.lists]
            return (single or known)[0]
        raise ConfigError(
            "the model needs to know which feature is the item",
            where="model.item",
            allowed=list(inputs.features),
            fixes=[f"model.item: {name}" for name in inputs.features if name not in inputs.lists][:3],
        )

    def _check_seen(self, inputs: ModelInputs) -> None:
        """Refuse users that have no id of their own, and rows that are no events."""
        user, where = self.negatives.exclude_seen_by, "model.negatives.exclude_seen_by"
        if user is None:
            return
        item = self.item_feature(inputs)
        if item in inputs.lists:
            raise ConfigError(
                "rows of users hold their items already, and none of these is drawn",
                where=where,
                got=user,
                fixes=[f"leave out {where}"],
            )
        items = inputs.table_of(item).features
        single = [name for name in inputs.features if name not in (*inputs.lists, *items)]
        if user not in single:
            raise ConfigError("no such feature with one id of a user", where=where, got=user, allowed=single)
        if inputs.table_of(user).ids is not None:
            raise ConfigError(
                "ids that come and go are known by their rows, which are given away anew",
                where=where,
                got=f"{user}, with tables.{inputs.table_of(user).name}.ids",
                fixes=[f"leave out {where}", "a vocabulary, or a hash of a fixed number of buckets"],
            )

    def item_table(self, inputs: ModelInputs) -> TableSpec:
        """Return the table whose rows queries are scored against; here that of the item feature."""
        return inputs.table_of(self.item_feature(inputs))

    def item_columns(self, inputs: ModelInputs) -> int:
        """Return the columns of the items' table; here those that the config gives it."""
        return self.item_table(inputs).embedding_dim

    def queries_per_row(self, inputs: ModelInputs) -> float:  # noqa: ARG002
        """Return the mean number of queries of a row, for the planner; here one."""
        return 1.0

    def completed(self, inputs: ModelInputs) -> ModelInputs:
        """Return the inputs with targets, negatives and all items as further features of the items' table."""
        table = self.item_table(inputs)
        if table.ids is not None:
            raise ConfigError(
                "items are told from one another by their rows, which `ids` gives away anew",
                where=f"tables.{table.name}.ids",
                fixes=["a vocabulary, or a hash of a fixed number of buckets"],
            )
        self._check_seen(inputs)
        names, drawn, rows = ItemFeatures.of(table.name), self.negatives, inputs.global_batch_size
        queries = self.queries_per_row(inputs)
        added = {names.every: table.num_embeddings / rows}
        if self.own_loss:
            added[names.target] = queries
        if drawn.per_query:
            added[names.negatives] = queries * drawn.per_query
        if drawn.shared:
            added[names.shared] = drawn.shared / rows
        known = table.pooling_factors or (1.0,) * len(table.features)
        items = replace(
            table,
            pooling="none",
            embedding_dim=self.item_columns(inputs),
            features=(*table.features, *added),
            pooling_factors=(*known, *added.values()),
        )
        return replace(inputs, tables=tuple(items if other is table else other for other in inputs.tables))


def check_own_loss(section: ModelSection, loss: LossConfig, *, rated: bool) -> None:
    """Refuse what a loss of queries and items has no form of; other models take any.

    Args:
        section: of any model.
        loss: what `train.loss` asks for.
        rated: whether the label of the rows is a rating.

    Raises:
        ConfigError: naming the key, and what the objective allows.
    """
    if not isinstance(section, ItemModelSection) or not section.own_loss:
        return
    if rated:
        raise ConfigError(
            "the model learns which items go with a query, and a rating does not say whether one does",
            where="model.objective",
            got=f"{section.objective}, and a label of kind: rating",
            fixes=[
                "a label with `positive_at_least`",
                "model.objective: pointwise and model.negatives: {} predict the rating",
            ],
        )
    default, allowed = LossConfig(), _FORMS.get(section.objective, ())
    for key, value in loss:
        if value != getattr(default, key) and key not in allowed:
            raise ConfigError(
                f"`objective: {section.objective}` has no form of the loss by this key",
                where=f"train.loss.{key}",
                got=value,
                allowed=list(allowed) or "none",
                fixes=["leave it out"],
            )


@dataclass(frozen=True)
class ItemFeatures:
    """Names of the features that a model adds to the table of the items."""

    target: str
    negatives: str
    shared: str
    every: str

    @classmethod
    def of(cls, table: str) -> ItemFeatures:
        """Return the names for a table."""
        return cls(*(f"{table}:{what}" for what in ("target", "negatives", "shared", "every")))

    @staticmethod
    def is_shared(name: str) -> bool:
        """Return whether each rank looks up the same ids under a name, of items or of their features."""
        return name.endswith(":shared")

    @staticmethod
    def is_of_step(name: str) -> bool:
        """Return whether ids under a name stand on a batch's first row, and are no row's."""
        return name.endswith((":shared", ":every"))
