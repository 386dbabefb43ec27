"""Several folders with partition folders in one `path`: all rows are read, with the names of the folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.failures import from_spark
from jobs.preparation.sources import read_source
from jobs.preparation.text_rows import _Reader
from trainer.config import SourceConfig
from trainer.errors import DataError

pytestmark = pytest.mark.thorough

Row = dict[str, Any]
FOLDERS = ["a/day=1", "a/day=2", "b/day=2", "b/day=3"]
HEADER = {"header": True}
FORMATS: dict[str, tuple[str, Callable[[Row], str] | None, dict[str, Any]]] = {
    "csv": ("csv", lambda row: _lines(",", row), HEADER),
    "tsv": ("tsv", lambda row: _lines("\t", row), HEADER),
    "columns": ("csv", lambda row: "{label},{x}\n".format(**row), {"columns": ["label", "x"]}),
    "json": ("json", json.dumps, {}),
    "parquet": ("parquet", None, {}),
}


def _lines(delimiter: str, row: Row) -> str:
    return f"{delimiter.join(row)}\n{delimiter.join(map(str, row.values()))}\n"


def write(root: Path, kind: str, folders: list[str], *, turn: bool = False) -> SourceConfig:
    """Write a file to each folder, rows numbered from 0; with `turn` every other one in the other order."""
    name, text, options = FORMATS[kind]
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        row = {"label": number % 2, "x": number}
        row = dict(list(row.items())[:: -1 if turn and number % 2 else 1])
        file = root / folder / f"f.{name}"
        if text is None:
            pq.write_table(pa.Table.from_pylist([row]), file)
        else:
            file.write_text(text(row))
    return SourceConfig(path=["a", "b"], format=name, **options)  # type: ignore[arg-type]


def read(source: SourceConfig, root: Path, spark: SparkSession) -> list[tuple[int, int, Any]]:
    rows = read_source(source, str(root), spark, "data.source")
    return sorted((int(row["x"]), int(row["label"]), row["day"]) for row in rows.collect())


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("turn", [False, True], ids=["same columns", "other order"])
def test_rows_of_all_folders_are_read_with_their_partition(
    spark: SparkSession, tmp_path: Path, kind: str, turn: bool
) -> None:
    source = write(tmp_path, kind, FOLDERS, turn=turn and kind != "columns")
    for path in (["a", "b"], "[ab]", [f"file:{tmp_path}/b", "a"]):
        found = read(source.model_copy(update={"path": path}), tmp_path, spark)
        assert found == [(0, 0, 1), (1, 1, 2), (2, 0, 2), (3, 1, 3)]


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_partitions_of_different_types_are_texts(spark: SparkSession, tmp_path: Path, kind: str) -> None:
    source = write(tmp_path, kind, ["a/day=01", "b/day=eu"])
    assert read(source, tmp_path, spark) == [(0, 0, "01"), (1, 1, "eu")]


def test_rows_are_numbered_and_damaged_files_left_out_across_folders(
    spark: SparkSession, tmp_path: Path
) -> None:
    source = write(tmp_path, "csv", FOLDERS)
    (tmp_path / "a" / "day=1" / "g.csv.gz").write_bytes(b"\x1f\x8b no gzip")
    source = source.model_copy(update={"row_number": "n", "on_corrupt": "skip"})
    remarks: list[str] = []
    rows = read_source(source, str(tmp_path), spark, "data.source", remarks=remarks).collect()
    assert sorted((row["n"], int(row["x"]), row["day"]) for row in rows) == [
        (0, 0, 1), (1, 1, 2), (2, 2, 2), (3, 3, 3)
    ]  # fmt: skip
    assert ["g.csv.gz" in line for line in remarks] == [True]


@pytest.mark.parametrize("kind", ["csv", "json"])
@pytest.mark.parametrize("other", ["b/hour=1", "b"])
def test_folders_of_other_partition_columns_are_both_named(
    spark: SparkSession, tmp_path: Path, kind: str, other: str
) -> None:
    source = write(tmp_path, kind, ["a/day=1", other])
    with pytest.raises(DataError, match="folders of different partition columns") as error:
        read(source, tmp_path, spark)
    assert error.value.where == "data.source.path"
    names = [
        f"day for {tmp_path}/a/day=1/f",
        f"{'hour' if '=' in other else 'none'} for {tmp_path}/{other}/f",
    ]
    assert [name for name in names if name not in str(error.value.got)] == []


def test_what_spark_says_of_folders_that_it_alone_can_open_is_put_in_our_words(
    spark: SparkSession, tmp_path: Path
) -> None:
    write(tmp_path, "csv", FOLDERS)
    with pytest.raises(Exception, match=r"(?i)conflicting.directory.structures") as caught:
        _Reader(spark, "csv", {"header": True}).load([f"{tmp_path}/a", f"{tmp_path}/b"])
    error = from_spark(caught.value, "the source", reading=True)
    assert isinstance(error, DataError)
    assert [name for name in (f"{tmp_path}/a", f"{tmp_path}/b") if name not in str(error.got)] == []
