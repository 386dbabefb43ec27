"""Times after now are told of in the report, whatever they are for, and are never an error."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.pipeline import prepare_dataset
from tests.spark.prepared import make_run
from trainer.errors import DataError

ROWS, LATE = 40, 3
HISTORY = {"name": "h", "history": {"user": "user", "item": "item", "time": "time"}}
NUMBER = {"name": "n", "earlier": {"by": "user", "time": "time", "what": "count"}}
LEAVE_LAST = {"method": "leave_last", "leave_last": {"user": "user", "time": "time", "test": 1, "valid": 0}}
ALL_TRAIN = {"split": {"fractions": [1, 0, 0]}}  # the rows differ from day to day
USES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("data.split.column: time", {"split": {"method": "time", "column": "time"}}, {}),
    ("data.split.leave_last.time: time", {"split": LEAVE_LAST}, {}),
    ("features.sequence.0.history.time: time", ALL_TRAIN, {"sequence": [HISTORY]}),
    ("features.dense.0.earlier.time: time", ALL_TRAIN, {"dense": [NUMBER]}),
    # Told once, where the time is met first.
    ("data.split.leave_last.time: time", {"split": LEAVE_LAST}, {"sequence": [HISTORY], "dense": [NUMBER]}),
]


def rows() -> pd.DataFrame:
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None, microsecond=0)
    days = [now - datetime.timedelta(days=n + 1) for n in range(ROWS - LATE)]
    days += [now + datetime.timedelta(days=n + 1) for n in range(LATE)]
    users = [n % 4 for n in range(ROWS)]
    return pd.DataFrame(
        {"label": [n // 4 % 2 for n in range(ROWS)], "user": users, "item": range(ROWS), "time": days}
    )


@pytest.mark.parametrize(
    "asked",
    [{"what": "recency"}, {"what": "count", "window_seconds": 60}, {"what": "rate", "delay_seconds": 1}],
)
def test_milliseconds_are_refused_where_seconds_count(
    spark: SparkSession, tmp_path: Path, asked: dict[str, Any]
) -> None:
    frame = rows()
    frame["time"] = frame["time"].astype("datetime64[ms]").astype("int64")
    source = spark.createDataFrame(frame)
    earlier = {"by": "user", "time": "time", **asked}
    run = make_run(data=ALL_TRAIN, dense=[{"name": "n", "earlier": earlier, "ops": [{"fill": 0}]}])
    with pytest.raises(DataError, match=f"^{ROWS} row.s. have a time after the year 9999"):
        prepare_dataset(run, tmp_path / "out", frame=source, spark=spark)
    counted = {**earlier, "what": "count", "window_seconds": None, "delay_seconds": 0}
    run = make_run(data=ALL_TRAIN, dense=[{"name": "n", "earlier": counted}])
    assert prepare_dataset(run, tmp_path / "out", frame=source, spark=spark).rows["train"] == ROWS


@pytest.mark.parametrize("kind", ["timestamp", "text", "seconds", "text of seconds"])
@pytest.mark.parametrize(("where", "data", "features"), USES)
def test_times_after_now_are_remarked(
    spark: SparkSession, tmp_path: Path, kind: str, where: str, data: dict[str, Any], features: dict[str, Any]
) -> None:
    frame = rows()
    if kind == "text":
        frame["time"] = frame["time"].dt.strftime("%Y-%m-%d %H:%M:%S")
    if "seconds" in kind:
        frame["time"] = frame["time"].astype("datetime64[s]").astype("int64")
    if kind == "text of seconds":
        frame["time"] = frame["time"].astype("str")
    sparse = [{"columns": "user", "ops": "vocabulary"}]
    run = make_run(data=data, sparse=sparse, **features)
    done = prepare_dataset(run, tmp_path / "out", frame=spark.createDataFrame(frame), spark=spark)
    expected = (f"times after now: {LATE} rows ({where})",)
    assert done.manifest.remarks == expected
    assert [line for line in expected if line not in done.report_text] == []
