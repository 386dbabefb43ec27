"""Lists of numbers against what plain Python makes of each row."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trainer.features.test_row_encoder import encoded, encoder, feature, op
from trainer.errors import DataError
from trainer.features.number_lists import number_lists

DIM = 3
NUMBERS = st.none() | st.just(math.nan) | st.floats(-1e6, 1e6)
ROWS = st.lists(
    st.none() | st.lists(NUMBERS, min_size=DIM, max_size=DIM) | st.lists(NUMBERS, max_size=5), max_size=12
)
KINDS = [pa.list_(pa.float64()), pa.large_list(pa.float64()), pa.list_(pa.float32())]


def plain(row: list[float | None] | None) -> list[float]:
    """Return three numbers, NaN where there is none."""
    if row is None or len(row) != DIM:
        return [math.nan] * DIM
    return [math.nan if value is None else value for value in row]


@pytest.mark.parametrize("kind", KINDS)
@given(rows=ROWS, cut=st.integers(0, 3))
def test_lists_of_every_type_are_read_as_plain_python_does(
    kind: pa.DataType, rows: list[Any], cut: int
) -> None:
    column = pa.array(rows, kind).slice(cut)
    kept = column.to_pylist()
    values, wrong, lengths = number_lists(column, "c", DIM)
    assert values.shape == (len(kept), DIM)
    np.testing.assert_array_equal(values, np.array([plain(row) for row in kept]).reshape(-1, DIM))
    assert wrong is None
    expected = [DIM if row is None else len(row) for row in kept]
    assert (lengths is None) == (set(expected) <= {DIM})
    assert lengths is None or lengths.tolist() == expected


@given(rows=ROWS)
def test_texts_are_read_as_their_lists(rows: list[Any]) -> None:
    rows = [row or None for row in rows]  # an empty text is a missing list
    texts = [None if r is None else "; ".join("" if x is None else repr(x) for x in r) for r in rows]
    texts = [None if text is None or not text.strip() else text for text in texts]
    kept = [None if text is None else row for text, row in zip(texts, rows, strict=True)]
    found = number_lists(pa.array(texts, pa.string()), "c", DIM, ";")
    wanted = number_lists(pa.array(kept, pa.list_(pa.float64())), "c", DIM)
    np.testing.assert_array_equal(found[0], wanted[0])
    assert found[1] is None
    assert (found[2] is None) == (wanted[2] is None)


def test_fixed_size_lists_integers_and_columns_of_nulls_are_read() -> None:
    fixed = pa.array([[1.0, 2.0, 3.0], None], pa.list_(pa.float64(), DIM))
    assert number_lists(fixed, "c", DIM)[0][0].tolist() == [1.0, 2.0, 3.0]
    assert number_lists(pa.array([[1, 0, 2**40]]), "c", DIM)[0].tolist() == [[1.0, 0.0, 2.0**40]]
    assert np.isnan(number_lists(pa.array([None, None]), "c", DIM)[0]).all()
    assert number_lists(pa.array([], pa.list_(pa.float64())), "c", DIM)[0].shape == (0, DIM)


def test_texts_that_are_no_numbers_are_told_by_place() -> None:
    values, wrong, lengths = number_lists(pa.array(["1|x|3", "1|2", None, "4| 5 |"]), "c", DIM, "|")
    assert wrong is not None
    assert wrong.tolist() == [[False, True, False], *([[False] * DIM] * 3)]
    assert lengths is not None
    assert lengths.tolist() == [3, 2, 3, 3]
    assert values[3, :2].tolist() == [4.0, 5.0]


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (pa.array(["1,2,3"]), ["no lists of numbers", "string", "delimiter"]),
        (pa.array([1.0]), ["no lists of numbers", "double"]),
        (pa.array([[[1.0]]]), ["no lists of numbers", "list<item: list"]),
        (pa.array([[{"a": 1}]]), ["column 'c' holds no numbers", "struct"]),
    ],
)
def test_columns_of_another_type_are_refused(column: pa.Array, told: list[str]) -> None:
    with pytest.raises(DataError) as error:
        number_lists(column, "c", DIM)
    assert all(word in str(error.value) for word in told), str(error.value)


def test_a_single_row_goes_through_the_ops_number_by_number(tmp_path: Path) -> None:
    ops = [
        op("numbers", dim=2, delimiter=","),
        op("fill", value=0.5),
        op("clip", min=None, max=2.0),
        op("log1p"),
    ]
    made = encoder(tmp_path, feature("n", *ops, kind="dense"))
    rows = [[0.0, 9.0], [None, 1.0], None]
    expected = [[0.0, math.log1p(2)], [math.log1p(0.5), math.log1p(1)], [math.log1p(0.5)] * 2]
    assert [encoded(made, [row])[0] for row in rows] == [np.float32(row).tolist() for row in expected]
    assert encoded(made, ["0,9", ",1", ""]) == encoded(made, rows)
    with pytest.raises(
        DataError, match=r"'n' needs lists of 2 numbers[\s\S]*'c', row number 1[\s\S]*got: *3"
    ):
        encoded(made, [[1.0, 2.0], [1.0, 2.0, 3.0]])
