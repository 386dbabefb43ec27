"""The recommendations section: what a few users liked, and what the model puts on top for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.reporting import formats

MAX_USERS = 12
MAX_LIKED = 12


@dataclass(frozen=True)
class RankedItem:
    """One recommended item as text."""

    rank: str
    title: str
    about: str
    score: str


@dataclass(frozen=True)
class UserList:
    """One user's list.

    Attributes:
        user: `<column> <id>`.
        liked: items that the user liked before.
        more_liked: how many more there are.
        items: the items on top.
    """

    user: str
    liked: tuple[str, ...]
    more_liked: int
    items: tuple[RankedItem, ...]


def user_lists(recommendations: Mapping[str, Any]) -> tuple[UserList, ...]:
    """Return the lists of the first users."""
    column = str(recommendations.get("user_column") or "user")
    users = recommendations.get("users") or []
    return tuple(_user_list(column, user) for user in users[:MAX_USERS])


def num_users_left_out(recommendations: Mapping[str, Any]) -> int:
    """Return how many users of the file are not shown."""
    return max(len(recommendations.get("users") or []) - MAX_USERS, 0)


def _user_list(column: str, user: Mapping[str, Any]) -> UserList:
    name = f"{column} {user.get('user')}"
    liked = [str(item) for item in user.get("liked") or []]
    items = tuple(_ranked(item) for item in user.get("items") or [])
    return UserList(name, tuple(liked[:MAX_LIKED]), max(len(liked) - MAX_LIKED, 0), items)


def _ranked(item: Mapping[str, Any]) -> RankedItem:
    title = item.get("title")
    return RankedItem(
        rank=formats.count(item.get("rank")),
        title=str(item.get("item") if title in (None, "") else title),
        about=str(item.get("subtitle") or ""),
        score=formats.decimal(item.get("score")),
    )
