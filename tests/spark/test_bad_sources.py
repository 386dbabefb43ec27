"""Sources that Spark would read wrongly, or refuse with an error of its own: each is named."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.errors import EnvironmentFault
from jobs.preparation import text_files
from jobs.preparation.failures import from_spark, named_failures, named_source
from jobs.preparation.files import SourceFiles
from jobs.preparation.planned import plan_features
from jobs.preparation.sources import raw_rows
from tests.spark.prepared import make_run
from trainer.errors import ConfigError, DataError, ShardrecError, UserError

pytestmark = pytest.mark.thorough

HEADER = {"header": True}


def refused(spark: SparkSession, root: Path, source: dict[str, Any], **data: Any) -> ShardrecError:
    run = make_run(data={"root": str(root), "source": source, **data}, dense=[{"columns": "x"}])
    with pytest.raises(UserError) as error:
        raw_rows(run, spark)
    return error.value


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("s3://bucket/x.parquet", ["s3a:// in place of s3://"]),
        ("s3a://bucket/x.csv", ["S3AFileSystem not found"]),
        ("abfss://box@account.dfs.core.windows.net/x.parquet", []),
        ("gs://bucket/x.parquet", ["Hadoop connector of gs://"]),
    ],
)
def test_a_store_without_connector_is_named_with_what_is_missing(
    spark: SparkSession, tmp_path: Path, path: str, words: list[str]
) -> None:
    assert spark._jvm is not None
    hadoop = spark._jvm.org.apache.hadoop.util.VersionInfo.getVersion()
    packages = {"s3": "hadoop-aws", "ab": "hadoop-azure"}
    if path[:2] in packages:
        words = [*words, f"spark.jars.packages=org.apache.hadoop:{packages[path[:2]]}:{hadoop} "]
    source = {"path": path, **({"columns": ["label", "x"]} if path.endswith("csv") else {})}
    error = refused(spark, tmp_path, source)
    assert isinstance(error, EnvironmentFault)
    assert path in error.where
    assert [word for word in ["no connector", "--input FOLDER", *words] if word not in str(error)] == []


PARTS: list[tuple[str, list[dict[str, Any]], list[str]]] = [
    ("a column lacks in a later part", [{"label": [1], "x": [1]}, {"label": [1]}], ["1.parquet", "'x'"]),
    ("a column lacks in the first part", [{"label": [1]}, {"label": [1], "x": [1]}], ["0.parquet", "'x'"]),
    ("another type", [{"label": [1], "x": [1]}, {"label": [1], "x": ["1"]}], ["1.parquet", "'x'", "bigint"]),
]


@pytest.mark.parametrize(("parts", "words"), [case[1:] for case in PARTS], ids=[case[0] for case in PARTS])
def test_parquet_parts_with_other_columns_are_named(
    spark: SparkSession, tmp_path: Path, parts: list[dict[str, Any]], words: list[str]
) -> None:
    for number, columns in enumerate(parts):
        pq.write_table(pa.table(columns), tmp_path / f"{number}.parquet")
    error = refused(spark, tmp_path, {"path": "*.parquet"})
    assert isinstance(error, DataError)
    assert [word for word in words if word not in str(error)] == []


def test_parquet_parts_may_order_their_columns_and_units_of_time_differently(
    spark: SparkSession, tmp_path: Path
) -> None:
    for number, unit in enumerate(("ms", "us")):
        times = pa.array([7], pa.timestamp(unit, "UTC"))
        columns = {"label": pa.array([1]), "time": times, "x": pa.array([[1.0]])}
        order = list(columns)[:: 1 - 2 * number]
        pq.write_table(pa.table({name: columns[name] for name in order}), tmp_path / f"{number}.parquet")
    run = make_run(data={"root": str(tmp_path), "source": {"path": "*.parquet"}}, dense=[{"columns": "x"}])
    assert raw_rows(run, spark).columns == ["label", "time", "x"]


LATIN = "label,title\n1,Ren\xe9\n".encode("latin-1")
TEXTS: list[tuple[str, bytes, dict[str, Any], list[str]]] = [
    ("a.csv", b"label,x,X\n1,2,3\n", HEADER, ["'X'", "a.csv", "rename"]),
    ("b.csv", b"label,x,x\n1,2,3\n", HEADER, ["'x'", "b.csv: header"]),
    ("empty.csv", b"", HEADER, ["no rows", "empty"]),
    ("blank.csv", b"\n\n", HEADER, ["no rows", "empty"]),
    ("latin.csv", LATIN, HEADER, ["not utf-8 text", "latin.csv", "0xe9 at offset 17", "ISO-8859-1"]),
    ("latin.jsonl", b'{"label": 1, "title": "Ren\xe9"}\n', {}, ["not utf-8 text", "0xe9", "`encoding`"]),
    ("ascii.tsv", b"1\t\xc3\xa9\n", {"columns": ["label", "x"], "encoding": "ascii"}, ["not ascii", "0xc3"]),
    ("tabs.tsv", b"1\t2\n\t\n0\t3\n", {"columns": ["label", "x"]}, ["delimiters only", "tabs.tsv"]),
    ("zip.csv", b"PK\x03\x04\x14\x00", HEADER, ["a zip archive", "zip.csv", "unzip"]),
    ("gz.csv", gzip.compress(b"label,x\n1,2\n"), HEADER, ["packed with gzip", "end in .gz"]),
    ("parquet.tsv", b"PAR1\x15\x04", {"columns": ["label", "x"]}, ["is Parquet", "format: parquet"]),
    ("wide_.csv", "label,x\n1,2\n".encode("utf-16"), HEADER, ["UTF-16 text", "iconv -f UTF-16"]),
    ("endless.csv", b'label,"' + b"x" * 200_000, HEADER, ["header cannot be read", "endless.csv"]),
    ("torn.csv.gz", b"\x1f\x8b\x08\x00torn", HEADER, ["damaged", "torn.csv.gz"]),
    ("wide.csv", "label,x\n1,2\n".encode("utf-16"), {**HEADER, "encoding": "utf-16"}, ["iconv", ".encoding"]),
    ("twice.jsonl", b'{"label": 1, "x": 1, "X": 2}\n', {}, ["'x'", "twice.jsonl"]),
    ("h.jsonl", b'{"label": 1}\n', HEADER, ["`header` means nothing for json", "data.source.header"]),
    ("d.parquet", b"", {"delimiter": ","}, ["`delimiter` means nothing for parquet"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "options", "words"), TEXTS, ids=[case[0] for case in TEXTS])
def test_text_that_would_be_read_wrongly_is_named(
    spark: SparkSession, tmp_path: Path, name: str, content: bytes, options: dict[str, Any], words: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    error = refused(spark, tmp_path, {"path": name, **options})
    assert [word for word in words if word not in str(error)] == []


def test_of_many_files_the_first_lines_alone_are_held(tmp_path: Path) -> None:
    names = [str(tmp_path / f"{number}.csv") for number in range(3)]
    for name in names:
        Path(name).write_text('\n"two\nlines",x\n' + "0,1\n" * 100_000)
    files = SourceFiles(names, "csv", "", names)
    assert text_files.checked_text(files, "utf-8") == (files, ['\n"two\nlines",x\n'] * 3)


def test_a_wrong_byte_is_found_across_chunks_at_its_offset(
    monkeypatch: pytest.MonkeyPatch, spark: SparkSession, tmp_path: Path
) -> None:
    monkeypatch.setattr(text_files, "_CHUNK_BYTES", 16)
    text = "label,x\n1,\u00e9\u00e9\u00e9\n0,\u20ac\u20ac".encode()  # characters that chunks cut
    (tmp_path / "a.csv").write_bytes(text + b"\xe2(")
    error = refused(spark, tmp_path, {"path": "a.csv", **HEADER})
    assert f"byte 0xe2 at offset {len(text)}:" in str(error)


def test_columns_that_a_join_doubled_are_named(spark: SparkSession) -> None:
    run = make_run(dense=[{"columns": "x"}])
    frame = spark.range(1).selectExpr("1 as label", "2 as x", "3 as X")
    with pytest.raises(DataError, match="two columns are named 'X'") as error:
        raw_rows(run, spark, frame)
    assert error.value.where == "the DataFrame"


LEAKS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"label": {"column": "rating"}}, {"dense": [{"columns": "rating"}]}, "label cannot be a feature"),
    (
        {"label": {"column": "rating", "positive_at_least": 4}},
        {"sparse": [{"columns": "rating", "name": "stars"}]},
        "label cannot be a feature",
    ),
    ({}, {"sparse": [{"columns": "a.b"}]}, "must not hold a dot"),
    ({}, {"sparse": [{"columns": "x", "ops": [{"split": "|"}, {"fill": "none"}]}]}, "`fill` after `split`"),
]


@pytest.mark.parametrize(("data", "features", "message"), LEAKS)
def test_features_that_cannot_work_are_refused(
    spark: SparkSession, data: dict[str, Any], features: dict[str, Any], message: str
) -> None:
    frame = spark.range(1).selectExpr("1 as label", "2 as rating", "'3' as x", "4 as `a.b`")
    with pytest.raises(ConfigError, match=message):
        plan_features(make_run(data=data, **features), frame)


def _closed(*_: object) -> bool:
    return False


def _denied(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(("place", "name", "call"), [(os, "access", _closed), (pq, "read_metadata", _denied)])
def test_a_source_that_may_not_be_read_is_not_called_damaged(
    monkeypatch: pytest.MonkeyPatch, spark: SparkSession, tmp_path: Path,
    place: Any, name: str, call: Callable[..., Any],
) -> None:  # fmt: skip
    pq.write_table(pa.table({"label": [1], "x": [1]}), tmp_path / "a.parquet")
    monkeypatch.setattr(place, name, call)
    error = refused(spark, tmp_path, {"path": "a.parquet"})
    assert "no permission to read" in str(error)
    assert "a.parquet" in error.where


class SparkLikeError(Exception):
    __module__ = "pyspark.errors"


@pytest.mark.parametrize(
    ("text", "reading", "message"),
    [
        ("FileNotFoundException: file:/data/a.csv (Permission denied)", True, "no permission to read"),
        ("FileNotFoundException: file:/data/a.csv (Permission denied)", False, "no permission to write"),
        ("[INSUFFICIENT_PERMISSIONS] no SELECT on ads.clicks", True, "no permission to read"),
        ("FileNotFoundException: /tmp/blockmgr-1/0c (Permission denied)", True, "no permission to write"),
        (
            "[INVALID_PARAMETER_VALUE.CHARSET] `charset` in `CSVOptions`",
            True,
            "Spark cannot read this character encoding",
        ),
        ("Mkdirs failed to create file:/out/_temporary", True, "no permission to write"),
    ],
)
def test_failures_of_spark_say_what_is_missing(text: str, reading: bool, message: str) -> None:
    error = from_spark(SparkLikeError(text), "data", reading=reading)
    assert error is not None
    assert error.what == message
    with pytest.raises(UserError, match=message), named_failures("data", reading=reading):
        raise SparkLikeError(text)
    if reading and not message.endswith("write"):
        with pytest.raises(UserError, match=message), named_source("data"):
            raise SparkLikeError(text)
