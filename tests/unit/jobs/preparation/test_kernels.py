"""Kernels that go on from a state give what they give to rows that they saw themselves."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.preparation.earlier import Question, _Earlier
from jobs.preparation.histories import _Lists
from jobs.preparation.ordered import KEY, TIME, Maker, Making

QUESTIONS = {
    "count": Question("count", None, 0.0, 0.0, 0.0),
    "rate": Question("rate", None, 0.0, 2.0, 0.5),
    "lately": Question("mean", 5.0, 0.0, 0.0, 0.0),
    "late": Question("mean", None, 3.0, 0.0, 0.0),
    "late window": Question("mean", 9.0, 2.0, 0.0, 0.0),
    "since": Question("recency", None, 0.0, 0.0, 0.0),
    "late since": Question("recency", None, 4.0, 0.0, 0.0),
    "since lately": Question("recency", 6.0, 0.0, 0.0, 0.0),
}
COLUMNS = {name: name for name in ("counts", "seconds", "value")}


def makers(rows_at_once: int) -> list[Maker]:
    asked = [Maker(name, COLUMNS, partial(_Earlier, q), rows_at_once) for name, q in QUESTIONS.items()]
    lists = {"counts": "counts", "order": "item"}
    asked += [Maker(f"{n} {t}", lists, partial(_Lists, n, t), rows_at_once) for n in (1, 3) for t in (0, 1)]
    return asked


def batch_of(steps: list[tuple[int, bool, int]]) -> pa.RecordBatch:
    """Return rows of one id: time since the row before, whether the row is an event, and its item."""
    times = np.cumsum([step for step, _, _ in steps])
    rows = sorted(zip(times.tolist(), [f"i{n}" for _, _, n in steps], [e for _, e, _ in steps], strict=True))
    time, item, event = (list(x) for x in zip(*rows, strict=True))
    return pa.RecordBatch.from_pydict(
        {
            KEY: ["a"] * len(time),
            TIME: time,
            "seconds": [float(t) for t in time],
            "counts": event,
            "item": item,
            "value": [float(n % 3) for n in range(len(time))],
        }
    )


def values(making: Making, rows: pa.RecordBatch, step: int) -> list[list[object]]:
    found = [making(rows.slice(start, step)) for start in range(0, rows.num_rows, step)]
    return [[x for part in parts for x in part.to_pylist()] for parts in zip(*found, strict=True)]


def segments(rows: pa.RecordBatch, cuts: list[int]) -> list[pa.RecordBatch]:
    """Cut rows at some times, so that a moment stays whole."""
    places = np.unique([0, *np.searchsorted(rows.column(TIME).to_numpy(), sorted(cuts)), rows.num_rows])
    return [rows.slice(a, b - a) for a, b in pairwise(places)]


STEPS = st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=40)


@settings(max_examples=100, deadline=None)
@given(steps=STEPS, cuts=st.lists(st.integers(0, 100), max_size=5), step=st.sampled_from([1, 2, 5, 100]))
def test_segments_that_begin_with_a_state_are_the_whole(
    steps: list[tuple[int, bool, int]], cuts: list[int], step: int
) -> None:
    rows, of = batch_of(steps), makers(step)
    whole = values(Making(of), rows, 100)
    found: list[list[object]] = [[] for _ in of]
    before: Making | None = None
    for part in segments(rows, cuts):
        making = Making(of) if before is None else Making.going_on(of, before.state(), part)
        for column, made in zip(found, values(making, part, step), strict=True):
            column.extend(made)
        alone = Making(of)
        values(alone, part, step)
        before = before or Making(of)
        before.absorb(alone.state())
    for maker, mine, theirs in zip(of, found, whole, strict=True):
        assert mine == pytest.approx(theirs) if maker.name in QUESTIONS else mine == theirs, maker.name
