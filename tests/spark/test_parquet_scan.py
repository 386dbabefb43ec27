"""Parquet files that tasks read by themselves give the data set that Spark's own rows give."""

from __future__ import annotations

import datetime
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.preparation import parquet_scan as parquet_scans
from jobs.preparation import pipeline
from jobs.preparation.parquet_scan import ParquetScan, parquet_scan
from jobs.preparation.pipeline import prepare_dataset
from jobs.preparation.streams import Streams
from jobs.preparation.writing import Layout
from jobs.session import over_connect
from trainer.config import RunConfig
from trainer.errors import DataError
from trainer.schema import Manifest

pytestmark = pytest.mark.thorough

ROWS = 3_000


def raw_table(rows: int = ROWS, seed: int = 0) -> pa.Table:
    g = np.random.default_rng(seed)
    missing = g.random(rows) < 0.1
    words = np.array(["ä", "b", "", "7", "07", "-3", "long text of more than thirty-two bytes"])
    start = datetime.datetime(2024, 2, 28, tzinfo=datetime.timezone.utc)
    times = [start + datetime.timedelta(seconds=int(s)) for s in g.integers(0, 10**6, rows)]
    lists = [g.integers(0, 50, n).tolist() if n else None for n in g.integers(0, 5, rows)]
    return pa.table(
        {
            "label": pa.array(g.integers(0, 2, rows), pa.int8()),
            "price.usd": pa.array(g.normal(size=rows), mask=missing),
            "count": pa.array(g.poisson(3, rows), pa.int32()),
            "word": pa.array(words[g.integers(0, len(words), rows)], mask=g.random(rows) < 0.1),
            "item": pa.array((1000 ** g.random(rows)).astype(np.int64)),
            "tags": pa.array(lists, pa.list_(pa.int64())),
            "at": pa.array(times, pa.timestamp("us", "UTC")),
            "flag": pa.array(g.random(rows) < 0.3),
        }
    )


def config(folder: Path, **data: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "scanned",
            "data": {
                "root": str(folder),
                "source": {"path": "raw", "format": "parquet"},
                "label": {"column": "label"},
                "split": {"fractions": [0.7, 0.2, 0.1], "seed": 3},
                "keep": ["item", "word"],
                "rows_per_file": 500,
                **data,
            },
            "features": {
                "dense": [
                    {"columns": ["price.usd"], "name": "price", "ops": [{"fill": "mean"}, "standardise"]},
                    {"columns": "count", "ops": ["log1p"]},
                ],
                "sparse": [
                    {"columns": ["word", "item", "flag"], "ops": [{"vocabulary": {"min_count": 2}}]},
                    {"columns": "tags", "ops": "vocabulary"},
                    {"columns": "at", "name": "hour", "ops": ["hour"]},
                ],
            },
            "model": {"name": "dlrm"},
        }
    )


