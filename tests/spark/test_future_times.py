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

pytestmark = pytest.mark.thorough

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


@pytest.mark.parametrize(("form", "kind"), [("%Y%m%d", int), ("%y%m%d%H", str), ("%Y%m%d%H", int)])
@pytest.mark.parametrize(("where", "data", "features"), USES[:4])
def test_digits_that_look_like_dates_are_remarked(
    spark: SparkSession, tmp_path: Path, form: str, kind: type, where: str,
    data: dict[str, Any], features: dict[str, Any],
) -> None:  # fmt: skip
    days = pd.date_range("2024-01-20", periods=ROWS, freq="7h").strftime(form)
    frame = rows().assign(time=[kind(day) for day in days])
    sparse = [{"columns": "user", "ops": "vocabulary"}]
    run = make_run(data=data, sparse=sparse, **features)
    done = prepare_dataset(run, tmp_path / "out", frame=spark.createDataFrame(frame), spark=spark)
    remark = done.manifest.remarks[-1]
    assert f"times from {int(days[0])} to {int(days[-1])} count as seconds since 1970 ({where})" in remark
    assert f'data.time_formats: {{time: "{form}"}}' in remark
    assert remark in done.report_text
    told = run.override(f"data.time_formats={{time: '{form}'}}")
    done = prepare_dataset(told, tmp_path / "out", frame=spark.createDataFrame(frame), spark=spark)
    assert done.manifest.remarks == ()


@pytest.mark.parametrize(
    ("first", "step", "ops", "words"),
    [
        (20240120, 1, ["weekday", "vocabulary"], ["times from 20240120 to 20240130", '"%Y%m%d"']),
        (2024012000, 1, ["hour"], ["times from 2024012000 to 2024012010", '"%Y%m%d%H"']),
        (1000, 60, [{"age": "2024-01-01"}, "vocabulary"], ["times before 1990: all rows", "1,600 seconds"]),
        (1_700_000_000, 60, ["milliseconds", "hour"], ["before 1990", "1,700,000,600 milliseconds"]),
        (1_700_000_000, 60, ["hour"], []),
        (1_700_000_000_000, 60, ["milliseconds", "hour"], []),
    ],
)
def test_times_that_ops_read_before_1990_are_remarked(
    spark: SparkSession, tmp_path: Path, first: int, step: int, ops: list[Any], words: list[str]
) -> None:
    times = [first + step * (n % 11) for n in range(ROWS)]
    frame = spark.createDataFrame(rows().assign(time=times))
    sparse = [{"columns": "time", "name": name, "ops": ops} for name in ("a", "b")]
    done = prepare_dataset(
        make_run(sparse=sparse, data=ALL_TRAIN), tmp_path / "out", frame=frame, spark=spark
    )
    remarks = [line for line in done.manifest.remarks if "(features.sparse.0.columns: time)" in line]
    assert list(done.manifest.remarks) == remarks
    assert len(remarks) == (1 if words else 0), "once a column"
    assert [word for word in words if word not in "".join(remarks)] == []


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
