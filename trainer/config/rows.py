"""Config of what is done with raw rows before features: cleaning, weights, split and down-sampling."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from trainer.config.base import LARGEST_SEED, Section
from trainer.config.labels import Word
from trainer.config.yaml_text import flow_yaml

Moment = str | int | float


class DeduplicateConfig(Section):
    """One row of those that share a key stays."""

    by: list[str] | None = Field(default=None, min_length=1)
    """Columns of the key; without it, rows that are equal in every column of the source are duplicates."""
    keep: Literal["first", "last"] = "last"
    """Which one stays: the one of smallest or of largest `order_by`."""
    order_by: str | None = None
    """Column of numbers or times that orders rows of one key. Ties, and all rows of a key without it, are
    ordered by their seeded hash: never by the order of files or rows."""

    @model_validator(mode="after")
    def _ordered_keys(self) -> DeduplicateConfig:
        if self.order_by is not None and self.by is None:
            raise ValueError("`order_by` means nothing without `by`: equal rows are equal there too")
        return self


class CleanConfig(Section):
    """Which raw rows are left out before anything else, in this order; the report counts them by step."""

    where: str | None = None
    """Spark SQL condition; rows for which it holds stay. A text column beside a number counts as a number."""
    drop_missing: list[str] = Field(default_factory=list)
    """Columns; rows that lack a value (null, NaN or empty text) in one of them are dropped."""
    deduplicate: DeduplicateConfig | None = None
    k_core: dict[str, int] = Field(default_factory=dict)
    """Least number of rows by column, for instance `{user_id: 5, item_id: 5}`: rows of rarer values are
    dropped, again and again until every value that is left has enough."""

    @field_validator("k_core")
    @classmethod
    def _counts(cls, k_core: dict[str, int]) -> dict[str, int]:
        small = [name for name, least in k_core.items() if least < 1]
        if small:
            raise ValueError(f"`{small[0]}` needs a number of rows >= 1")
        return k_core


class WeightsByConfig(Section):
    """Sample weights by the values of a column, such as the type of the event."""

    column: str
    """Raw column."""
    values: dict[str, float] = Field(min_length=1)
    """Weight >= 0 by value, for instance `{view: 1, buy: 5}`."""
    other: float | None = Field(default=None, ge=0)
    """Weight of rows with another value or none; without it such rows are an error."""

    @field_validator("values", mode="before")
    @classmethod
    def _words(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {str(key) if type(key) is int else key: value for key, value in values.items()}

    @field_validator("values")
    @classmethod
    def _not_negative(cls, values: dict[str, float]) -> dict[str, float]:
        negative = [key for key, weight in values.items() if weight < 0]
        if negative:
            raise ValueError(f"the weight of `{negative[0]}` must be >= 0")
        return values


class DownsampleConfig(Section):
    """Down-sampling of the negatives of the training split."""

    keep: float = Field(gt=0, le=1)
    """Share of the training rows with label 0 that stays, chosen by a seeded hash of the row. Evaluation and
    scoring correct their probabilities for it."""


class KFoldConfig(Section):
    """One fold of a cross-validation: each row is a test row in exactly one of them."""

    k: int = Field(ge=2)
    """Number of folds."""
    fold: int = Field(ge=0)
    """The fold that is the test split, from 0."""
    valid_share: float | None = Field(default=None, ge=0, lt=1)
    """Share of the other folds' rows that is the validation split; without it, the whole next fold."""

    @model_validator(mode="after")
    def _folds(self) -> KFoldConfig:
        if self.fold >= self.k:
            raise ValueError(f"`fold` must be below `k`: 0 to {self.k - 1}")
        if self.k == 2 and self.valid_share is None:
            raise ValueError("two folds leave no training rows beside test and valid: give `valid_share`")
        return self


class _BySplit(Section):
    train: list[Any]
    valid: list[Any] = Field(default_factory=list)
    test: list[Any] = Field(default_factory=list)

    @model_validator(mode="after")
    def _in_one_split(self) -> _BySplit:
        seen: dict[str, str] = {}
        for name in ("train", "valid", "test"):
            for value in getattr(self, name):
                other = seen.setdefault(str(value), name)
                if other != name:
                    raise ValueError(f"`{value}` stands under `{other}` and `{name}`")
        return self


class SplitValuesConfig(_BySplit):
    """Values of the split column by split; a split without values is empty."""

    train: list[Word] = Field(min_length=1)
    valid: list[Word] = Field(default_factory=list)
    test: list[Word] = Field(default_factory=list)


class SplitFilesConfig(_BySplit):
    """Source files by split, as globs on the end of their paths: `train-*.csv`, `2024-0[1-9]/*`."""

    train: list[str] = Field(min_length=1)
    valid: list[str] = Field(default_factory=list)
    test: list[str] = Field(default_factory=list)


SplitMethod = Literal["random", "time", "leave_last", "column", "k_fold", "files"]
# The keys that belong to some methods only, and which of them a method cannot do without.
_METHOD_KEYS: dict[str, set[str]] = {
    "random": {"by"},
    "time": {"column", "until"},
    "leave_last": {"leave_last"},
    "column": {"column", "values"},
    "k_fold": {"k_fold", "by"},
    "files": {"files"},
}
_NEEDED = {
    "time": "column",
    "leave_last": "leave_last",
    "column": "column",
    "k_fold": "k_fold",
    "files": "files",
}
assert set(get_args(SplitMethod)) == set(_METHOD_KEYS)


