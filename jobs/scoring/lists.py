"""Ranked lists of items for users, and how they are shown and stored."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray


@dataclass(frozen=True)
class RankedItem:
    """One place of a list.

    Attributes:
        rank: from 1.
        item: id.
        title: shown name; the id as text where there is none.
        subtitle: second line, such as genres; may be empty.
        score: predicted probability or rating.
    """

    rank: int
    item: Any
    title: str
    subtitle: str
    score: float


@dataclass(frozen=True)
class UserList:
    """One user's items, best first, and titles of items that the user liked before."""

    user: Any
    liked: list[str]
    items: list[RankedItem]


@dataclass(frozen=True)
class Recommendations:
    """Ranked lists of all users asked for.

    Attributes:
        user_column: raw column of the user id.
        item_column: raw column of the item id.
        users: the lists.
    """

    user_column: str
    item_column: str
    users: list[UserList]

    def text(self) -> str:
        """Return the lists as aligned text."""
        blocks = []
        for entry in self.users:
            width = max((len(item.title) for item in entry.items), default=0)
            lines = [f"{self.user_column} {entry.user}"]
            if entry.liked:
                lines.append(f"  liked before: {'; '.join(entry.liked)}")
            lines += [
                f"  {item.rank:>3}. {item.title:<{width}}  {item.score:.3f}  {item.subtitle}".rstrip()
                for item in entry.items
            ]
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks)

    def as_json(self) -> dict[str, Any]:
        """Return plain values, as stored in `recommendations.json`; ids that JSON does not have are text."""
        users = [asdict(entry) for entry in self.users]
        for entry in users:
            entry["user"] = _plain(entry["user"])
            entry["items"] = [{**item, "item": _plain(item["item"])} for item in entry["items"]]
        return {"user_column": self.user_column, "item_column": self.item_column, "users": users}

    def frame(self) -> pd.DataFrame:
        """Return one row per user and place."""
        rows = [
            {self.user_column: entry.user, self.item_column: item.item, **_shown(item)}
            for entry in self.users
            for item in entry.items
        ]
        columns = [self.user_column, self.item_column, "rank", "score", "title", "subtitle"]
        return pd.DataFrame(rows, columns=columns)

    def write_parquet(self, path: Path) -> None:
        """Write `frame()` to one Parquet file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pandas(self.frame(), preserve_index=False), path)


def _shown(item: RankedItem) -> dict[str, Any]:
    return {"rank": item.rank, "score": item.score, "title": item.title, "subtitle": item.subtitle}


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def shown_text(value: Any) -> str:
    """Return a subtitle as it is shown: lists, and text of them, with commas; empty where it is missing."""
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return "" if value is None else str(value).replace("|", ", ")


def top_k(users_N: NDArray[Any], scores_N: NDArray[np.float64], k: int) -> dict[Any, NDArray[np.int64]]:
    """Return for each user the rows of the k best scores, best first, ties in row order.

    Args:
        users_N: user of each row.
        scores_N: score of each row.
        k: places.
    """
    users, group_N = np.unique(users_N, return_inverse=True)
    order = np.lexsort((np.arange(len(scores_N)), -scores_N, group_N))
    starts = np.searchsorted(group_N[order], np.arange(len(users)))
    ends = np.append(starts[1:], len(order))
    return {
        user: order[start : min(end, start + k)]
        for user, start, end in zip(users.tolist(), starts, ends, strict=True)
    }
