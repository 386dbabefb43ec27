"""Columns of odd types, names and contents: prepared with a remark, or refused by name."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.pipeline import Prepared, prepare_dataset
from tests.spark.prepared import make_run, read_split
from trainer.errors import ConfigError, DataError

pytestmark = pytest.mark.thorough

ROWS = 40
LABEL = pa.array([0, 1] * (ROWS // 2))


def prepared(
    spark: SparkSession,
    root: Path,
    columns: dict[str, Any],
    data: dict[str, Any] | None = None,
    **features: Any,
) -> Prepared:
    table = pa.Table.from_arrays([LABEL, *columns.values()], ["label", *columns])
    pq.write_table(table, root / "raw.parquet")
    section = {"root": str(root), "source": {"path": "raw.parquet"}, "split": {"fractions": [1, 0, 0]}}
    run = make_run(data={**section, **(data or {})}, **features)
    return prepare_dataset(run, root / "out", spark=spark)


MAP = pa.array([[("a", 1)]] * ROWS, pa.map_(pa.string(), pa.int64()))
ODD: dict[str, tuple[pa.Array, str]] = {
    "map": (MAP, "map<string,bigint>"),
    "struct": (pa.array([{"a": 1}] * ROWS), "struct<a:bigint>"),
    "struct of maps": (
        pa.StructArray.from_arrays([MAP], ["m"]),
        "struct<m:map<string,bigint>>",
    ),
    "binary": (pa.array([b"\xff"] * ROWS), "binary"),
    "lists of lists": (pa.array([[[1]]] * ROWS), "array<array<bigint>>"),
}


@pytest.mark.parametrize(("values", "kind"), ODD.values(), ids=list(ODD))
def test_a_column_that_can_be_no_feature_is_named_with_its_type(
    spark: SparkSession, tmp_path: Path, values: pa.Array, kind: str
) -> None:
    uses: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {"dense": [{"columns": "x"}]}),
        ({}, {"sparse": [{"columns": "x", "ops": "vocabulary"}]}),
        ({"label": {"column": "x"}}, {"dense": [{"columns": "y"}]}),
        ({"split": {"method": "time", "column": "x"}}, {"dense": [{"columns": "y"}]}),
    ]
    for data, features in uses:
        with pytest.raises(DataError, match="column 'x'") as error:
            prepared(spark, tmp_path, {"x": values, "y": LABEL}, data, **features)
        assert error.value.got == kind
    done = prepared(spark, tmp_path, {"x": values, "y": LABEL}, dense=[{"columns": "y"}])
    assert done.rows["train"] == ROWS  # it does no harm where nothing is made of it


def test_times_of_day_are_named_where_spark_cannot_read_them(spark: SparkSession, tmp_path: Path) -> None:
    if tuple(map(int, spark.version.split(".")[:2])) >= (4, 1):
        pytest.skip("this Spark reads them")
    times = pa.array([datetime.time(12)] * ROWS)
    with pytest.raises(DataError, match="column 'x' holds times of day") as error:
        prepared(spark, tmp_path, {"x": times, "y": LABEL}, dense=[{"columns": "y"}])
    assert error.value.where.endswith("raw.parquet")


@pytest.mark.parametrize("second", ["x", "X"])
def test_parquet_columns_of_one_name_are_named(spark: SparkSession, tmp_path: Path, second: str) -> None:
    table = pa.Table.from_arrays([LABEL, LABEL, LABEL], ["label", "x", second])
    pq.write_table(table, tmp_path / "raw.parquet")
    run = make_run(data={"root": str(tmp_path), "source": {"path": "raw.parquet"}}, dense=[{"columns": "x"}])
    with pytest.raises(DataError, match="two columns are named 'x'") as error:
        prepare_dataset(run, tmp_path / "out", spark=spark)
    assert "raw.parquet" in error.value.where


@pytest.mark.parametrize("name", ["userId", "USERID"])
def test_a_name_of_another_case_is_told_the_near_one(spark: SparkSession, tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"column '{name}' is not in the rows") as error:
        prepared(spark, tmp_path, {"userid": LABEL}, sparse=[{"columns": name}])
    assert error.value.fixes[0] == "did you mean `userid`?"


@pytest.mark.parametrize("use", ["feature", "keep"])
def test_parquet_text_that_is_not_utf8_is_named(spark: SparkSession, tmp_path: Path, use: str) -> None:
    binary = pa.array([b"Ren\xe9"] * ROWS)
    latin = pa.Array.from_buffers(pa.string(), ROWS, binary.buffers())
    features = {"sparse": [{"columns": "x", "ops": "vocabulary"}]}
    data = {"keep": ["x"]} if use == "keep" else {}
    if use == "keep":
        features = {"sparse": [{"columns": "y", "ops": "vocabulary"}]}
    with pytest.raises(DataError, match="column 'x' holds text that is not UTF-8"):
        prepared(spark, tmp_path, {"x": latin, "y": LABEL}, data, **features)
    assert not (tmp_path / "out").exists()


EMPTY = {
    "no type": pa.nulls(ROWS),
    "double": pa.array([None] * ROWS, pa.float64()),
    "text": pa.array([None, ""] * (ROWS // 2), pa.string()),
}


@pytest.mark.parametrize("values", EMPTY.values(), ids=list(EMPTY))
def test_columns_of_nulls_are_prepared_with_a_remark(
    spark: SparkSession, tmp_path: Path, values: pa.Array
) -> None:
    done = prepared(
        spark,
        tmp_path,
        {"x": values},
        dense=[{"columns": "x", "name": "filled", "ops": [{"fill": 3}, "standardise"]}],
        sparse=[
            {"columns": "x", "name": "word", "ops": "vocabulary"},
            {"columns": "x", "name": "usual", "ops": {"vocabulary": {"missing": "most_frequent"}}},
            {"columns": "x", "name": "bucket", "ops": {"hash": 10}},
        ],
    )
    rows = read_split(done.path, "train")
    assert rows[["filled", "word", "usual", "bucket"]].eq(0).all(axis=None)
    for name in ("filled", "word", "usual", "bucket"):
        assert f"{name}: no training row has a value" in done.report_text
    assert {f.name: f.num_embeddings for f in done.manifest.spec.sparse} == {
        "word": 2,
        "usual": 2,
        "bucket": 11,
    }


LISTS = {
    "no type": pa.nulls(ROWS),
    "nulls": pa.array([None] * ROWS, pa.list_(pa.int64())),
    "empty": pa.array([[]] * ROWS, pa.list_(pa.null())),
    "lists of nulls": pa.array([[None, None]] * ROWS, pa.list_(pa.string())),
}


@pytest.mark.parametrize("values", LISTS.values(), ids=list(LISTS))
def test_lists_of_nothing_are_prepared_with_a_remark(
    spark: SparkSession, tmp_path: Path, values: pa.Array
) -> None:
    done = prepared(spark, tmp_path, {"x": values}, sequence=[{"columns": "x", "ops": "vocabulary"}])
    assert all(len(row) == 0 for row in read_split(done.path, "train")["x"])
    assert "x: no training row has a value" in done.report_text


@pytest.mark.parametrize(
    "ops", [[{"fill": "mean"}], [{"fill": "mode"}], ["standardise", {"fill": 0}], ["min_max", {"fill": 0}]]
)
def test_what_needs_values_to_be_fitted_is_refused_without_any(
    spark: SparkSession, tmp_path: Path, ops: list[Any]
) -> None:
    with pytest.raises(DataError, match="dense feature 'x' has no value in the training rows") as error:
        prepared(spark, tmp_path, {"x": EMPTY["double"]}, dense=[{"columns": "x", "ops": ops}])
    assert error.value.where == "features.dense.0: column 'x'"


def test_a_label_or_time_of_nulls_is_named(spark: SparkSession, tmp_path: Path) -> None:
    untyped = {"x": pa.nulls(ROWS), "y": LABEL}
    with pytest.raises(DataError, match=f"{ROWS} row.s. have no label") as error:
        prepared(spark, tmp_path, untyped, {"label": {"column": "x"}}, dense=[{"columns": "y"}])
    assert error.value.where == "data.label.column: x"
    split = {"split": {"method": "time", "column": "x"}}
    with pytest.raises(DataError, match=f"{ROWS} row.s. have no time"):
        prepared(spark, tmp_path, untyped, split, dense=[{"columns": "y"}])


def test_items_missing_in_lists_are_filled_one_by_one(spark: SparkSession, tmp_path: Path) -> None:
    values = pa.array([["a", None], None, [None], ["b", "", "a"]] * (ROWS // 4))
    ops = [{"fill": "none"}, "vocabulary"]
    done = prepared(spark, tmp_path, {"x": values}, sequence=[{"columns": "x", "ops": ops}])
    # none 30 times, a 20, b 10; a list that is missing itself stays empty
    found = sorted(map(tuple, read_split(done.path, "train")["x"]))
    assert found == sorted([(3, 2), (), (2,), (4, 2, 3)] * (ROWS // 4))


def test_most_frequent_for_what_is_missing_in_lists_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    ops = {"vocabulary": {"missing": "most_frequent"}}
    lists = {"x": pa.array([["a"]] * ROWS), "y": pa.array(["a|b"] * ROWS)}
    for group in ({"columns": "x", "ops": ops}, {"columns": "y", "ops": [{"split": "|"}, ops]}):
        with pytest.raises(ConfigError, match="fills nothing in lists") as error:
            prepared(spark, tmp_path, lists, sequence=[group])
        assert error.value.where == "features.sequence.0.ops"
    shared = {
        "sparse": [{"columns": "z", "ops": ops}],
        "sequence": [{"columns": "x", "table": "z"}],
    }
    done = prepared(spark, tmp_path, {**lists, "z": pa.array(["a", None] * (ROWS // 2))}, **shared)
    assert set(read_split(done.path, "train")["z"]) == {2}


@pytest.mark.parametrize(
    ("names", "rows", "nothing"),
    [
        ("csv", "label,x\n" + "1,2\n0,3\n" * 9, ""),
        ("csv", "label,x\n" + "1,2\n0,3\n" * 9, "label,x\n"),
        ("jsonl", '{"label": 1, "x": 2}\n{"label": 0, "x": 3}\n' * 9, ""),
        ("jsonl", '{"label": 1, "x": 2}\n{"label": 0, "x": 3}\n' * 9, "\n\n"),
    ],
)
def test_an_empty_file_among_others_does_no_harm(
    spark: SparkSession, tmp_path: Path, names: str, rows: str, nothing: str
) -> None:
    for name, text in {"a": nothing, "b": rows, "c": nothing}.items():
        (tmp_path / f"{name}.{names}").write_text(text)
    source: dict[str, Any] = {"path": f"*.{names}"} | ({"header": True} if names == "csv" else {})
    data = {"root": str(tmp_path), "source": source, "split": {"fractions": [1, 0, 0]}}
    run = make_run(data=data, dense=[{"columns": "x"}])
    assert prepare_dataset(run, tmp_path / "out", spark=spark).rows["train"] == 18


def test_an_empty_parquet_file_among_others_does_no_harm(spark: SparkSession, tmp_path: Path) -> None:
    frame = pd.DataFrame({"label": [0, 1] * 9, "x": range(18)})
    frame.iloc[:0].to_parquet(tmp_path / "a.parquet")
    frame.to_parquet(tmp_path / "b.parquet")
    data = {"root": str(tmp_path), "source": {"path": "*.parquet"}, "split": {"fractions": [1, 0, 0]}}
    run = make_run(data=data, dense=[{"columns": "x"}])
    assert prepare_dataset(run, tmp_path / "out", spark=spark).rows["train"] == 18
