"""Config section `recommend`."""

from __future__ import annotations

from pydantic import Field

from trainer.config.base import Section


class RecommendConfig(Section):
    """Which columns `recommend` ranks."""

    user: str
    """Column of the user id."""
    item: str
    """Column of the item id."""
    title: str | None = None
    """Column with the item's title, from the rows or a joined side table."""
    subtitle: str | None = None
    """Column shown beside the title, such as a genre list."""
    time: str | None = None
    """Column of the event time, to show what a user liked last; else the liked items come in id order."""
    user_columns: list[str] = Field(default_factory=list)
    """Columns of the rows (not of a side table) that belong to the user; the newest value counts."""
    item_columns: list[str] = Field(default_factory=list)
    """Columns of the rows (not of a side table) that belong to the item."""
    task: str | None = None
    """Task that items are ranked by, where `data.labels` names several; default the first."""
    exclude_seen: bool | None = None
    """Leave out items that the user already has in the raw rows. Default: true, but false for rows of users
    that are to find such items (`data.user_rows.drop_seen: false`)."""
