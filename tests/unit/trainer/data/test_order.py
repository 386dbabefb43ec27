"""The order of samples against its definition, without files."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.order import LaneOrder, SplitOrder, lane_bounds, seeded_permutation
from trainer.schema import PartFile, Split


def split_of(row_groups: list[list[int]]) -> Split:
    files = tuple(
        PartFile(path=f"train/{i}.parquet", rows=sum(groups), row_groups=tuple(groups), bytes=0)
        for i, groups in enumerate(row_groups)
    )
    return Split(rows=sum(file.rows for file in files), positives=0, files=files)


def stream(lane: LaneOrder, first: int = 0) -> list[int]:
    """Read a lane from a position on, window by window."""
    rows: list[int] = []
    for window in lane.windows_between(first, lane.rows):
        numbers = np.concatenate(
            [np.arange(p.first_row, p.first_row + p.stop - p.start) for p in lane.pieces(window)]
        )
        order = lane.permutation(window)
        numbers = numbers if order is None else numbers[order]
        rows += numbers[max(0, first - int(lane.window_starts[window])) :].tolist()
    return rows


FROZEN = [3, 1, 7, 4, 6, 0, 2, 5]

layouts = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=5), min_size=1, max_size=4)


@given(layouts, st.integers(1, 12), st.integers(0, 3), st.booleans(), st.integers(1, 5), st.data())
def test_every_lane_streams_its_own_rows_once_and_can_start_anywhere(
    layout: list[list[int]], num_lanes: int, epoch: int, shuffle: bool, window: int, data: st.DataObject
) -> None:
    split = split_of(layout)
    order = SplitOrder(split, num_lanes=num_lanes, seed=5, shuffle=shuffle, window_row_groups=window)
    bounds = lane_bounds(split.rows, num_lanes)
    for number in range(num_lanes):
        lane = order.lane(number, epoch)
        rows = stream(lane)
        assert sorted(rows) == list(range(bounds[number], bounds[number + 1]))
        if not shuffle:
            assert rows == sorted(rows)
        first = data.draw(st.integers(0, lane.rows))
        assert stream(lane, first) == rows[first:]


@given(st.integers(0, 10_000), st.integers(1, 64))
def test_lanes_are_contiguous_and_differ_by_at_most_one_row(rows: int, num_lanes: int) -> None:
    sizes = np.diff(lane_bounds(rows, num_lanes))
    assert sizes.sum() == rows
    assert sizes.max() - sizes.min() <= 1


@given(st.integers(0, 3000), st.lists(st.integers(0, 2**31), min_size=1, max_size=4))
def test_seeded_permutation_is_a_permutation(size: int, key: list[int]) -> None:
    assert np.array_equal(np.sort(seeded_permutation(size, *key)), np.arange(size))


def test_seeded_permutation_never_changes() -> None:
    # Frozen: running jobs resume by this order. The keys are distinct 64-bit words, so that sorting them
    # in plain Python must give the same.
    assert seeded_permutation(8, 1, 2, 3, 4).tolist() == FROZEN
    words = np.random.PCG64(np.random.SeedSequence((1, 2, 3, 4))).random_raw(8).tolist()
    keys = sorted(((word << 4) % 2**64) | place for place, word in enumerate(words))
    assert [key % 16 for key in keys] == FROZEN


def test_permutations_are_uniform() -> None:
    first = [int(seeded_permutation(4, seed)[0]) for seed in range(4000)]
    counts = np.bincount(first, minlength=4)
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)


def test_orders_differ_by_seed_epoch_and_lane_and_repeat_for_the_same() -> None:
    split = split_of([[50] * 8])

    def rows(seed: int, epoch: int) -> list[int]:
        order = SplitOrder(split, num_lanes=2, seed=seed, shuffle=True, window_row_groups=2)
        return stream(order.lane(0, epoch))

    assert rows(1, 0) == rows(1, 0)
    assert len({tuple(rows(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_a_window_mixes_rows_of_as_many_row_groups_as_asked_for() -> None:
    order = SplitOrder(split_of([[100] * 16]), num_lanes=1, seed=1, shuffle=True, window_row_groups=4)
    lane = order.lane(0, 0)
    rows = np.array(stream(lane))
    groups_of_windows = [
        set((rows[start:stop] // 100).tolist())
        for start, stop in zip(lane.window_starts[:-1], lane.window_starts[1:], strict=True)
    ]
    assert [len(groups) for groups in groups_of_windows] == [1, 4, 4, 4, 3]
    # Not in file order: a sorted stream has correlation 1, a perfectly mixed one about 0.
    assert abs(np.corrcoef(rows, np.arange(len(rows)))[0, 1]) < 0.7
    inside = rows[100:500]
    assert len(set((inside[:40] // 100).tolist())) == 4


def test_lanes_change_windows_at_different_rows() -> None:
    order = SplitOrder(split_of([[10] * 80]), num_lanes=8, seed=1, shuffle=True, window_row_groups=4)
    assert len({int(order.lane(lane, 0).window_starts[1]) for lane in range(8)}) == 4
