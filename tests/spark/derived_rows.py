"""One small frame for all features made of several rows, their config, and brute-force references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tests.spark.prepared import make_run
from trainer.config import RunConfig

ROWS = 300
FILLED = -1.0
PRIOR = 0.25
# Features of `earlier` with the config that makes each.
EARLIER: dict[str, dict[str, Any]] = {
    "user_count": {"by": "user", "what": "count"},
    "liked_count": {"by": ["user"], "what": "count", "where": "label = 1"},
    "user_rate": {"by": "user", "what": "rate", "smoothing": 3.0},
    "item_rate": {"by": "item", "what": "rate", "smoothing": 2.0, "prior": PRIOR, "window_seconds": 12.0},
    "pair_mean": {"by": ["user", "device"], "what": "mean", "of": "watched"},
    "since": {"by": "user", "what": "recency"},
    "since_liked": {"by": "item", "what": "recency", "where": "label = 1", "window_seconds": 5.0},
    "late_window": {
        "by": "user",
        "what": "mean",
        "of": "watched",
        "delay_seconds": 2.0,
        "window_seconds": 9.0,
    },
    "late_since": {"by": "user", "what": "recency", "delay_seconds": 6.0},
}
ENCODINGS: dict[str, dict[str, Any]] = {
    "item_target": {"by": "item", "folds": 3, "smoothing": 2.0},
    "pair_target": {"by": ["item", "device"], "folds": 4, "smoothing": 0.0, "seed": 9},
}
HISTORIES: dict[str, dict[str, Any]] = {
    "liked": {"user": "user", "item": "item", "max_length": 4, "where": "label = 1"},
    "watchers": {"user": "item", "item": "user", "max_length": 3},
    "tied": {"user": "user", "item": "item", "max_length": 5, "include_ties": True},
}


def derived_run() -> RunConfig:
    """Return a config with every feature above; a missing number becomes `FILLED`."""
    fill = {"ops": [{"fill": FILLED}]}
    histories = [
        {"name": name, "history": {"time": "time", **section}, "table": section["item"]}
        for name, section in HISTORIES.items()
    ]
    histories[-1]["ops"] = [{"fill": "nothing"}]
    return make_run(
        data={"keep": ["row"]},
        dense=[
            *({"name": n, "earlier": {"time": "time", **s}, **fill} for n, s in EARLIER.items()),
            *({"name": n, "target_encoding": s, **fill} for n, s in ENCODINGS.items()),
        ],
        sparse=[
            {"columns": "item", "ops": [{"fill": "nothing"}, "vocabulary"]},
            {"columns": "user", "ops": ["vocabulary"]},
        ],
        sequence=histories,
    ).override("recommend={user: user, item: item}")


def derived_frame() -> pd.DataFrame:
    """Return few ids and moments, so that many rows share one; one user with most rows; some ids missing."""
    random = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "row": np.arange(ROWS),
            "user": random.choice(["a", "b", "c", "heavy", None, ""], ROWS, p=[0.1, 0.1, 0.1, 0.5, 0.1, 0.1]),
            "item": random.choice([*"0123456789", None], ROWS),
            "device": random.choice(["phone", "tv", None], ROWS, p=[0.5, 0.4, 0.1]),
            "time": random.integers(0, 60, ROWS).astype(float),
            "watched": np.where(random.random(ROWS) < 0.2, np.nan, random.normal(size=ROWS).round(3)),
            "label": random.integers(0, 2, ROWS),
        }
    )
    # Rows that belong to nobody need no time.
    frame.loc[:4, ["user", "item", "time"]] = [None, None, np.nan]
    return frame


def same_ids(frame: pd.DataFrame, row: Any, names: list[str]) -> pd.DataFrame | None:
    """Return the rows with the row's ids, or None where one of them is missing."""
    ids = [getattr(row, name) for name in names]
    if any(value is None or value == "" for value in ids):
        return None
    return frame[(frame[names] == ids).all(axis=1)]


def earlier_number(frame: pd.DataFrame, row: Any, section: dict[str, Any], prior: float) -> float:
    """Return what `earlier` means, by filtering the frame; NaN where it is missing."""
    by = section["by"] if isinstance(section["by"], list) else [section["by"]]
    seen = same_ids(frame, row, by)
    if seen is None:
        return float("nan")
    seen = seen[seen["time"] < row.time - section.get("delay_seconds", 0.0)]
    seen = seen[seen["time"] >= row.time - section.get("window_seconds", np.inf)]
    if "where" in section:
        seen = seen[seen["label"] == 1]
    if section["what"] == "count":
        return len(seen)
    if section["what"] == "recency":
        return row.time - seen["time"].max()
    values = seen[section.get("of", "label")].dropna()
    weight = len(values) + section.get("smoothing", 0.0)
    if weight == 0:
        return float("nan")
    return (values.sum() + section.get("smoothing", 0.0) * section.get("prior", prior)) / weight


def earlier_items(frame: pd.DataFrame, row: Any, name: str) -> list[str]:
    """Return a history, by filtering the frame; events of one moment are in the order of their items."""
    section = HISTORIES[name]
    seen = same_ids(frame, row, [section["user"]])
    if seen is None:
        return []
    item = section["item"]
    own = getattr(row, item) or ""
    events = seen.assign(**{item: seen[item].fillna("")})
    earlier = events["time"] < row.time
    if section.get("include_ties"):
        earlier |= (events["time"] == row.time) & (events[item] < own)
    events = events[earlier]
    if "where" in section:
        events = events[events["label"] == 1]
    # A missing item, which only `tied` fills in, sorts first.
    events = events.sort_values(["time", item], kind="stable")
    items = ["nothing" if value == "" else value for value in events[item] if value != "" or name == "tied"]
    return items[-section["max_length"] :]
