"""Config of labels: what a model learns to predict, one or several of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from trainer.config.base import Section

Word = str | int
"""A value of a column in the config; it is compared as text, so `1` and `"1"` are the same."""


class LabelConfig(Section):
    """The label: of a column, of a condition (`where`), or 1 for every row (`implicit`)."""

    column: str | None = None
    """Raw column."""
    kind: Literal["binary", "rating"] = "binary"
    """`binary`: 0 or 1, and the model gives a probability; `rating`: any number, as the column holds it, and
    the model gives a number."""
    positive_at_least: float | None = None
    """Label is 1 where the column is at least this, else 0; without it the column itself holds 0 and 1."""
    positive_values: list[Word] | None = Field(default=None, min_length=1)
    """Label is 1 where the column holds one of these, such as `[click, buy]`, else 0."""
    where: str | None = None
    """Spark SQL condition; label is 1 where it holds, else 0, also where it is null. For instance
    `seconds >= 30 and rating is not null`. A text column beside a number counts as a number."""
    implicit: bool = False
    """Every row is an event and a positive; the negatives come from elsewhere."""

    @model_validator(mode="after")
    def _one_rule(self) -> LabelConfig:
        if [self.column is not None, self.where is not None, self.implicit].count(True) != 1:
            raise ValueError("give `column`, or `where`, or `implicit: true` where every row is a positive")
        rules = [name for name in ("positive_at_least", "positive_values") if getattr(self, name) is not None]
        if self.column is None and rules:
            other = "`implicit: true`" if self.implicit else "`where`"
            raise ValueError(f"`{rules[0]}` means nothing with {other}")
        if len(rules) > 1:
            raise ValueError("give `positive_at_least` or `positive_values`, not both")
        if self.kind == "rating" and (self.column is None or rules):
            other = rules[0] if rules else "where" if self.where is not None else "implicit"
            raise ValueError(f"a rating is the number of its `column`: `{other}` would make it 0 or 1")
        return self

    def rule(self) -> dict[str, Any]:
        """Return what the feature spec tells: column and threshold, and the other keys where set."""
        always = {"column": self.column, "positive_at_least": self.positive_at_least}
        return {**always, **self.model_dump(exclude_defaults=True)}


class TaskLabelConfig(LabelConfig):
    """The label of one of several tasks."""

    missing: Literal["error", "skip"] = "error"
    """What a row without a value in `column` is: an error, or (`skip`) a row that does not count for this
    task, though it does for others."""
    known_where: str | None = None
    """Spark SQL condition; rows for which it does not hold do not count for this task. For instance
    `click = 1` for purchases after a click."""

    @model_validator(mode="after")
    def _of_several(self) -> TaskLabelConfig:
        if self.implicit:
            raise ValueError("`implicit` is for a label alone (`data.label`): the task has no negatives")
        if self.missing == "skip" and self.column is None:
            raise ValueError("`missing: skip` needs `column`: a condition always says something")
        return self


@dataclass(frozen=True)
class Task:
    """A label with its name.

    Attributes:
        number: from 0, in the order of the config.
        name: `label` where the config names none.
        key: key path of the label in the config.
        label: how it is made.
    """

    number: int
    name: str
    key: str
    label: LabelConfig

    @property
    def known_where(self) -> str | None:
        """Return the condition for rows that count, if there is one."""
        return self.label.known_where if isinstance(self.label, TaskLabelConfig) else None

    @property
    def skips_missing(self) -> bool:
        """Return whether rows without a value are left out."""
        return isinstance(self.label, TaskLabelConfig) and self.label.missing == "skip"
