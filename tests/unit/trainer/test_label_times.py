"""Label rate over time: bins add up in any order, and points are what pandas makes of the rows."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pandas as pd
import pytest

from trainer.label_times import MAX_BINS, Floats, TimeBins, joined, point_count

RNG = np.random.default_rng(5)
TIMES = {
    "seconds": RNG.integers(1_500_000_000, 1_510_000_000, 20_000).astype(float),
    "days": RNG.integers(-400, 400, 20_000) * 86_400.0,
    "few": RNG.integers(0, 3, 20_000).astype(float),
    "fractions": RNG.random(20_000) * 1e-3,
    "nanoseconds": RNG.integers(1_500_000_000, 1_600_000_000, 20_000) * 1e9,
    "one and a far one": np.append(np.full(19_999, 7.0), 1e18),
}


def labels_of(times: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return RNG.random(len(times)) < 0.1 + 0.5 * (pd.Series(times).rank(pct=True).to_numpy() > 0.5)


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_bins_do_not_depend_on_order_and_tasks(times: Floats) -> None:
    labels = labels_of(times)
    whole = TimeBins.of(times, labels)
    order = RNG.permutation(len(times))
    parts = [TimeBins.of(times[rows], labels[rows]) for rows in np.array_split(order, 7)]
    added = reduce(TimeBins.plus, [TimeBins.from_plain(part.plain()) for part in parts])
    assert (added.exponent, added.table.tolist()) == (whole.exponent, whole.table.tolist())
    assert len(whole.table) <= MAX_BINS
    assert (whole.table[:, 1].sum(), whole.table[:, 2].sum()) == (len(times), labels.sum())


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_points_hold_the_rows_between_their_times(times: Floats) -> None:
    labels = labels_of(times)
    bins = TimeBins.of(times, labels)
    points = bins.points()
    assert 1 <= len(points) <= 60
    rows = pd.DataFrame({"time": times, "label": labels}).sort_values("time")
    ends = np.cumsum([count for _, count, _ in points])
    assert ends[-1] == len(rows)
    for (time, count, positives), end in zip(points, ends, strict=True):
        part = rows.iloc[end - count : end]
        assert positives == part.label.sum()
        assert part.time.min() <= time <= part.time.max()
        # No two rows of one time are in two points.
        assert end == len(rows) or rows.time.iloc[end - 1] < rows.time.iloc[end]


def test_points_are_about_equally_many_rows() -> None:
    times = TIMES["seconds"]
    points = TimeBins.of(times, np.arange(len(times)) % 2 == 0).points()
    assert len(points) == 60
    counts = [count for _, count, _ in points]
    assert max(abs(count - len(times) / 60) for count in counts) <= 3 * len(times) / MAX_BINS


def test_times_that_are_missing_or_endless_are_left_out() -> None:
    times = np.array([np.nan, np.inf, -np.inf, 3.0, 3.0, 5.0])
    bins = TimeBins.of(times, np.array([True, True, False, True, False, True]))
    assert bins.points() == ((11 / 3, 3, 2),)
    assert TimeBins.of(times[:3], np.ones(3, dtype=bool)).points() == ()
    assert TimeBins.of(times[:3], np.ones(3, dtype=bool)).plus(bins).points() == bins.points()


def test_points_are_joined_in_the_order_of_time() -> None:
    later, earlier = (20.0, 400, 200), (10.0, 400, 100)
    both = np.array([later, earlier])
    points = joined(both[:, 0], both[:, 1].astype(np.int64), both[:, 2].astype(np.int64))
    assert points == (earlier, later)


def test_each_point_has_about_a_hundred_rows_of_the_rarer_class() -> None:
    assert point_count(10_000, 500) == 5
    assert point_count(10_000, 9_500) == 5
    assert point_count(100, 50) == 1
    assert point_count(100_000, 50_000) == 60
