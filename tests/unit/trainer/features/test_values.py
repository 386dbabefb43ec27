"""Tokens against the plain Python lists that they stand for."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trainer.features.plain import plain
from trainer.features.values import Tokens, spans

texts = st.one_of(st.none(), st.sampled_from(["", "a", "b|c", "|", "A|", "é"]), st.text(max_size=4))
columns = st.lists(texts, max_size=12)


def single(rows: list[str | None]) -> Tokens:
    return Tokens.of(pa.array(rows, pa.string()))


def lists(rows: list[list[str | None]]) -> Tokens:
    inner = single([text for row in rows for text in row])
    return Tokens(inner.values, inner.codes, np.cumsum([0, *map(len, rows)]))


@given(columns)
def test_null_and_empty_text_are_missing(rows: list[str | None]) -> None:
    made = single(rows)
    assert plain(made) == [text or None for text in rows]
    assert made.missing.tolist() == [not text for text in rows]
    assert made.num_rows == len(rows)


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint32(), pa.int64()])
def test_whole_numbers_stand_for_their_text(kind: pa.DataType) -> None:
    made = Tokens.of(pa.array([7, None, 0, 7], kind))
    assert made.values.type == pa.int64()
    assert plain(made) == ["7", None, "0", "7"]


@given(columns)
def test_mapping_makes_null_and_empty_results_missing(rows: list[str | None]) -> None:
    def first(values: pa.Array) -> pa.Array:
        return pa.array([text[0] if text[:1] in ("a", "é") else None if "c" in text else "" for text in
                         values.to_pylist()], pa.string())  # fmt: skip

    expected = [text[0] if text and text[0] in ("a", "é") else None for text in rows]
    assert plain(single(rows).mapped(first)) == expected


@given(columns)
def test_split_cuts_each_token_into_a_list(rows: list[str | None]) -> None:
    made = single(rows).split(lambda values: pc.split_pattern(values, "|"))
    assert made.is_list
    assert made.num_rows == len(rows)
    assert plain(made) == [[part or None for part in text.split("|")] if text else [] for text in rows]
    assert plain(made.compacted()) == [[part for part in (text or "").split("|") if part] for text in rows]


@given(st.lists(columns, max_size=8), st.data())
def test_taking_rows_of_lists_and_of_single_tokens(rows: list[list[str | None]], data: st.DataObject) -> None:
    made = lists(rows)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), dtype=bool)
    kept = [row for row, keep in zip(plain(made), mask, strict=True) if keep]
    assert plain(made.take(mask)) == kept
    order = np.array(data.draw(st.permutations(range(len(rows)))), dtype=np.int64)
    assert plain(made.take(order)) == [plain(made)[i] for i in order]
    flat = [row[0] if row else None for row in rows]
    assert plain(single(flat).take(order)) == [plain(single(flat))[i] for i in order]


@given(columns)
def test_counts_are_those_of_the_tokens_that_are_there(rows: list[str | None]) -> None:
    made = single(rows)
    counted = dict(zip(made.values.to_pylist(), made.counts().tolist(), strict=True))
    assert {text: n for text, n in counted.items() if n} == {text: rows.count(text) for text in rows if text}


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=8))
def test_spans_are_laid_one_after_another(pairs: list[tuple[int, int]]) -> None:
    starts = np.array([start for start, _ in pairs], dtype=np.int64)
    lengths = np.array([length for _, length in pairs], dtype=np.int64)
    offsets, places = spans(starts, lengths)
    assert places.tolist() == [place for start, length in pairs for place in range(start, start + length)]
    assert offsets.tolist() == [0, *np.cumsum(lengths).tolist()]
