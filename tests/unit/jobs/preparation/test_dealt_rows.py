"""Rows dealt by a guess of the parts: every part gets its rows, whatever the guess was."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.preparation.columns import HASH, ORDER, SPLIT
from jobs.preparation.dealt_rows import Dealing
from jobs.preparation.writing import Layout
from trainer.schema import SPLITS

_PARTS = st.tuples(st.integers(0, 7), st.integers(0, 4), st.integers(0, 3))
_ENDS = [-(2**63), -(2**63) + 1, -1, 0, 1, 2**62, -(2**62), 2**63 - 1]
_ORDERS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from(_ENDS))
_ROWS = st.lists(st.tuples(st.integers(0, 2), _ORDERS), max_size=60)


def rows_of(rows: list[tuple[int, int]], first: int) -> dict[str, pa.Array]:
    return {
        SPLIT: pa.array([SPLITS[split] for split, _ in rows], pa.string()),
        ORDER: pa.array([order for _, order in rows], pa.int64()),
        HASH: pa.array(range(first, first + len(rows)), pa.int64()),
    }


def deal_and_fail(dealing: Dealing, rows: list[tuple[int, int]]) -> None:
    with dealing.dealer("task") as dealer:
        dealer.deal(rows_of(rows, 0))
        raise ValueError("ended")


def part_by_hand(split: int, order: int, layout: Layout) -> int:
    """Return the part of a row in exact arithmetic but for the rounding of its share to a double."""
    share = float(order) / 2.0**64 + 0.5
    parts = layout.parts[split]
    return sum(layout.parts[:split]) + min(int(share * parts), parts - 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(guess=_PARTS, parts=_PARTS, tasks=st.lists(_ROWS, min_size=1, max_size=3))
def test_every_part_gets_its_rows_whatever_was_guessed(tmp_path_factory, guess, parts, tasks):
    layout = Layout(tuple(max(n, 1) for n in parts))
    dealing = Dealing(str(tmp_path_factory.mktemp("dealt")), Layout(tuple(max(n, 1) for n in guess)))
    expected: dict[int, list[int]] = {}
    number = 0
    for task, rows in enumerate(tasks):
        with dealing.dealer(task) as dealer:
            for start in range(0, len(rows), 25):
                dealer.deal(rows_of(rows[start : start + 25], number + start))
        for split, order in rows:
            expected.setdefault(part_by_hand(split, order, layout), []).append(number)
            number += 1
    found = {n: dealing.rows(layout, n) for n in range(sum(layout.parts))}
    assert {n: sorted(t[HASH].to_pylist()) for n, t in found.items() if t is not None} == expected
    assert dealing.is_whole(len(tasks))


def test_rows_count_once_when_all_of_a_task_are_dealt(tmp_path):
    dealing = Dealing(str(tmp_path), Layout((1, 1, 1)))
    rows = [(0, 5), (0, -5)]
    with pytest.raises(ValueError, match="ended"):
        deal_and_fail(dealing, rows)
    assert not dealing.is_whole(1)
    assert dealing.rows(Layout((1, 1, 1)), 0) is None
    for _ in range(2):  # as when Spark runs a task again
        with dealing.dealer("task") as dealer:
            dealer.deal(rows_of(rows, 0))
    assert dealing.is_whole(1)
    found = dealing.rows(Layout((1, 1, 1)), 0)
    assert found is not None
    assert sorted(found[HASH].to_pylist()) == [0, 1]
    assert np.array_equal(np.sort(found[ORDER].to_numpy()), [-5, 5])


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.float32(), pa.bool_(), pa.string()])
def test_dealt_columns_keep_their_values_and_nulls(tmp_path, kind):
    g = np.random.default_rng(0)
    values = pa.array(g.integers(0, 2, 120)).cast(kind)
    column = pc.if_else(pa.array(g.random(120) < 0.7), values, pa.scalar(None, kind)).slice(13, 100)
    splits = pa.array(g.choice(SPLITS, 100))
    orders = pa.array(g.integers(-(2**63), 2**63 - 1, 100))
    rows = {"x": column, SPLIT: splits, ORDER: orders, HASH: pa.array(np.arange(100)), "y": column}
    dealing = Dealing(str(tmp_path), Layout((3, 2, 1)))
    with dealing.dealer("task") as dealer:
        ordered = dealer.deal(rows, unsent=[SPLIT, "y"])
    ordered["x"].validate(full=True)
    there = ordered[HASH].to_pylist()
    assert sorted(there) == list(range(100))
    assert ordered["x"].to_pylist() == ordered["y"].to_pylist() == [column[row].as_py() for row in there]
    in_train = [split == "train" for split in ordered[SPLIT].to_pylist()]
    assert in_train == sorted(in_train, reverse=True)
    parts = [dealing.rows(Layout((3, 2, 1)), number) for number in range(6)]
    sent = pa.concat_tables([part for part in parts if part is not None])
    assert set(sent.column_names) == {"x", ORDER, HASH}
    assert sent[HASH].to_pylist() == there
    assert sent["x"].to_pylist() == ordered["x"].to_pylist()
