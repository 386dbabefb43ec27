"""What tasks count of the raw rows in the pass over them, and how the counts of several are added up."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.preparation.label_times import with_times
from jobs.preparation.moments import Moments
from trainer.features.values import Floats


@dataclass
class Facts:
    """What a task has seen, to be added up.

    Attributes:
        rows: by split.
        positives: rows with label 1 of the first task, by split.
        labels: moments of the labels by split and number of the task, each as one text.
        missing: missing values of training rows, by feature.
        tokens: by feature of ids.
        largest: id, by feature that holds ids already.
        spans: oldest and newest time in seconds since 1970, by feature that reads times.
        source_rows: rows of the source itself, without negatives.
        unmatched: such rows without a row of a side table, by the number of the join.
        hashes: sum of the rows' hashes.
        kept_bytes: of the columns to keep.
        num_counts: counts handed on.
        times: see `label_times`, by split.
        bad: how many rows are bad, and their least value, by key.
    """

    rows: Counter[str] = field(default_factory=Counter)
    positives: Counter[str] = field(default_factory=Counter)
    labels: dict[str, Moments] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    largest: dict[str, int] = field(default_factory=dict)
    spans: dict[str, list[float]] = field(default_factory=dict)
    source_rows: int = 0
    unmatched: Counter[str] = field(default_factory=Counter)
    hashes: int = 0
    kept_bytes: int = 0
    num_counts: int = 0
    times: dict[str, list[Any]] = field(default_factory=dict)
    bad: dict[str, tuple[int, str]] = field(default_factory=dict)

    def found(self, key: str, bad: NDArray[np.bool_], shown: Any) -> None:
        """Note bad rows; `shown` holds the values of all rows, or of all numbers of each row."""
        if bad.any():
            rows = any_in_row(bad)
            values = pa.array(shown[bad]) if isinstance(shown, np.ndarray) else shown.filter(pa.array(rows))
            quotes = [str(value) for value in values.to_pylist() if value == value]  # not NaN
            self.add_bad(key, int(rows.sum()), min(quotes, default=""))

    def see_label(self, task: int, splits: pa.Array, label: pa.Array) -> None:
        """Note a task's labels of some rows, null where a row does not count for it."""
        values = label.to_numpy(zero_copy_only=False).astype(np.float64)
        for split in pc.unique(splits).to_pylist():
            own = pc.equal(splits, split).to_numpy(zero_copy_only=False) & ~np.isnan(values)
            self._add_label(label_key(split, task), Moments.of(values[own]))

    def _add_label(self, key: str, found: Moments) -> None:
        self.labels.setdefault(key, Moments()).add(found)

    def see_times(self, feature: str, seconds: Floats) -> None:
        """Note the times of some rows, NaN where there is none."""
        there = seconds[np.isfinite(seconds)]
        if len(there):
            self._add_span(feature, [float(there.min()), float(there.max())])

    def _add_span(self, feature: str, span: list[float]) -> None:
        oldest, newest = self.spans.get(feature, span)
        self.spans[feature] = [min(oldest, span[0]), max(newest, span[1])]

    def add_bad(self, key: str, count: int, quote: str) -> None:
        """Note a number of bad rows and one of their values."""
        before = self.bad.get(key)
        self.bad[key] = (count, quote) if before is None else (before[0] + count, min(before[1], quote))

    def add(self, text: str) -> None:
        """Add what another task has seen."""
        said = json.loads(text)
        for name in ("rows", "positives", "missing", "tokens", "unmatched"):
            getattr(self, name).update(said[name])
        for key, values in said["labels"].items():
            self._add_label(key, Moments(**values))
        self.hashes = (self.hashes + said["hashes"]) % 2**64
        self.source_rows += said["source_rows"]
        self.kept_bytes += said["kept_bytes"]
        self.num_counts += said["num_counts"]
        self.times = with_times(self.times, said["times"])
        for feature, largest in said["largest"].items():
            self.largest[feature] = max(largest, self.largest.get(feature, 0))
        for feature, span in said["spans"].items():
            self._add_span(feature, span)
        for key, (count, quote) in said["bad"].items():
            self.add_bad(key, count, quote)

    def as_json(self) -> str:
        """Return it as text."""
        return json.dumps({**vars(self), "labels": {key: vars(found) for key, found in self.labels.items()}})


def label_key(split: str, task: int) -> str:
    """Return the key of a task's label in `Facts.labels`."""
    return f"{split}\n{task}"


def any_in_row(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return bool [N] of bool [N], or whether any of a row's numbers is meant of bool [N, D]."""
    return found if found.ndim == 1 else found.any(axis=1)
