"""Config section `features`: the model's inputs and the ops that make them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from trainer.config.base import Section
from trainer.config.derived import EarlierConfig, HistoryConfig, TargetEncodingConfig
from trainer.config.source import VectorsConfig

SOURCES = ("columns", "history", "earlier", "target_encoding", "vectors", "cross")
"""Keys of a feature group that say what its features are made of; each group has one of them."""


class OpConfig(Section):
    """One feature op: `log1p`, or `clip: {min: 0}`, or `fill: 0` for ops with one main parameter."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)
    value: Any = None
    """The bare value of the short form `fill: 0`; the op's own signature says which parameter it means."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"name": data}
        if isinstance(data, dict) and len(data) == 1 and "name" not in data:
            name, value = next(iter(data.items()))
            if isinstance(value, dict):
                return {"name": name, "params": value}
            return {"name": name, "value": value}
        return data


class FeatureGroup(Section):
    """Columns that share their ops; globs (`I*`) stand for many columns."""

    columns: str | list[str] | None = None
    """Raw column, glob, or a list of them. Each matching column becomes one feature of the same name."""
    name: str | None = None
    """Name of the feature when it is not the column's; only for a group of one column, or one made of
    several columns (`cross`) or rows (`history`, `earlier`, `target_encoding`) or looked up (`vectors`),
    which needs it."""
    dim: int | None = Field(default=None, ge=1)
    """Each row holds a list of so many numbers, all of them inputs of the model; only for `columns` under
    `dense`."""
    delimiter: str | None = Field(default=None, min_length=1)
    """What stands between the numbers of a text (`0.5 0.25`); only with `dim`."""
    history: HistoryConfig | None = None
    """Builds the sequence from earlier events instead of a raw column; only under `sequence`."""
    earlier: EarlierConfig | None = None
    """Makes a number of earlier rows instead of a raw column; only under `dense`."""
    target_encoding: TargetEncodingConfig | None = None
    """Makes the mean label of an id instead of a raw column; only under `dense`."""
    vectors: VectorsConfig | None = None
    """Looks up a precomputed vector by an id; only under `dense`, without ops."""
    cross: list[str] | None = Field(default=None, min_length=2)
    """Raw columns whose values are joined, such as `Berlin & mobile`; only under `sparse`, with `vocabulary`
    or `hash` as the last op. A row where one of them is missing is missing."""
    ops: list[OpConfig] = Field(default_factory=list)
    """Applied from left to right."""
    embedding_dim: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    """Width of the table, or `auto` as in `tables`; `tables.<glob>.embedding_dim` wins; default the model's.
    Not for dense features."""
    pooling: Literal["sum", "mean", "none"] = "sum"
    """How a list's embeddings become one vector. `none` keeps the sequence for the model to pool."""
    table: str | None = None
    """Share the table, vocabulary and id numbers of another feature, by that feature's name."""

    @field_validator("ops", mode="before")
    @classmethod
    def _single_op(cls, value: Any) -> Any:
        return [value] if isinstance(value, (str, dict)) else value

    @model_validator(mode="after")
    def _named(self) -> FeatureGroup:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(f'`{name}`' for name in SOURCES)}")
        if self.columns is None and self.name is None:
            article = "an" if given[0] == "earlier" else "a"
            raise ValueError(f"{article} `{given[0]}` needs a `name`")
        if self.cross is not None and len(set(self.cross)) < len(self.cross):
            raise ValueError("a `cross` needs different columns")
        if self.dim is not None and self.columns is None:
            raise ValueError("`dim` tells how many numbers a row of `columns` holds")
        if self.delimiter is not None and self.dim is None:
            raise ValueError("`delimiter` needs `dim`: how many numbers a text holds")
        if self.vectors is not None and self.ops:
            raise ValueError("`vectors` are taken as they are: leave out `ops`")
        return self

    @property
    def derived(self) -> HistoryConfig | EarlierConfig | TargetEncodingConfig | None:
        """Return what the feature is made of when it is no raw column."""
        return self.history or self.earlier or self.target_encoding

    def patterns(self) -> list[str]:
        """Return the column names and globs as a list."""
        if self.columns is None:
            return []
        return [self.columns] if isinstance(self.columns, str) else list(self.columns)


class FeaturesConfig(Section):
    """The model's inputs by kind."""

    dense: list[FeatureGroup] = Field(default_factory=list)
    """Numbers, as one float each, lists of `dim` numbers, and precomputed `vectors`."""
    sparse: list[FeatureGroup] = Field(default_factory=list)
    """Ids, one or many per row, looked up in embedding tables."""
    sequence: list[FeatureGroup] = Field(default_factory=list)
    """Ordered lists of ids, such as a user's history."""
