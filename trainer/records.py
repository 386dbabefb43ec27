"""What feature spec and manifest say of labels, cleaning and joined tables."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

LabelKind = Literal["binary", "rating"]


class Record(BaseModel):
    """An immutable record without other keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskLabel(Record):
    """The label of one task."""

    name: str
    """`label` where the config names none."""
    params: dict[str, Any]
    """As those of `FeatureSpec.label`."""

    @property
    def kind(self) -> LabelKind:
        """Return whether the label is 0 or 1, or any number."""
        kind: LabelKind = self.params.get("kind", "binary")
        return kind

    @property
    def is_rating(self) -> bool:
        """Return whether the label is any number."""
        return self.kind == "rating"

    @property
    def may_be_unknown(self) -> bool:
        """Return whether rows may lack the label and so not count for the task."""
        return self.params.get("missing") == "skip" or self.params.get("known_where") is not None

    @property
    def mean(self) -> float:
        """Return the mean of a rating over the training rows; 0 for a binary label."""
        return float(self.params.get("mean", 0.0))

    @property
    def std(self) -> float:
        """Return the standard deviation of a rating over the training rows; 1 for a binary label."""
        return float(self.params.get("std", 1.0))


class LabelCounts(Record):
    """What the rows of a split hold of one task's label."""

    rows: int
    """Rows that count for the task."""
    mean: float
    """Of the label over these: the share of positives, or the mean rating."""
    std: float


class LabelTimes(Record):
    """Label rate over time, counted over all rows."""

    column: str
    """Raw column that tells the time."""
    points: dict[str, tuple[tuple[float, int, int], ...]]
    """By split, or under `all` where splits do not follow one another in time: mean time, rows and rows with
    label 1 of each point, in the order of time."""


class CleaningStep(Record):
    """What one rule of `data.clean` did to the raw rows."""

    name: str
    """Key of the rule."""
    dropped: int
    left: int


class JoinedTable(Record):
    """A side table of `data.joins`, and the rows of the source that it has no row for."""

    source: str
    on: tuple[str, ...]
    rows: int
    """Of the source, after cleaning."""
    unmatched: int

    @property
    def share(self) -> float:
        """Return the share of the rows without a match."""
        return self.unmatched / self.rows if self.rows else 0.0
