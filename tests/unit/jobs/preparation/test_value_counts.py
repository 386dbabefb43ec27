"""Counting and ordering the values of vocabularies, against plain Python."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.preparation import value_counts
from jobs.preparation.streams import Sender
from jobs.preparation.value_counts import BUCKETS, Counts, ValueCounts, as_rows
from jobs.preparation.value_order import borders, cut, ordered, sample
from trainer.features.values import Tokens

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
# Texts that look like numbers in usual and in other forms, and numbers that have too many digits.
_WORDS = st.one_of(
    _TEXT, st.integers(-(10**20), 10**20).map(str), st.sampled_from(["07", "-0", "+7", "7.0", "0"])
)
_INTS = st.integers(-(2**63), 2**63 - 1)
_BATCHES = st.lists(
    st.tuples(st.integers(0, 2), st.one_of(st.lists(_WORDS, max_size=8), st.lists(_INTS, max_size=8))),
    max_size=6,
)


def counted(batches: list[tuple[int, list[str] | list[int]]]) -> tuple[Counts, Counter[tuple[int, str]]]:
    counts, expected = ValueCounts(), Counter[tuple[int, str]]()
    for table, values in batches:
        kind = pa.int64() if values and isinstance(values[0], int) else pa.string()
        counts.add(table, Tokens.of(pa.array(values, kind)))
        expected.update((table, str(value)) for value in values)
    return counts.all().added_up(), expected


def as_counter(counts: Counts) -> Counter[tuple[int, str]]:
    found = Counter[tuple[int, str]]()
    for kind in counts.kinds:
        for row in kind.to_pylist():
            assert (row["table"], str(row["value"])) not in found
            found[row["table"], str(row["value"])] = row["count"]
    return found


def in_order(expected: Counter[tuple[int, str]]) -> list[tuple[int, str, int]]:
    rows = [(table, value, count) for (table, value), count in expected.items()]
    return sorted(rows, key=lambda row: (row[0], -row[2], row[1].encode()))


@given(_BATCHES)
def test_numbers_and_their_texts_count_as_one_value(batches):
    found, expected = counted(batches)
    assert as_counter(found) == expected


@given(_BATCHES)
def test_values_are_ordered_by_frequency_then_text(batches):
    found, expected = counted(batches)
    rows = [(row["table"], row["value"], row["count"]) for row in ordered(found).to_pylist()]
    assert rows == in_order(expected)


@given(_BATCHES, _BATCHES)
def test_equal_values_of_two_tasks_meet_in_one_bucket(one, other):
    first, second = counted(one), counted(other)
    rows = [batch for counts in (first[0], second[0]) for batch in as_rows(counts, Sender())]
    buckets: dict[int, list[pa.RecordBatch]] = {}
    for row in rows:
        buckets.setdefault(row["bucket"][0].as_py(), []).append(row)
    assert all(0 <= bucket < BUCKETS for bucket in buckets)
    found = Counter[tuple[int, str]]()
    for parts in buckets.values():
        table = pa.Table.from_batches(parts)
        merged = as_counter(
            Counts.read({name: table[name].to_pylist() for name in ("numbers", "texts")}).added_up()
        )
        assert not found.keys() & merged.keys()
        found.update(merged)
    assert found == first[1] + second[1]


@settings(max_examples=50)
@given(_BATCHES, st.integers(1, 5))
def test_parts_between_borders_are_the_rows_in_order(batches, parts):
    found, expected = counted(batches)
    rows = ordered(found)
    at = borders(sample(rows, 256), parts) if len(rows) else []
    pieces = cut(rows, at)
    assert len(pieces) == len(at) + 1
    texts = [(row["table"], row["value"], row["count"]) for piece in pieces for row in piece.to_pylist()]
    assert texts == in_order(expected)
    if len(rows) >= 20:
        assert max(len(piece) for piece in pieces) <= -(-len(rows) // parts) + 1


def test_a_task_hands_on_what_it_cannot_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_counts, "_KEPT", 1_000)
    monkeypatch.setattr(value_counts, "_WAITING", 100)
    g, counts, handed, expected = np.random.default_rng(0), ValueCounts(), [], Counter[int]()
    for _ in range(50):
        values = g.integers(0, 5_000, 200)
        expected.update(values.tolist())
        counts.add(0, Tokens.of(pa.array(values)))
        handed += list(counts.too_many())
    assert len(handed) > 2
    found = as_counter(Counts.joined([*handed, counts.all()]).added_up())
    assert found == Counter({(0, str(value)): count for value, count in expected.items()})


@pytest.mark.parametrize("through_files", [False, True])
def test_counts_travel_as_streams(through_files, tmp_path):
    found, _ = counted([(1, ["a", "7"]), (0, [3])])
    with Sender(str(tmp_path) if through_files else None) as sender:
        sender.send(pa.table({"x": list(range(1_000))}))  # what else a task hands on
        numbers, texts = found.sent(sender)
    assert any(tmp_path.iterdir()) == through_files
    again = Counts.read({"numbers": [numbers], "texts": [texts]})
    assert [kind.to_pylist() for kind in again.kinds] == [kind.to_pylist() for kind in found.kinds]
    assert len(Counts.read({"numbers": [], "texts": []})) == 0


def test_values_that_come_again_are_not_handed_on_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_counts, "_KEPT", 1_000)
    counts = ValueCounts()
    for _ in range(100):
        for table in range(20):
            counts.add(table, Tokens.of(pa.array(np.arange(20))))
        assert not list(counts.too_many())
    assert as_counter(counts.all()) == Counter({(t, str(v)): 100 for t in range(20) for v in range(20)})
