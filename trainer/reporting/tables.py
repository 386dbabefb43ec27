"""The one form that every table and every tile of a report has, so that the template draws them all alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """One number with its name and the words that put it in place."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Column:
    """A table's column; numbers are aligned to the right."""

    title: str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row names the row.

    Attributes:
        caption: what it shows.
        columns: titles.
        rows: cells as text, not escaped yet.
        note: a line under the table.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    @property
    def long(self) -> bool:
        """Return whether the table should start folded."""
        return len(self.rows) > 40


def make_table(
    caption: str,
    titles: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    text: Iterable[int] = (0,),
    note: str = "",
) -> Table:
    """Build a table.

    Args:
        caption: what it shows.
        titles: of the columns.
        rows: cells as text.
        text: numbers of the columns that hold words; all others hold numbers.
        note: a line under the table.
    """
    words = set(text)
    columns = tuple(Column(title, index not in words) for index, title in enumerate(titles))
    return Table(caption, columns, tuple(tuple(row) for row in rows), note)


def limited(rows: Sequence[Sequence[str]], limit: int, what: str) -> tuple[Sequence[Sequence[str]], str]:
    """Return the first rows, and a note that says how many were left out."""
    if len(rows) <= limit:
        return rows, ""
    return rows[:limit], f"The first {limit} of {len(rows):,} {what}."
