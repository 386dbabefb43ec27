"""Raw files on a real S3 server, without a connector of Spark's: the rows and errors of local files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.appending import append_rows
from jobs.preparation.pipeline import prepare_dataset
from jobs.preparation.raw_copies import raw_copies
from jobs.preparation.sources import is_synthetic, raw_rows
from tests.spark.prepared import make_run
from tests.support.damage import flip_bytes
from tests.support.object_store import BUCKET, ObjectStore
from trainer.config import RunConfig
from trainer.errors import DataError, ShardrecError, StoreError
from trainer.schema import SYNTHETIC_FILE

pytestmark = pytest.mark.thorough

URL = f"s3://{BUCKET}/raw"


@pytest.fixture(autouse=True)
def _empty(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.renew(monkeypatch)


def run_on(root: object, source: dict[str, Any], **data: Any) -> RunConfig:
    return make_run(data={"root": str(root), "source": source, **data}, dense=[{"columns": "x"}])


def rows_of(root: object, source: dict[str, Any], spark: SparkSession, out: Path, **data: Any) -> list[Any]:
    with raw_copies(out):
        rows = raw_rows(run_on(root, source, **data), spark).collect()
    return sorted((tuple(row.asDict().items()) for row in rows), key=str)


def write_text(folder: Path) -> None:
    (folder / "days" / "old").mkdir(parents=True)
    for day in (1, 2, 3):
        (folder / "days" / f"day_{day}.csv").write_text(f'label,x,title\n1,{day}.5,"a, b"\n0,,é\n')
    (folder / "days" / "_SUCCESS").write_text("")
    (folder / "days" / "old" / "day_0.csv").write_text("label,x,title\n1,9,other\n")
    (folder / "lines.jsonl").write_text('{"label": 1, "x": 2.5, "ids": [1, 2]}\n{"label": 0}\n')
    (folder / "latin.dat").write_bytes('1::Café "x"::3\n0::b::4\n'.encode("latin-1"))


def write_parquet(folder: Path) -> None:
    for country in ("de", "eu"):
        part = folder / "parts" / f"country={country}"
        part.mkdir(parents=True)
        x = [1, 2] if country == "de" else [0.5, None]  # as long and as double
        pq.write_table(pa.table({"label": [1, 0], "x": x}), part / "a.parquet")
    time = pd.Timestamp("2026-01-02 03:04:05.678901")
    table = pa.table({"label": [1, 0], "x": [1.5, 2.5], "time": [time, None], "ids": [[1, 2], []]})
    pq.write_table(table, folder / "packed.parquet", compression="brotli", row_group_size=1)


SOURCES: dict[str, dict[str, Any]] = {
    "one file": {"path": "days/day_1.csv", "header": True},
    "a folder without the folders in it": {"path": "days", "header": True},
    "a pattern": {"path": "days/day_[12].csv", "header": True},
    "a pattern over folders": {"path": "**/day_*.csv", "header": True},
    "a list, numbered": {"path": ["days/day_3.csv", "days/day_1.csv"], "header": True, "row_number": "n"},
    "JSON": {"path": "lines.jsonl"},
    "other encoding": {
        "path": "latin.dat", "format": "csv", "delimiter": "::", "encoding": "latin-1",
        "columns": ["label", "title", "x"],
    },
    "partition folders of two types": {"path": "parts"},
    "Brotli": {"path": "packed.parquet"},
}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_rows_are_those_of_local_files(
    spark: SparkSession, store: ObjectStore, tmp_path: Path, source: dict[str, Any]
) -> None:
    raw = tmp_path / "raw"
    write_text(raw)
    write_parquet(raw)
    store.upload(raw, "raw")
    local = rows_of(raw, source, spark, tmp_path / "out")
    assert local
    assert rows_of(URL, source, spark, tmp_path / "out") == local
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"], "the copies go with the block"


def test_only_what_is_read_is_copied_and_once(
    spark: SparkSession, store: ObjectStore, tmp_path: Path
) -> None:
    write_text(tmp_path / "raw")
    store.upload(tmp_path / "raw", "raw")
    source = {"path": "days", "header": True}
    with raw_copies(tmp_path / "out"):
        for _ in range(2):
            assert raw_rows(run_on(URL, source), spark).count() == 6
    got = sorted(r.path.rpartition("/")[2] for r in store.requests if r.method == "GET" and "/raw/" in r.path)
    assert [name for name in got if name] == ["day_1.csv", "day_2.csv", "day_3.csv"]


def no_column(folder: Path) -> dict[str, Any]:
    for number, table in enumerate(({"label": [1], "x": [1]}, {"label": [1]})):
        pq.write_table(pa.table(table), folder / f"{number}.parquet")
    return {"path": "*.parquet"}


def bad_bytes(folder: Path) -> dict[str, Any]:
    (folder / "a.csv").write_bytes(b"label,x\n1,\xff\n")
    return {"path": "a.csv", "header": True}


def not_parquet(folder: Path) -> dict[str, Any]:
    (folder / "a.parquet").write_text("label,x\n1,2\n")
    return {"path": "a.parquet"}


def beside_partitions(folder: Path) -> dict[str, Any]:
    (folder / "d" / "day=1").mkdir(parents=True)
    for path in ("d/day=1/a.csv", "d/a.csv"):
        (folder / path).write_text("label,x\n1,2\n")
    return {"path": "d", "header": True}


def only_folders(folder: Path) -> dict[str, Any]:
    (folder / "d" / "inner").mkdir(parents=True)
    (folder / "d" / "inner" / "a.csv").write_text("label,x\n1,2\n")
    return {"path": "d", "header": True}


def delta(folder: Path) -> dict[str, Any]:
    (folder / "t" / "_delta_log").mkdir(parents=True)
    (folder / "t" / "_delta_log" / "0.json").write_text("{}")
    pq.write_table(pa.table({"label": [1], "x": [1]}), folder / "t" / "a.parquet")
    return {"path": "t/a.parquet"}


def nothing_there(folder: Path) -> dict[str, Any]:
    (folder / "clicks.csv").write_text("label,x\n1,2\n")
    return {"path": "click.csv", "header": True}


def nothing_matches(folder: Path) -> dict[str, Any]:
    (folder / "clicks.csv").write_text("label,x\n1,2\n")
    return {"path": "day_*.csv", "header": True}


@pytest.mark.parametrize(
    "make",
    [
        no_column,
        bad_bytes,
        not_parquet,
        beside_partitions,
        only_folders,
        delta,
        nothing_there,
        nothing_matches,
    ],
)
def test_errors_are_those_of_local_files_with_the_url(
    spark: SparkSession, store: ObjectStore, tmp_path: Path, make: Callable[[Path], dict[str, Any]]
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    source = make(raw)
    store.upload(raw, "raw")
    with pytest.raises(DataError) as local:
        rows_of(raw, source, spark, tmp_path / "out")
    with pytest.raises(DataError) as remote:
        rows_of(URL, source, spark, tmp_path / "out")
    assert str(remote.value) == str(local.value).replace(str(raw), URL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def write_day(folder: Path, day: int, bad: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{i % 2},{i / 7:.3f},u{i * 7 % 40 + day}" for i in range(300)]
    (folder / f"day_{day}.csv").write_text("\n".join(["label,x,user", *rows]) + "\n" + bad)


def config(root: object, source: dict[str, Any]) -> RunConfig:
    data = {"root": str(root), "source": source}
    return make_run(data=data, dense=[{"columns": "x"}], sparse=[{"columns": "user", "ops": "vocabulary"}])


def test_a_bad_line_is_named_by_its_url_or_skipped_and_reported(
    spark: SparkSession, store: ObjectStore, tmp_path: Path
) -> None:
    write_day(tmp_path / "raw", 1, bad="1,2\n")
    store.upload(tmp_path / "raw", "raw")
    source = {"path": "day_1.csv", "header": True}
    with pytest.raises(DataError, match="too few or too many columns") as error:
        prepare_dataset(config(URL, source), tmp_path / "out", spark=spark)
    assert error.value.where == f"{URL}/day_1.csv"
    made = prepare_dataset(config(URL, {**source, "on_corrupt": "skip"}), tmp_path / "out", spark=spark)
    assert sum(made.rows.values()) == 300
    (remark,) = made.manifest.remarks
    assert re.search(rf"skipped: 1 line.* for instance in {URL}/day_1.csv: 1,2", remark)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_a_damaged_row_group_is_named_by_its_url_or_skipped(
    spark: SparkSession, store: ObjectStore, tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    table = {"label": [i % 2 for i in range(300)], "x": [i / 7 for i in range(300)], "user": ["u"] * 300}
    pq.write_table(pa.table(table), raw / "a.parquet", row_group_size=100)
    flip_bytes(raw / "a.parquet", 1, "x")
    store.upload(raw, "raw")
    with pytest.raises(DataError, match=rf"{URL}/a.parquet: row group 1 \(100 rows\)"):
        prepare_dataset(config(URL, {"path": "a.parquet"}), tmp_path / "out", spark=spark)
    skipping = config(URL, {"path": "a.parquet", "on_corrupt": "skip"})
    made = prepare_dataset(skipping, tmp_path / "out", spark=spark)
    assert sum(made.rows.values()) == 200
    assert any(f"row group(s) 1 of {URL}/a.parquet" in remark for remark in made.manifest.remarks)


def test_data_sets_and_appended_days_equal_those_of_local_files(
    spark: SparkSession, store: ObjectStore, tmp_path: Path
) -> None:
    for day in (1, 2):
        write_day(tmp_path / "raw", day)
    store.upload(tmp_path / "raw", "raw")
    made = []
    for root, out in ((tmp_path / "raw", tmp_path / "a"), (URL, tmp_path / "b")):
        first = config(root, {"path": "day_1.csv", "header": True})
        prepare_dataset(first, out, spark=spark)
        made.append(
            append_rows(first.override("data.source.path=day_2.csv"), out, "grow", spark=spark).manifest
        )
    local, remote = made
    assert remote.spec == local.spec
    assert remote.splits == local.splits
    assert [a.fingerprint for a in remote.appended] == [a.fingerprint for a in local.appended]
    assert remote.raw is not None
    assert remote.raw["root"] == URL


def test_made_up_rows_are_known_by_the_marker_above_them(
    spark: SparkSession, store: ObjectStore, tmp_path: Path
) -> None:
    write_day(tmp_path / "raw" / "days", 1)
    (tmp_path / "raw" / SYNTHETIC_FILE).write_text("{}")
    store.upload(tmp_path / "raw", "raw")
    run = config(URL, {"path": "days/day_1.csv", "header": True})
    with raw_copies(tmp_path / "out"):
        raw_rows(run, spark)
        assert is_synthetic(run)


def refused(spark: SparkSession, url: str, out: Path) -> ShardrecError:
    with pytest.raises(ShardrecError) as error:
        rows_of(url, {"path": "a.csv", "header": True}, spark, out)
    return error.value


def test_no_bucket_no_credentials_and_no_server_are_named(
    spark: SparkSession, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.csv").write_text("label,x\n1,2\n")
    store.upload(tmp_path / "raw", "raw")
    out = tmp_path / "out"
    error = refused(spark, "s3://nowhere/raw", out)
    assert isinstance(error, StoreError)
    assert "no bucket 'nowhere'" in str(error)
    assert "s3://nowhere/raw/a.csv" in error.where
    with monkeypatch.context() as patch:
        store.use(patch, AWS_SECRET_ACCESS_KEY="hunter2")
        error = refused(spark, URL, out)
    assert "refuses access to bucket" in str(error)
    assert f"{URL}/a.csv" in error.where
    assert "hunter2" not in str(error)
    with monkeypatch.context() as patch:
        for name in [name for name in os.environ if "AWS" in name and ("KEY" in name or "PROFILE" in name)]:
            patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        error = refused(spark, URL, out)
    assert "check AWS_ACCESS_KEY_ID" in str(error)
    store.failures["a.csv"] = 10**6
    error = refused(spark, URL, out)
    assert f"{URL}/a.csv" in error.where
    assert "AWS_ENDPOINT_URL" in str(error)


def test_other_stores_are_read_through_fsspec(spark: SparkSession, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/box/raw/a.csv", b"label,x\n1,2\n0,3\n")
    try:
        found = rows_of("memory://box/raw", {"path": "*.csv", "header": True}, spark, tmp_path / "out")
        assert [dict(row)["x"] for row in found] == ["3", "2"]
    finally:
        memory.rm("/box", recursive=True)


def test_what_spark_has_a_connector_for_is_left_to_it(
    spark: SparkSession, store: ObjectStore, tmp_path: Path
) -> None:
    """Spark's own file system for FTP stands for a connector: the class is there, the server is not."""
    (tmp_path / "raw").mkdir()
    assert spark._jsparkSession is not None
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    hadoop.set("fs.s3.impl", "org.apache.hadoop.fs.ftp.FTPFileSystem")
    try:
        store.requests.clear()
        with pytest.raises(Exception, match=r"(?i)scheme|host|port|fs.s3|ftp|bucket"):
            rows_of(URL, {"path": "a.csv", "header": True}, spark, tmp_path / "out")
        assert not store.requests
    finally:
        hadoop.unset("fs.s3.impl")
