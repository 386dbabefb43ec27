"""Documented examples of features that are made of several columns or rows; the tests run each one.

All of them are made of the same few rows, `EVENTS`. Features of precomputed vectors have a page of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

EVENTS: Mapping[str, list[Any]] = {
    "user": ["ann", "ann", "ann", "ann", "bob", "bob"],
    "film": ["Alien", "Brazil", "Casablanca", "Dune", "Alien", "Brazil"],
    "device": ["tv", "phone", "tv", None, "phone", "phone"],
    "time": [10, 20, 30, 30, 15, 40],
    "watched": [90.0, 30.0, 60.0, None, 100.0, 20.0],
    "label": [1, 0, 1, 1, 1, 0],
}
"""Training rows by column; `time` is in seconds."""
NEW_EVENTS: Mapping[str, list[Any]] = {"film": ["Alien", "Brazil", "Casablanca", "Nosferatu", None]}
"""Rows to be scored: no training rows, and without labels."""


@dataclass(frozen=True)
class MadeExample:
    """A feature of `EVENTS`.

    Attributes:
        kind: section of the config that it stands in.
        group: as in the config, without the name.
        columns: that it is made of, for readers.
        gives: what the prepared column holds for each of the rows.
        scored: whether the rows are `NEW_EVENTS`.
    """

    kind: Literal["dense", "sparse", "sequence"]
    group: Mapping[str, Any]
    columns: tuple[str, ...]
    gives: list[Any]
    scored: bool = False

    @property
    def rows(self) -> Mapping[str, list[Any]]:
        """Return the raw columns that the feature is made of."""
        events = NEW_EVENTS if self.scored else EVENTS
        return {name: events[name] for name in self.columns}


def _cross(op: Any, gives: list[Any]) -> MadeExample:
    columns = ("film", "device")
    return MadeExample("sparse", {"cross": list(columns), "ops": [op]}, columns, gives)


def _history(section: Mapping[str, Any], gives: list[Any], *columns: str) -> MadeExample:
    history = {"user": "user", "item": "film", "time": "time", **section}
    group = {"history": history, "ops": ["vocabulary"]}
    return MadeExample("sequence", group, ("user", "film", "time", *columns), gives)


def _earlier(
    section: Mapping[str, Any], gives: list[Any], *columns: str, fill: float | None = None
) -> MadeExample:
    ops: dict[str, Any] = {} if fill is None else {"ops": [{"fill": fill}]}
    group: dict[str, Any] = {"earlier": {"by": section["by"], "time": "time", **section}, **ops}
    return MadeExample("dense", group, (section["by"], "time", *columns), gives)


MADE_EXAMPLES: Mapping[str, tuple[MadeExample, ...]] = {
    "cross": (
        _cross("vocabulary", [4, 2, 5, 0, 3, 2]),
        _cross({"hash": 1000}, [581, 62, 65, 0, 828, 62]),
    ),
    "history": (
        _history({}, [[], [2], [2, 3], [2, 3], [], [2]]),
        _history({"max_length": 1, "where": "label = 1"}, [[], [2], [2], [2], [], [2]], "label"),
    ),
    "earlier": (
        _earlier({"by": "user", "what": "count"}, [0.0, 1.0, 2.0, 2.0, 0.0, 1.0]),
        _earlier({"by": "user", "what": "count", "window_seconds": 10}, [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]),
        _earlier(
            {"by": "film", "what": "rate", "smoothing": 1, "prior": 0.5},
            [0.5, 0.5, 0.5, 0.5, 0.75, 0.25],
            "label",
        ),
        _earlier(
            {"by": "user", "what": "mean", "of": "watched"},
            [0.0, 90.0, 60.0, 60.0, 0.0, 100.0],
            "watched",
            fill=0,
        ),
        _earlier({"by": "user", "what": "recency"}, [-1.0, 10.0, 10.0, 10.0, -1.0, 25.0], fill=-1),
    ),
    "target_encoding": (
        MadeExample(
            "dense",
            {"target_encoding": {"by": "film", "smoothing": 1}},
            ("film",),
            [0.8888889, 0.2222222, 0.8333333, 0.6666667, 0.6666667],
            scored=True,
        ),
    ),
}
"""Examples by the key that makes the feature."""
