"""Config of features that are made of several rows: histories, counts of earlier rows, target encodings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from trainer.config.base import LARGEST_SEED, Section


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class HistoryConfig(Section):
    """Earlier events of an id as a sequence feature: strictly earlier in time than the row itself."""

    user: str
    """Column of the id whose events are listed: the user's, or the item's for the users who met the item."""
    item: str
    """Column of the id that the history lists."""
    time: str
    """Column of the event time; events with the same time as the row are not in its history."""
    max_length: int = Field(default=50, ge=1)
    """The newest events are kept, in time order, oldest first."""
    where: str | None = None
    """Spark SQL condition on one event, for instance `rating >= 4`; without it every event counts. A text
    column beside a number counts as a number."""
    include_ties: bool = False
    """Whether, of events at one moment, those whose `item` sorts first count as earlier. Only for times so
    coarse that events of one moment do follow each other, such as dates."""


class EarlierConfig(Section):
    """A number made of the strictly earlier rows with the same ids, as a dense feature."""

    by: list[str] = Field(min_length=1)
    """Column, or list of columns, that earlier rows share with the row."""
    time: str
    """Column of the event time; rows with the same time are not earlier."""
    what: Literal["count", "rate", "mean", "recency"]
    """`count` of the earlier rows, `rate`: mean of their labels, `mean` of their column `of`, or `recency`:
    seconds since the newest of them. Missing where there is no such row (`count`: 0), or an id is missing."""
    of: str | None = None
    """Column of numbers of `mean`; missing values do not count."""
    where: str | None = None
    """Spark SQL condition on an earlier row, as in a history."""
    window_seconds: float | None = Field(default=None, gt=0)
    """Only rows at most this much earlier; without it all. Times that are numbers count as seconds."""
    delay_seconds: float = Field(default=0.0, ge=0)
    """Only rows more than this much earlier: for labels or values that are known late."""
    smoothing: float = Field(default=0.0, ge=0)
    """Weight of `prior` in `rate` and `mean`, in rows: (sum + smoothing * prior) / (count + smoothing)."""
    prior: float | None = None
    """Value that `smoothing` pulls towards; by default the mean over the training rows."""

    _by = field_validator("by", mode="before")(_as_list)

    @model_validator(mode="after")
    def _consistent(self) -> EarlierConfig:
        if (self.what == "mean") != (self.of is not None):
            raise ValueError("`of` names the column of `what: mean`, and of nothing else")
        if self.what in ("count", "recency") and (self.smoothing or self.prior is not None):
            raise ValueError(f"`smoothing` and `prior` are for `rate` and `mean`, not for `{self.what}`")
        if self.prior is not None and not self.smoothing:
            raise ValueError("`prior` does nothing without `smoothing`")
        return self


class TargetEncodingConfig(Section):
    """The mean label of the training rows with the same ids, as a dense feature."""

    by: list[str] = Field(min_length=1)
    """Column, or list of columns, whose values are encoded."""
    folds: int = Field(default=5, ge=2)
    """A training row gets the mean over the training rows of the other folds, never its own label."""
    smoothing: float = Field(default=20.0, ge=0)
    """Weight of the mean over all ids, in rows: ids with few rows stay near it, unseen ones get it."""
    seed: int = Field(default=1, ge=0, le=LARGEST_SEED)
    """Deals the training rows into folds, by a hash of the row."""

    _by = field_validator("by", mode="before")(_as_list)
