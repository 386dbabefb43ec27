"""Sessions that somebody else has started: their settings change neither splits nor what is an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.pipeline import prepare_dataset
from tests.spark.prepared import make_run, read_all
from trainer.errors import DataError

pytestmark = pytest.mark.thorough

THEIRS = {
    "spark.sql.session.timeZone": "America/New_York",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.caseSensitive": "true",
    "spark.sql.files.ignoreCorruptFiles": "true",
    "spark.sql.files.ignoreMissingFiles": "true",
}


@pytest.fixture
def theirs(spark: SparkSession) -> Iterator[SparkSession]:
    """Return the session with settings of its own; it must have them still when all is done."""
    before = {key: spark.conf.get(key) for key in THEIRS}
    for key, value in THEIRS.items():
        spark.conf.set(key, value)
    yield spark
    after = {key: spark.conf.get(key) for key in THEIRS}
    for key, value in before.items():
        assert value is not None
        spark.conf.set(key, value)
    assert after == THEIRS


# Every half hour of two nights: in the first one New York's clocks go from 2:00 to 3:00.
TIMES = pd.date_range("2024-03-10", periods=96, freq="30min")
KINDS = {
    "moment": pa.array(TIMES.tz_localize("UTC"), pa.timestamp("us", "UTC")),
    "clock": pa.array(TIMES, pa.timestamp("us")),
    "text": pa.array(TIMES.strftime("%Y-%m-%d %H:%M:%S")),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("from_frame", [False, True])
def test_times_are_cut_in_utc_and_conditions_do_not_fail(
    theirs: SparkSession, tmp_path: Path, kind: str, from_frame: bool
) -> None:
    rows = pa.table({"row": range(96), "label": [0, 1] * 48, "time": KINDS[kind], "x": ["7", "seven"] * 48})
    pq.write_table(rows, tmp_path / "rows.parquet")
    source = {} if from_frame else {"source": {"path": "rows.parquet"}}
    cut = ["2024-03-10 02:30:00", "2024-03-10 06:00:00"]
    run = make_run(
        data={
            "root": str(tmp_path),
            **source,
            "keep": ["row"],
            "clean": {"where": "coalesce(cast(x as int), 1) > 0"},
            "split": {"method": "time", "column": "time", "until": cut},
        },
        sparse=[{"columns": "x", "ops": "vocabulary"}],
    )
    frame = theirs.read.parquet(str(tmp_path / "rows.parquet")) if from_frame else None
    prepare_dataset(run, tmp_path / "out", frame=frame, spark=theirs)
    found = read_all(tmp_path / "out", "row")["split"]
    at = pd.Series(TIMES)
    expected = at.map(lambda t: "train" if str(t) < cut[0] else "valid" if str(t) < cut[1] else "test")
    assert found.tolist() == expected.tolist()


def test_a_damaged_file_is_an_error_where_the_session_would_pass_over_it(
    theirs: SparkSession, tmp_path: Path
) -> None:
    for number in range(2):
        table = pa.table({"label": [0, 1] * 50, "x": range(100), "u": pa.array(range(100), pa.uint64())})
        pq.write_table(table, tmp_path / f"{number}.parquet", compression="none")
    bytes_ = bytearray((tmp_path / "1.parquet").read_bytes())
    bytes_[4:60] = b"\xff" * 56
    (tmp_path / "1.parquet").write_bytes(bytes_)
    run = make_run(
        data={"root": str(tmp_path), "source": {"path": "*.parquet"}}, dense=[{"columns": ["x", "u"]}]
    )
    with pytest.raises(DataError, match=r"1\.parquet"):
        prepare_dataset(run, tmp_path / "out", spark=theirs)
