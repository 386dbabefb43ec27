"""A fitted spec applied to single rows and to batches of any Arrow type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.xxh64 import xxh64 as reference_hash
from trainer.errors import DataError
from trainer.features.row_encoder import RowEncoder
from trainer.features.vocabularies import Vocabulary
from trainer.schema import Feature, FeatureSpec, FittedOp

VOCABULARY = {"min_count": 1, "max_size": None, "oov_buckets": 1, "missing": "padding", "joint": False}


def op(name: str, **params: Any) -> FittedOp:
    return FittedOp(name=name, params=params)


def write_vocabulary(folder: Path, values: Sequence[str], first: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ids = list(range(first, first + len(values)))
    table = pa.table({"value": pa.array(values, pa.string()), "id": ids, "count": [1] * len(values)})
    half = len(values) // 2
    pq.write_table(table.slice(0, half), folder / "part-0.parquet")
    pq.write_table(table.slice(half), folder / "part-1.parquet")


def feature(name: str, *ops: FittedOp, kind: Any = "sparse", column: str = "c", **more: Any) -> Feature:
    """Return a fitted feature; one with a vocabulary has it in the folder of its name."""
    if ops and ops[-1].name == "vocabulary":
        more = {"vocabulary": name, "vocabulary_hash": "x", **more}
    rows = {} if kind == "dense" else {"num_embeddings": 1000, "table": name}
    return Feature(name=name, kind=kind, column=column, ops=ops, **{**rows, **more})


def encoder(folder: Path, *features: Feature) -> RowEncoder:
    spec = FeatureSpec(features=features, label=op("label", column="label"))
    return RowEncoder.load(spec, folder)


def encoded(made: RowEncoder, rows: Sequence[Any]) -> list[Any]:
    """Return what the only feature, of column `c`, makes of some raw values."""
    (column,) = made.encode_rows([{"c": value} for value in rows]).values()
    return column.to_pylist()


def test_dense_ops_run_in_their_order(tmp_path: Path) -> None:
    ops = [op("fill", value=3.0), op("clip", min=0.0, max=None), op("standardise", mean=2.0, std=4.0)]
    made = encoder(tmp_path, feature("x", *ops, kind="dense"))
    column = made.encode_rows([{"c": value} for value in (2, None, -5, 10.0)])["x"]
    assert column.type == pa.float32()
    assert column.to_pylist() == [0.0, 0.25, -0.5, 2.0]
    assert encoded(made, ["10", " 2 ", ""]) == [2.0, 0.0, 0.25]


def test_absent_keys_and_nan_are_missing(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "v", ["a", "b"])
    features = [
        feature("x", op("fill", value=-1.0), kind="dense"),
        feature("v", op("vocabulary", **VOCABULARY)),
    ]
    made = encoder(tmp_path, *features)
    for rows in ([{}], [{"c": None}], [{"c": math.nan}], [{"other": 1}]):
        assert {name: column.to_pylist() for name, column in made.encode_rows(rows).items()} == {
            "x": [-1.0],
            "v": [0],
        }
    assert made.encode_rows([])["v"].to_pylist() == []


def test_features_are_made_in_the_order_of_the_spec_or_as_chosen(tmp_path: Path) -> None:
    features = [feature("b", op("hash", num_buckets=9, seed=0), column="d"), feature("a", kind="dense")]
    made = encoder(tmp_path, *features)
    assert made.columns == ("d", "c")
    assert list(made.encode_rows([{"c": 1.0, "d": "x"}])) == ["b", "a"]
    spec = FeatureSpec(features=tuple(features), label=op("label", column="label"))
    only = RowEncoder.load(spec, tmp_path, ["a"])
    assert only.columns == ("c",)
    assert list(only.encode_rows([{"c": 1.0}])) == ["a"]


@pytest.mark.parametrize("values", [["a", "b"], ["7", "-12"], ["7", "007", "1e3"]], ids=str)
def test_vocabulary_ids_of_each_raw_type(tmp_path: Path, values: list[str]) -> None:
    write_vocabulary(tmp_path / "v", values)
    made = encoder(tmp_path, feature("v", op("vocabulary", **VOCABULARY)))
    ids = range(2, 2 + len(values))
    assert encoded(made, [*values, "new", None, ""]) == [*ids, 1, 0, 0]
    if "7" in values:
        assert encoded(made, [7, None, 8]) == [2, 0, 1]
        assert encoded(made, [7.0, math.nan, 7.5]) == [2, 0, 1]
    if "007" in values:
        assert encoded(made, ["7", "007", "07", "1000"]) == [2, 3, 1, 1]


def test_an_empty_vocabulary_knows_nothing(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "v", [])
    for missing in ("padding", "most_frequent"):
        made = encoder(tmp_path, feature("v", op("vocabulary", **{**VOCABULARY, "missing": missing})))
        assert encoded(made, ["a", None]) == [1, 0]


def test_unseen_values_are_dealt_over_the_buckets(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "v", ["a", "b"], first=5)
    made = encoder(tmp_path, feature("v", op("vocabulary", **{**VOCABULARY, "oov_buckets": 4})))
    words = [f"new {number}" for number in range(50)]
    signed = [reference_hash(word.encode(), 42) for word in words]
    expected = [(value - (value >> 63 << 64)) % 4 + 1 for value in signed]
    assert encoded(made, ["a", "b", None, *words]) == [5, 6, 0, *expected]
    assert set(expected) == {1, 2, 3, 4}


def test_missing_values_can_become_the_most_frequent_one(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "v", ["a", "b"])
    made = encoder(tmp_path, feature("v", op("vocabulary", **{**VOCABULARY, "missing": "most_frequent"})))
    assert encoded(made, [None, "b", "new"]) == [2, 3, 1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(min_size=1, max_size=5), unique=True, max_size=40), st.lists(st.text(max_size=5)))
def test_any_texts_get_their_ids(tmp_path: Path, values: list[str], others: list[str]) -> None:
    known = {value: 2 + place for place, value in enumerate(values)}
    vocabulary = Vocabulary.of(pa.array(values, pa.string()), np.array(list(known.values()), dtype=np.int64))
    if values:
        rows = [*reversed(values), *others]
        assert vocabulary.ids_of(pa.array(rows, pa.string())).tolist() == [known.get(row, -1) for row in rows]


@given(
    st.sets(st.integers(-(2**63), 2**63 - 1), min_size=1),
    st.lists(st.integers(-(2**63), 2**63 - 1)),
    st.sampled_from([1, 3]),
)
def test_any_numbers_get_their_ids(values: set[int], others: list[int], step: int) -> None:
    known = {value: 2 + step * place for place, value in enumerate(values)}
    ids = np.array(list(known.values()), dtype=np.int64)
    vocabulary = Vocabulary.of(pa.array([str(value) for value in values]), ids)
    rows = [*values, *others]
    expected = [known.get(row, -1) for row in rows]
    assert vocabulary.ids_of(pa.array(rows, pa.int64())).tolist() == expected
    assert vocabulary.ids_of(pa.array([str(row) for row in rows])).tolist() == expected
    # Many values are looked up in another way than few.
    assert vocabulary.ids_of(pa.array(rows * 300, pa.int64())).tolist() == expected * 300


@pytest.mark.parametrize("odd", ["07", "00", "-0", "+7", "7.0", "1" * 19, "\u0667", "7 "])
def test_texts_that_are_no_usual_numbers_are_no_numbers(odd: str) -> None:
    values = ["7", "0", "1" * 18, odd]
    vocabulary = Vocabulary.of(pa.array(values), np.arange(2, 6))
    assert vocabulary.ids_of(pa.array(values)).tolist() == [2, 3, 4, 5]
    assert vocabulary.ids_of(pa.array([7, 0, 8])).tolist() == [2, 3, -1]
    assert Vocabulary.of(pa.array(values[:3]), np.arange(2, 5)).ids_of(pa.array([odd])).tolist() == [-1]


def test_ids_without_ops_must_lie_in_their_table(tmp_path: Path) -> None:
    made = encoder(tmp_path, feature("id", num_embeddings=10))
    assert encoded(made, [9, None, 0]) == [9, 0, 0]
    assert encoded(made, ["9", "", "3"]) == [9, 0, 3]
    assert encoded(made, [9.0, math.nan]) == [9, 0]
    for bad in (10, -1, 2.5, "x", 10**18):
        with pytest.raises(DataError, match="feature 'id' needs ids from 0 to 9") as error:
            encoded(made, [bad])
        assert str(bad) in str(error.value)


def test_lists_from_text_and_arrays(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "v", ["a", "b"])
    split = feature("v", op("split", delimiter="|"), op("vocabulary", **VOCABULARY), is_list=True)
    assert encoded(encoder(tmp_path, split), ["b|a||b", None, "", "new"]) == [[3, 2, 3], [], [], [1]]
    raw = encoder(tmp_path, feature("v", op("vocabulary", **VOCABULARY), is_list=True))
    assert encoded(raw, [["b", None, "a"], None, []]) == [[3, 2], [], []]
    assert raw.encode({"c": pa.array([["a"], ["b"], ["a", "b"]]).slice(1)})["v"].to_pylist() == [[3], [2, 3]]


def test_a_single_row_whose_list_is_missing_is_an_empty_list(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "v", ["a", "b"])
    raw = encoder(tmp_path, feature("v", op("vocabulary", **VOCABULARY), is_list=True))
    assert encoded(raw, [None]) == [[]]
    assert encoded(raw, [[], None]) == [[], []]
    assert encoded(raw, [[None]]) == [[]]


def test_lists_and_single_values_are_not_mixed_up(tmp_path: Path) -> None:
    as_list = encoder(tmp_path, feature("h", op("hash", num_buckets=9, seed=0), is_list=True))
    with pytest.raises(DataError, match="'h' was fitted on lists"):
        encoded(as_list, ["a"])
    single = encoder(tmp_path, feature("h", op("hash", num_buckets=9, seed=0)))
    with pytest.raises(DataError, match="'h' was fitted on single values"):
        encoded(single, [["a"]])


def test_numbers_and_times_become_ids(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "hours", ["23", "0"])
    hours = feature("hours", op("hour", time_zone="UTC"), op("vocabulary", **VOCABULARY))
    moments = ["2024-01-01", "2024-01-01 23:10:00", "2024-01-01 05:00", None]
    assert encoded(encoder(tmp_path, hours), moments) == [3, 2, 1, 0]
    buckets = encoder(tmp_path, feature("b", op("bucketise", edges=[0.0, 10.0], quantiles=None)))
    assert encoded(buckets, [-5, 0, 9.5, 10, None]) == [1, 2, 2, 3, 0]


def test_crosses_join_the_raw_columns(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "xy", ["a & 1", "b & 1"])
    cross = feature("xy", op("cross", columns=["x", "y"]), op("vocabulary", **VOCABULARY), column="x")
    made = encoder(tmp_path, cross)
    assert made.columns == ("x", "y")
    rows = [{"x": "b", "y": 1}, {"x": "a", "y": 1}, {"x": "a", "y": 2}, {"x": "a"}]
    assert made.encode_rows(rows)["xy"].to_pylist() == [3, 2, 1, 0]


def test_a_column_of_a_wrong_type_is_named(tmp_path: Path) -> None:
    made = encoder(tmp_path, feature("x", kind="dense"))
    with pytest.raises(DataError, match="column 'c' holds no numbers"):
        encoded(made, [[1.0]])
    with pytest.raises(DataError, match="column 'c'"):
        encoded(made, [1, "a"])


def test_vocabularies_that_were_made_anew_are_read_anew(tmp_path: Path) -> None:
    one = feature("v", op("vocabulary", **VOCABULARY), vocabulary_hash="one")
    write_vocabulary(tmp_path / "v", ["a", "b"])
    assert encoded(encoder(tmp_path, one), ["a"]) == [2]
    write_vocabulary(tmp_path / "v", ["b", "a"])
    assert encoded(encoder(tmp_path, one.model_copy(update={"vocabulary_hash": "two"})), ["a"]) == [3]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "x": st.one_of(st.none(), st.floats(-1e9, 1e9)),
                "tags": st.one_of(st.none(), st.lists(st.sampled_from(["a", "b", "", "new"]), max_size=4)),
                "city": st.one_of(st.none(), st.sampled_from(["Oslo", "Bergen", ""])),
                "age": st.one_of(st.none(), st.integers(-5, 120)),
            }
        ),
        min_size=1,
        max_size=12,
    )
)
def test_rows_alone_and_together_give_the_same_and_what_plain_python_gives(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    write_vocabulary(tmp_path / "tags", ["b", "a"])
    write_vocabulary(tmp_path / "city", ["Oslo"])
    made = encoder(
        tmp_path,
        feature("x", op("fill", value=0.5), op("min_max", min=0.0, max=4.0), kind="dense", column="x"),
        feature("tags", op("vocabulary", **VOCABULARY), column="tags", is_list=True),
        feature("city", op("vocabulary", **VOCABULARY), column="city"),
        feature("age", op("bucketise", edges=[0.0, 18.0], quantiles=None), column="age"),
    )
    ids = {"tags": {"b": 2, "a": 3}, "city": {"Oslo": 2}}

    def expected(row: dict[str, Any]) -> dict[str, Any]:
        age = row["age"]
        return {
            "x": np.float32((0.5 if row["x"] is None else row["x"]) / 4).item(),
            "tags": [ids["tags"].get(tag, 1) for tag in row["tags"] or [] if tag],
            "city": ids["city"].get(row["city"], 1) if row["city"] else 0,
            "age": 0 if age is None else 1 + (age >= 0) + (age >= 18),
        }

    together = pa.table(made.encode_rows(rows)).to_pylist()
    assert together == [expected(row) for row in rows]
    assert [pa.table(made.encode_rows([row])).to_pylist()[0] for row in rows] == together
    frame = pa.Table.from_pandas(pd.DataFrame(rows)) if all(row["tags"] for row in rows) else None
    if frame is not None:
        columns = {name: frame.column(name) for name in made.columns}
        assert pa.table(made.encode(columns)).to_pylist() == together
