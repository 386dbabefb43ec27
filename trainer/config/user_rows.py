"""Config section `data.user_rows`: rows of users, with the items they met and those to be found."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from trainer.config.base import LARGEST_SEED, Section
from trainer.config.rows import SplitConfig

TARGETS = "targets"
"""Column, and feature, of the items to be found."""


class HoldOutConfig(Section):
    """How much of what a user met is to be found, where all events of a user lie in one split."""

    share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the user's items, rounded down; a seeded hash of user and item chooses them."""
    at_least: int = Field(default=1, ge=1)
    """Items of a user at least."""
    seed: int = Field(default=1, ge=0, le=LARGEST_SEED)
    """Fixes which items are held out."""


class UserRowsConfig(Section):
    """One row per user and split in place of the user's positive events (label 1); others are left out.

    A row has `by`, `user_columns`, the `lists`, and the list `targets`; all other columns are missing in it:
    those of an item would tell the target.
    """

    by: str
    """Column of the user, or of a session."""
    order_by: list[str] = Field(min_length=1)
    """Time of an event, or any number that rises with it, then columns that order events of equal time: the
    larger value is the newer event. Events that are still equal are ordered by a hash of the row."""
    lists: dict[str, str] = Field(min_length=1)
    """New list columns by the event column that each is made of: `{seen: item_id, seen_rating: rating}`. All
    hold the same events, oldest first: those of train; in test those of valid too. With `hold_out`, the
    user's events but those held out."""
    targets: str
    """Event column of the items to be found, which a new column `targets` lists, each once: the user's items
    of the row's own split, or those held out; empty in train. They become a target feature by themselves."""
    ids_of: str | None = None
    """Feature that numbers the ids of the targets; default the one made of `targets` or of a list of it."""
    drop_seen: bool = True
    """Leave out targets that the user met before, as ranking leaves out what was seen; `false` for items that
    are met again and again: `evaluate`, baselines and `recommend` then rank what was seen like any other
    item. Of no effect with `hold_out`, whose targets are never among the events listed."""
    user_columns: list[str] = Field(default_factory=list)
    """Columns that belong to the user: the newest value among the events of `lists` stays."""
    max_length: int | None = Field(default=None, ge=1)
    """So many newest events in a list; default all."""
    splits: list[Literal["train", "valid", "test"]] = Field(default=["train", "valid", "test"], min_length=1)
    """Splits of user rows; the rows of others stay events, whose lists and targets are empty."""
    hold_out: HoldOutConfig | None = None
    """Needed where `split.by` deals whole users: the items to be found are then taken out of their own."""
    min_items: int = Field(default=1, ge=1)
    """Rows with fewer events in their lists are left out; so are those of valid and test without targets."""

    @field_validator("order_by", mode="before")
    @classmethod
    def _one_column(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names(self) -> UserRowsConfig:
        known = [self.by, *self.order_by, *self.lists.values(), self.targets, *self.user_columns]
        for name in self.lists:
            if name == TARGETS or name in known:
                raise ValueError(f"`lists.{name}` takes the name of another column")
        if self.by in self.user_columns:
            raise ValueError(f"`{self.by}` stays by itself: leave it out of `user_columns`")
        items = [
            name for name in (self.targets, *self.lists.values()) if name in (self.by, *self.user_columns)
        ]
        if items:
            raise ValueError(f"`{items[0]}` cannot belong to the user and to an event")
        if self.max_length is not None and self.min_items > self.max_length:
            raise ValueError("no row has `min_items` events where `max_length` keeps fewer")
        if len(set(self.splits)) < len(self.splits):
            raise ValueError("a split stands twice under `splits`")
        if self.hold_out is not None and self.splits == ["train"]:
            raise ValueError("`hold_out` is for valid and test, which are not under `splits`")
        return self

    @property
    def ranks_seen(self) -> bool:
        """Return whether items that a row lists may be to be found, and so are ranked for it."""
        return not self.drop_seen and self.hold_out is None

    @property
    def evaluates(self) -> bool:
        """Return whether rows of valid or test are those of users."""
        return self.splits != ["train"]

    def check_split(self, split: SplitConfig) -> None:
        """Check that `hold_out` fits the way rows are dealt.

        Raises:
            ValueError: it is missing where each user lies in one split, or useless where they lie in several.
        """
        whole = split.by is not None and split.by == self.by
        if whole and self.hold_out is None and self.evaluates:
            raise ValueError(
                f"`split.by: {split.by}` leaves no events before those of valid and test: give "
                "`user_rows.hold_out: {share: 0.2}`"
            )
        by_events = split.method in ("time", "leave_last") or (
            split.method in ("random", "k_fold") and split.by is None
        )
        if by_events and self.hold_out is not None:
            raise ValueError(
                f"`user_rows.hold_out` is for users of one split; `split.method: {split.method}` deals their "
                f"events, so leave it out or give `split.by: {self.by}`"
            )
