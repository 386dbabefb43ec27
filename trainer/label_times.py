"""Label rate over time: counted in bins while rows pass by in any order, then joined into points.

The bins are a power of two wide and begin at its multiples: the narrowest with which all times of the rows
fall into `MAX_BINS` of them. So what is counted depends neither on the order of the rows nor on the tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_BINS = 1024
MAX_POINTS = 60
# Rows of the rarer class that a point should have: the standard error is then a tenth of its rate.
PER_POINT = 100
_NARROWEST = -10
_LARGEST_TIME = 1e300


@dataclass(frozen=True)
class TimeBins:
    """Rows counted by time.

    Attributes:
        exponent: the bins are 2 ** exponent wide.
        table: float64 [bins, 5]: number of the bin, rows, positives, least and largest time; rising.
    """

    exponent: int
    table: Floats

    @classmethod
    def of(cls, times: Floats, positive: NDArray[np.bool_]) -> TimeBins:
        """Count rows; those without a finite time are left out.

        Args:
            times: [N].
            positive: [N], whether the label is 1.
        """
        there = np.abs(times) < _LARGEST_TIME
        x = times[there]
        bins = np.floor(np.ldexp(x, -_NARROWEST))
        return _fitted(_NARROWEST, np.stack([bins, np.ones(len(x)), positive[there], x, x], axis=1))

    def plus(self, other: TimeBins) -> TimeBins:
        """Return the counts of both."""
        exponent = max(self.exponent, other.exponent)
        return _fitted(exponent, np.concatenate([each._wider(exponent) for each in (self, other)]))

    def plain(self) -> list[Any]:
        """Return the counts as JSON has them."""
        return [self.exponent, self.table.tolist()]

    @classmethod
    def from_plain(cls, values: list[Any]) -> TimeBins:
        """Return what `plain` wrote."""
        return cls(values[0], np.array(values[1], dtype=np.float64).reshape(-1, 5))

    def points(self) -> tuple[tuple[float, int, int], ...]:
        """Return time, rows and positives of up to `MAX_POINTS` points, see `joined`."""
        _, rows, positives, first, last = self.table.T
        return joined((first + last) / 2, rows.astype(np.int64), positives.astype(np.int64))

    def _wider(self, exponent: int) -> Floats:
        table = self.table.copy()
        table[:, 0] = np.floor(np.ldexp(table[:, 0], self.exponent - exponent))
        return table


def _fitted(exponent: int, table: Floats) -> TimeBins:
    """Return bins of a table of rows or bins in any order, wide enough to be few."""
    table = table[np.argsort(table[:, 0], kind="stable")]
    bins = table[:, 0]
    while np.count_nonzero(np.diff(bins)) >= MAX_BINS:
        bins = np.floor(bins / 2)
        exponent += 1
    starts = np.flatnonzero(np.diff(bins, prepend=np.nan) != 0)
    if not len(starts):
        return TimeBins(exponent, table)
    counts = np.add.reduceat(table[:, 1:3], starts)
    first, last = np.minimum.reduceat(table[:, 3], starts), np.maximum.reduceat(table[:, 4], starts)
    return TimeBins(exponent, np.column_stack([bins[starts], counts, first, last]))


def point_count(rows: int, positives: int) -> int:
    """Return how many points give each about `PER_POINT` rows of the rarer class."""
    return max(1, min(MAX_POINTS, min(positives, rows - positives) // PER_POINT))


def joined(times: Floats, rows: Ints, positives: Ints) -> tuple[tuple[float, int, int], ...]:
    """Join neighbours in time into points of about equally many rows.

    Args:
        times: [N], in any order.
        rows: [N], rows of each.
        positives: [N], those with label 1.

    Returns:
        Mean time, rows and positives of each point, in the order of time.
    """
    if not len(times):
        return ()
    order = np.argsort(times, kind="stable")
    times, rows, positives = times[order], rows[order], positives[order]
    total = int(rows.sum())
    count = point_count(total, int(positives.sum()))
    middles = np.cumsum(rows) - rows / 2
    starts = np.flatnonzero(np.diff(np.floor(middles * count / total), prepend=-1.0))
    sums = [np.add.reduceat(values, starts) for values in (times * rows, rows, positives)]
    means = sums[0] / sums[1]
    return tuple(zip(means.tolist(), sums[1].tolist(), sums[2].tolist(), strict=True))