def write_raw(folder: Path, table: pa.Table, files: int = 3) -> None:
    (folder / "raw").mkdir(parents=True)
    size = -(-len(table) // files)
    for number in range(files):
        part = table.slice(number * size, size)
        pq.write_table(part, folder / "raw" / f"part {number}.parquet", row_group_size=400)


def through_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Spark read the rows, and hand on what goes from task to task, as on a cluster."""
    monkeypatch.setattr(pipeline, "parquet_scan", lambda *_: None)
    monkeypatch.setattr(pipeline, "streams_between_tasks", lambda *_: nullcontext(Streams()))


def prepared(spark, run: RunConfig, out: Path) -> tuple[Manifest, dict[str, pd.DataFrame]]:
    manifest = prepare_dataset(run, out, spark=spark).manifest
    rows = {
        file.path: pq.read_table(out / file.path).to_pandas()
        for split in manifest.splits.values()
        for file in split.files
    }
    return manifest, rows


@pytest.mark.parametrize("label", [{"column": "label"}, {"column": "count", "positive_at_least": 4}])
def test_the_scan_gives_what_spark_gives(spark, tmp_path, monkeypatch, label):
    write_raw(tmp_path, raw_table())
    run = config(tmp_path, label=label)
    if label["column"] == "count":
        run = run.model_copy(
            update={"features": run.features.model_copy(update={"dense": run.features.dense[:1]})}
        )
    made = {}
    for guess in (None, (0, 0, 0), (3, 1, 2)):
        used = []

        def watched(*args: Any, guess: Any = guess, used: Any = used) -> ParquetScan | None:
            used.append(with_guess(parquet_scan(*args), guess))
            return used[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "parquet_scan", watched)
            made[guess] = prepared(spark, run, tmp_path / f"scanned {guess}")
        assert used[0] is not None
        assert len(used[0].tasks) == 8
    through_spark(monkeypatch)
    plain, plain_rows = prepared(spark, run, tmp_path / "plain")
    for scanned, rows in made.values():
        assert rows.keys() == plain_rows.keys()
        for path, frame in rows.items():
            pd.testing.assert_frame_equal(frame, plain_rows[path])
        same = {"spec", "splits", "statistics", "fingerprint"}
        # Parquet files hold the version of nothing that differs here, so even their sizes are equal.
        assert scanned.model_dump(include=same) == plain.model_dump(include=same)


def with_guess(scan: ParquetScan | None, parts: tuple[int, ...] | None) -> ParquetScan | None:
    """Let a scan guess other parts than it does; without any it deals no rows, as on a cluster."""
    if scan is None or scan.dealing is None or parts is None:
        return scan
    dealing = replace(scan.dealing, layout=Layout(parts)) if any(parts) else None
    return replace(scan, dealing=dealing)


def _bad_labels(values: list[Any], kind: pa.DataType) -> pa.Table:
    table = raw_table(len(values))
    return table.set_column(0, "label", pa.array(values, kind))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1, None, 1] * 50, pa.int32()),
        ([0, 1, 2, 1] * 50, pa.int32()),
        ([0.0, 1.0, 2.0, None] * 50, pa.float64()),
    ],
)
def test_bad_labels_are_told_as_spark_tells_them(spark, tmp_path, monkeypatch, values, kind):
    write_raw(tmp_path, _bad_labels(values, kind))
    run, used = config(tmp_path), []
    monkeypatch.setattr(pipeline, "parquet_scan", lambda *args: used.append(parquet_scan(*args)) or used[0])
    with pytest.raises(DataError) as scanned:
        prepare_dataset(run, tmp_path / "out", spark=spark)
    assert used[0] is not None
    through_spark(monkeypatch)
    with pytest.raises(DataError) as plain:
        prepare_dataset(run, tmp_path / "out", spark=spark)
    assert scanned.value.as_json() == plain.value.as_json()


def _staged_scan(
    spark, run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ParquetScan | None:
    seen = []
    monkeypatch.setattr(pipeline, "parquet_scan", lambda *args: seen.append(parquet_scan(*args)) or seen[-1])
    prepare_dataset(run, tmp_path / "out", spark=spark)
    return seen[0]


@pytest.mark.parametrize(
    "data",
    [
        {"clean": {"drop_missing": ["word"]}},
        {"split": {"method": "random", "by": "item", "seed": 3}},
        {"weight": "count"},
        {"downsample_negatives": {"keep": 0.5}},
        {"keep": ["at"]},
        {"time_formats": {"word": "%Y%m%d"}},
    ],
)
def test_what_needs_spark_is_left_to_it(spark, tmp_path, monkeypatch, data):
    write_raw(tmp_path, raw_table(600))
    run = config(tmp_path, **data)
    assert _staged_scan(spark, run, tmp_path, monkeypatch) is None


def test_a_session_of_spark_connect_reads_by_itself(spark, tmp_path, monkeypatch):
    write_raw(tmp_path, raw_table(600))
    remote = type("SparkSession", (), {"__module__": "pyspark.sql.connect.session"})()
    assert over_connect(remote)
    assert not over_connect(spark)
    monkeypatch.setattr(parquet_scans, "over_connect", lambda session: over_connect(remote))
    assert _staged_scan(spark, config(tmp_path), tmp_path, monkeypatch) is None


def test_partition_columns_are_left_to_spark(spark, tmp_path, monkeypatch):
    table = raw_table(600)
    for day in (1, 2):
        (tmp_path / "raw" / f"day={day}").mkdir(parents=True)
        pq.write_table(table, tmp_path / "raw" / f"day={day}" / "rows.parquet")
    assert _staged_scan(spark, config(tmp_path), tmp_path, monkeypatch) is None


def test_tasks_share_the_row_groups(spark, tmp_path, monkeypatch):
    write_raw(tmp_path, raw_table(), files=2)
    scan = _staged_scan(spark, config(tmp_path), tmp_path, monkeypatch)
    assert scan is not None
    read = [(groups.path, n) for task in scan.tasks for groups in task for n in groups.numbers]
    assert len(read) == len(set(read)) == 8
    assert {Path(path).name for path, _ in read} == {"part 0.parquet", "part 1.parquet"}


def test_hidden_files_are_no_rows(spark, tmp_path, monkeypatch):
    write_raw(tmp_path, raw_table(600))
    for name in ("_metadata", ".hidden.parquet"):
        pq.write_table(raw_table(50, seed=9), tmp_path / "raw" / name)
    scan = _staged_scan(spark, config(tmp_path), tmp_path, monkeypatch)
    assert scan is not None
    splits = Manifest.load(tmp_path / "out").splits.values()
    assert sum(split.rows for split in splits) == 600


def test_texts_in_lists_that_are_no_utf8_are_named(spark, tmp_path, monkeypatch):
    tags = pa.array([[b"a", b"\xff\xfe"], [b"b"]] * 100, pa.list_(pa.binary())).cast(
        pa.list_(pa.string()), safe=False
    )
    table = raw_table(200)
    write_raw(tmp_path, table.set_column(table.column_names.index("tags"), "tags", tags))
    with pytest.raises(DataError) as error:
        _staged_scan(spark, config(tmp_path), tmp_path, monkeypatch)
    assert "'tags' holds text that is not UTF-8" in error.value.what