class LeaveLastConfig(Section):
    """`method: leave_last`: each user's newest events are test, those before them valid, the others train."""

    user: str
    """Column of the user id."""
    time: str
    """Column of the event time, or any number that rises with it, such as `source.row_number`."""
    order_by: list[str] = Field(default_factory=list)
    """Columns that order a user's events of equal time, the larger value being the newer event. Events that
    are still equal are ordered by a hash of the row."""
    test: int = Field(default=1, ge=0)
    """Newest events of each user that are test rows."""
    valid: int = Field(default=1, ge=0)
    """Events before those that are valid rows."""
    short_users: Literal["train", "drop", "error"] = "train"
    """Users with fewer than `test + valid + 1` events: all their events train, or are dropped, or end it."""

    @model_validator(mode="after")
    def _something_left_out(self) -> LeaveLastConfig:
        if self.test + self.valid == 0:
            raise ValueError("`test` and `valid` are both 0: nothing is left out")
        return self


class SplitConfig(Section):
    """How rows are dealt into train, valid and test."""

    method: SplitMethod = "random"
    """`random`: by a seeded hash of the whole raw row, or of the column `by`; `time`: the oldest rows train,
    the newest test; `leave_last`: each user's newest rows are test; `column`: a column names the split;
    `k_fold`: one fold of several; `files`: by the file that a row comes from."""
    leave_last: LeaveLastConfig | None = Field(
        default=None, examples=[{"user": "user_id", "time": "timestamp"}]
    )
    """Users and times of `method: leave_last`."""
    column: str | None = Field(default=None, examples=["timestamp"])
    """Time column of `method: time`; split column of `method: column`."""
    fractions: tuple[float, float, float] = Field(
        default=(0.8, 0.1, 0.1), strict=False, examples=[[0.8, 0.1, 0.1]]
    )
    """Shares of train, valid and test for `random` and `time`; they sum to 1. A share of 0 leaves that split
    empty."""
    seed: int = Field(default=1, ge=0, le=LARGEST_SEED)
    """Fixes who is in which split, and the order of the prepared rows."""
    by: str | None = None
    """Column whose rows of one value share a split, such as the user id (`random`, `k_fold`)."""
    until: list[Moment] | None = Field(
        default=None, min_length=2, max_length=2, examples=[["2024-03-01", "2024-03-08"]]
    )
    """Times that cut instead of `fractions` (`time`): train is before the first, valid before the second,
    test the rest; equal ones leave no valid."""
    values: SplitValuesConfig | None = Field(
        default=None, examples=[{"train": ["train"], "valid": ["valid"], "test": ["test"]}]
    )
    """Which values mean which split (`column`); without it, `train`, `valid` and `test`."""
    k_fold: KFoldConfig | None = Field(default=None, examples=[{"k": 5, "fold": 0}])
    """Folds of `method: k_fold`."""
    files: SplitFilesConfig | None = Field(
        default=None, examples=[{"train": ["train-*.csv"], "test": ["test-*.csv"]}]
    )
    """Files of `method: files`."""

    @model_validator(mode="after")
    def _consistent(self) -> SplitConfig:
        needed = _NEEDED.get(self.method)
        if needed is not None and getattr(self, needed) is None:
            example = flow_yaml((type(self).model_fields[needed].examples or [None])[0])
            raise ValueError(f"`method: {self.method}` needs `{needed}`, for instance `{needed}: {example}`")
        # A column that `time` had may stay: `--set data.split.method=random` alone changes the method.
        others = set().union(*_METHOD_KEYS.values()) - _METHOD_KEYS[self.method] - {"column"}
        for name in sorted(others):
            if getattr(self, name) is not None:
                methods = ", ".join(method for method, keys in _METHOD_KEYS.items() if name in keys)
                raise ValueError(f"`{name}` means nothing for `method: {self.method}`, only for {methods}")
        if abs(sum(self.fractions) - 1.0) > 1e-9 or min(self.fractions) < 0 or self.fractions[0] <= 0:
            raise ValueError(
                "`fractions` must be three numbers >= 0 that sum to 1, the first above 0: the shares of "
                f"train, valid and test; {flow_yaml(list(self.fractions))} sum to {sum(self.fractions):g}"
            )
        return self

    def wanted(self) -> set[str]:
        """Return the splits that are not left empty on purpose; of the others nothing is known or asked."""
        by_split = self.values or self.files
        if by_split is not None:
            return {name for name in ("train", "valid", "test") if getattr(by_split, name)}
        if self.k_fold is not None:
            return {"train", "test"} | ({"valid"} if self.k_fold.valid_share != 0 else set())
        if self.until is not None:
            return {"train", "test"} | ({"valid"} if self.until[0] != self.until[1] else set())
        if self.method in ("random", "time"):
            shares = zip(("train", "valid", "test"), self.fractions, strict=True)
            return {name for name, share in shares if share > 0}
        return {"train"}
