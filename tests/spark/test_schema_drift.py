"""Files of one source whose columns differ: read as the wider type where nothing changes, else named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.pipeline import prepare_dataset
from jobs.preparation.sources import raw_rows
from tests.spark.prepared import make_run, read_all
from trainer.config import RunConfig
from trainer.errors import DataError, UserError

pytestmark = pytest.mark.thorough

INT32 = pa.array([1, -(2**31), None], pa.int32())
INT64 = pa.array([2**62 + 1, -(2**63), None])
EXACT = pa.array([2**53, -(2**53), None])
FLOAT = pa.array([0.1, -1e30, None], pa.float32())
DOUBLE = pa.array([0.1, 1e300, None])
NULLS = pa.nulls(3)
TEXT = pa.array(["a", "", None])
LISTS = pa.array([["a"], [None], None])


def drifting(root: Path, *parts: pa.Array) -> RunConfig:
    for number, values in enumerate(parts):
        table = pa.table({"label": [number % 2] * len(values), "x": values})
        pq.write_table(table, root / f"{number}.parquet")
    return make_run(data={"root": str(root), "source": {"path": "*.parquet"}}, sparse=[{"columns": "x"}])


FIT = {
    "int32 and int64": ([INT32, INT64], "bigint"),
    "int64 and int32": ([INT64, INT32], "bigint"),
    "int8 and int32": ([pa.array([7, -128], pa.int8()), INT32], "int"),
    "float and double": ([FLOAT, DOUBLE], "double"),
    "int32 and double": ([INT32, DOUBLE], "double"),
    "int32 and float": ([INT32, FLOAT], "double"),
    "int16 and float": ([pa.array([-300, 5], pa.int16()), FLOAT], "float"),
    "exact int64 and double": ([EXACT, DOUBLE], "double"),
    "double, null and int64": ([DOUBLE, pa.array([None, None], pa.int64()), EXACT], "double"),
    "nulls and text": ([NULLS, TEXT], "string"),
    "text and nulls": ([TEXT, NULLS], "string"),
    "nulls and lists": ([NULLS, LISTS], "array<string>"),
    "lists of nulls and of text": ([pa.array([[], [None]], pa.list_(pa.null())), LISTS], "array<string>"),
    "lists of int32 and int64": (
        [pa.array([[1], [], None], pa.list_(pa.int32())), pa.array([[2**40]])],
        "array<bigint>",
    ),
}


@pytest.mark.parametrize(("parts", "kind"), FIT.values(), ids=list(FIT))
def test_types_that_fit_become_the_wider_one(
    spark: SparkSession, tmp_path: Path, parts: list[pa.Array], kind: str
) -> None:
    rows = raw_rows(drifting(tmp_path, *parts), spark)
    assert rows.schema["x"].dataType.simpleString() == kind
    found = sorted((row["x"] for row in rows.collect()), key=str)
    expected = [np.float32(x).item() if part.type == pa.float32() and x is not None else x
                for part in parts for x in part.to_pylist()]  # fmt: skip
    assert found == sorted((float(x) if kind == "double" and x is not None else x for x in expected), key=str)


DIFFER = {
    "int64 and text": ([EXACT, TEXT], ["string", "bigint"]),
    "text and int64": ([TEXT, EXACT], ["bigint", "string"]),
    "double and large int64": ([DOUBLE, INT64], ["a double may not hold exactly"]),
    "values and lists": ([TEXT, LISTS], ["array<string>"]),
    "structs": ([pa.array([{"a": 1}]), pa.array([{"a": 1, "b": 2}])], ["b:bigint"]),
    "times with and without a zone": (
        [pa.array([1], pa.timestamp("us", "UTC")), pa.array([1], pa.timestamp("us"))],
        ["timestamp_ntz"],
    ),
}


@pytest.mark.parametrize(("parts", "words"), DIFFER.values(), ids=list(DIFFER))
def test_types_that_do_not_fit_are_named_with_column_and_file(
    spark: SparkSession, tmp_path: Path, parts: list[pa.Array], words: list[str]
) -> None:
    with pytest.raises(DataError, match="column 'x' has different types") as error:
        raw_rows(drifting(tmp_path, *parts), spark)
    assert error.value.where == str(tmp_path / "1.parquet")
    assert "0.parquet" in str(error.value.allowed)
    assert [word for word in words if word not in str(error.value)] == []


def test_whole_numbers_without_statistics_are_not_taken_for_exact(
    spark: SparkSession, tmp_path: Path
) -> None:
    run = drifting(tmp_path, DOUBLE, EXACT)
    table = pa.table({"label": [1, 1, 1], "x": EXACT})
    pq.write_table(table, tmp_path / "1.parquet", write_statistics=False)
    with pytest.raises(DataError, match="column 'x' has different types"):
        raw_rows(run, spark)


def test_drifting_files_keep_their_partition_columns_numbers_and_splits(
    spark: SparkSession, tmp_path: Path
) -> None:
    kinds = {"2024-01": pa.int32(), "2024-02": pa.int64(), "2024-03": pa.int32()}
    for number, (month, kind) in enumerate(kinds.items()):
        folder = tmp_path / f"month={month}"
        folder.mkdir()
        table = pa.table({"label": [0, 1], "x": pa.array([2 * number, 2 * number + 1], kind)})
        pq.write_table(table, folder / "a.parquet")
    run = make_run(
        data={
            "source": {"path": str(tmp_path), "row_number": "n"},
            "keep": ["month", "n"],
            "split": {"method": "files", "files": {"train": ["*-0[13]/*"], "test": ["month=2024-02/*"]}},
        },
        dense=[{"columns": "x"}],
    )
    prepare_dataset(run, tmp_path / "_out", spark=spark)
    rows = read_all(tmp_path / "_out", "n")
    assert rows.index.tolist() == rows["x"].tolist() == [0, 1, 2, 3, 4, 5]
    assert rows["split"].tolist() == ["train"] * 2 + ["test"] * 2 + ["train"] * 2
    assert rows["keep.month"].astype(str).str[:7].tolist() == [m for m in kinds for _ in range(2)]


def test_headers_in_another_order_are_read_by_their_names(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("label,x,title\n1,2,NA\n")
    (tmp_path / "b.csv").write_text('title,label,x\n"c, d",0,3\n')
    (tmp_path / "c.csv").write_text("")
    source = {"path": "*.csv", "header": True, "null_values": ["NA"], "row_number": "n"}
    run = make_run(data={"root": str(tmp_path), "source": source}, dense=[{"columns": "x"}])
    rows = raw_rows(run, spark)
    assert rows.columns == ["label", "x", "title", "n"]
    assert sorted(map(tuple, rows.collect())) == [("0", "3", "c, d", 1), ("1", "2", None, 0)]


def test_a_line_that_does_not_fit_is_shown_among_headers_of_another_order(
    spark: SparkSession, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("label,x\n1,2\n")
    (tmp_path / "b.csv").write_text("x,label\n3,0\n5\n")
    run = make_run(
        data={"root": str(tmp_path), "source": {"path": "*.csv", "header": True}}, dense=[{"columns": "x"}]
    )
    with pytest.raises(DataError, match="1 line") as error:
        prepare_dataset(run, tmp_path / "out", spark=spark)
    assert error.value.where.endswith("b.csv")
    assert error.value.got == "5"


@pytest.mark.parametrize(
    ("second", "lacking", "column"),
    [("label", "b.csv", "'x'"), ("label,x,y", "a.csv", "'y'"), ("label,y", "b.csv", "'x'")],
)
def test_a_header_that_lacks_a_column_is_named(
    spark: SparkSession, tmp_path: Path, second: str, lacking: str, column: str
) -> None:
    (tmp_path / "a.csv").write_text("label,x\n1,2\n")
    (tmp_path / "b.csv").write_text(second + "\n" + "1," * second.count(",") + "1\n")
    run = make_run(
        data={"root": str(tmp_path), "source": {"path": "*.csv", "header": True}}, dense=[{"columns": "x"}]
    )
    with pytest.raises(DataError, match=f"different headers: column {column} is missing") as error:
        raw_rows(run, spark)
    assert error.value.where.endswith(lacking)


def test_a_key_that_json_lines_lack_is_a_missing_value_and_types_widen(
    spark: SparkSession, tmp_path: Path
) -> None:
    lines: list[dict[str, Any]] = [{"label": 1, "x": 1, "y": 1}, {"label": 0}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "b.jsonl").write_text('{"label": 1, "x": 2.5, "y": "b"}\n')
    run = make_run(data={"root": str(tmp_path), "source": {"path": "*.jsonl"}}, dense=[{"columns": "x"}])
    found = sorted((tuple(row) for row in raw_rows(run, spark).collect()), key=str)
    assert found == [(0, None, None), (1, 1.0, "1"), (1, 2.5, "b")]
    (tmp_path / "c.jsonl").write_text('{"label": 1, "x": "many"}\n')
    with pytest.raises(UserError, match="'x' has 1 value"):
        prepare_dataset(run.override("features.dense.0.ops={fill: 0}"), tmp_path / "out", spark=spark)


@pytest.mark.parametrize("line", ['{"label": 1, "x": 2} {"label": 0, "x": 3}', '{"label": 1, "x": "}"}x'])
def test_a_json_line_that_goes_on_behind_its_object_is_named(
    spark: SparkSession, tmp_path: Path, line: str
) -> None:
    sound = '{"label": 0, "x": "a } b", "y": {"z": [{"u": 1}, {"u": 2}]}}\n'
    (tmp_path / "a.jsonl").write_text(sound + line + "\n" + sound)
    run = make_run(data={"root": str(tmp_path), "source": {"path": "a.jsonl"}}, dense=[{"columns": "x"}])
    with pytest.raises(DataError, match="goes on behind its JSON object") as error:
        raw_rows(run, spark)
    assert error.value.where.endswith("a.jsonl")
    (tmp_path / "a.jsonl").write_text(sound * 3)
    assert raw_rows(run, spark).count() == 3


PARTS = {
    "numbers and words": ["1", "eu"],
    "a number with a zero in front": ["01", "eu"],
    "numbers": ["1", "2.5"],
    "whole numbers": ["1", str(2**40)],
    "missing": ["1", "__HIVE_DEFAULT_PARTITION__"],
    "days and words": ["2024-01-01", "later"],
    "percent": ["a%3Ab", "1"],
}


@pytest.mark.parametrize("values", PARTS.values(), ids=list(PARTS))
@pytest.mark.parametrize("copied", [False, True])
def test_partition_columns_are_what_they_are_without_drift(
    spark: SparkSession, tmp_path: Path, values: list[str], copied: bool
) -> None:
    def write(kind: pa.DataType, codec: str) -> None:
        for number, value in enumerate(values):
            folder = tmp_path / "days" / f"region={value}"
            folder.mkdir(parents=True, exist_ok=True)
            table = pa.table({"label": [0, 1], "x": pa.array([number, 7], kind if number else pa.int32())})
            pq.write_table(table, folder / "a.parquet", compression=codec if number else "snappy")

    write(pa.int32(), "snappy")
    run = make_run(data={"root": str(tmp_path), "source": {"path": "days"}}, sparse=[{"columns": "x"}])
    plain = raw_rows(run, spark)
    expected = sorted(map(tuple, plain.collect()), key=str)
    write(pa.int64(), "brotli" if copied else "snappy")  # Spark reads a copy of what it cannot unpack
    drifted = raw_rows(run, spark)
    assert drifted.schema["region"].dataType == plain.schema["region"].dataType
    assert sorted(map(tuple, drifted.collect()), key=str) == expected


TREES = {
    "folders inside": (["a", "b", "sub/c", "sub/sub/d"], ["a", "b"]),
    "partitions": (["day=1/a", "day=2/b", "day=2/sub/c"], ["day=1/a", "day=2/b", "day=2/sub/c"]),
    "partitions of hidden names": (["_day=1/a", "_day=2/b", "_temporary/c"], ["_day=1/a", "_day=2/b"]),
    "hidden names": (["a", "b", "_c", ".d", "_e/f", ".day=1/g"], ["a", "b"]),
    "files of hidden names with =": (["a", "b", "_c=1"], ["_c=1", "a", "b"]),
}


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64()], ids=["same types", "drift"])
@pytest.mark.parametrize(("files", "read"), TREES.values(), ids=list(TREES))
def test_the_same_files_of_a_folder_are_read_with_and_without_drift(
    spark: SparkSession, tmp_path: Path, files: list[str], read: list[str], kind: pa.DataType
) -> None:
    for number, name in enumerate(files):
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        x = pa.array([number], kind if name == read[1] else pa.int32())
        pq.write_table(pa.table({"label": [0], "x": x}), path)
    run = make_run(data={"source": {"path": str(tmp_path)}}, sparse=[{"columns": "x"}])
    rows = raw_rows(run, spark)
    assert sorted(files[row["x"]] for row in rows.collect()) == read
    days = {name.split("/")[0].partition("=")[0] for name in read if "/" in name}
    assert set(rows.columns) == {"label", "x", *days}


def test_a_file_beside_partition_folders_is_named(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "day=1").mkdir()
    for name in ("a", "day=1/b"):
        pq.write_table(pa.table({"label": [0], "x": [1]}), tmp_path / f"{name}.parquet")
    run = make_run(data={"source": {"path": str(tmp_path)}}, sparse=[{"columns": "x"}])
    with pytest.raises(DataError, match="beside partition folders") as error:
        raw_rows(run, spark)
    assert error.value.where == str(tmp_path / "a.parquet")


def test_a_folder_of_nothing_but_folders_holds_no_files(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "days" / "sub").mkdir(parents=True)
    pq.write_table(pa.table({"label": [0], "x": [1]}), tmp_path / "days" / "sub" / "a.parquet")
    run = make_run(data={"root": str(tmp_path), "source": {"path": "days"}}, sparse=[{"columns": "x"}])
    with pytest.raises(DataError, match="holds no files"):
        raw_rows(run, spark)
    assert raw_rows(run.override("data.source.path=days/*"), spark).count() == 1
