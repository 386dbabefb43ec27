"""The label rate over time is counted for every config that names a time, though no column of it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.appending import append_rows
from jobs.preparation.pipeline import prepare_dataset
from tests.spark.prepared import make_run, read_all
from tests.support.html_page import parse, section
from trainer.config import RunConfig
from trainer.records import LabelTimes
from trainer.reporting.data import write_data_report

pytestmark = pytest.mark.thorough

ROWS = 4000
START = 1_700_000_000
EARLIER = {"name": "seen", "earlier": {"by": "user", "time": "when", "what": "count"}}
HOUR = {"columns": "when", "name": "hour", "ops": ["hour", {"fill": -1}]}
USER = {"columns": "user", "ops": "vocabulary"}
LAST = {"method": "leave_last", "leave_last": {"user": "user", "time": "when"}}
CASES: dict[str, dict[str, Any]] = {
    "split": {"data": {"split": {"method": "time", "column": "when"}}, "sparse": [USER]},
    "earlier": {"dense": [EARLIER], "sparse": [USER]},
    "time part": {"dense": [HOUR], "sparse": [USER]},
    "recommend": {"sparse": [USER]},
    "leave last": {"data": {"split": LAST}, "sparse": [USER]},
}


def rows_of(start: int = START, first: int = 0) -> pd.DataFrame:
    """Return rows whose label rate rises with the time; many share one, and some features lack it."""
    random = np.random.default_rng(first)
    hours = random.integers(0, 24 * 60, ROWS)
    return pd.DataFrame(
        {
            "row": np.arange(ROWS) + first,
            "user": [f"u{n}" for n in random.integers(0, 200, ROWS)],
            "when": start + 3600 * hours,
            "label": (random.random(ROWS) < 0.1 + 0.6 * hours / hours.max()).astype(int),
        }
    )


def check_points(found: LabelTimes | None, rows: pd.DataFrame, by_split: bool) -> None:
    """Compare with the rows in the order of time, cut where the points say."""
    assert found is not None
    assert found.column == "when"
    curves = dict(list(rows.groupby("split"))) if by_split else {"all": rows}
    assert set(found.points) == set(curves)
    for name, own in curves.items():
        points, left = found.points[name], own.sort_values("when")
        assert len(points) > 5 or len(own) < 1000
        for time, count, positives in points:
            part, left = left.iloc[:count], left.iloc[count:]
            assert positives == part["label"].sum()
            assert part["when"].min() <= time <= part["when"].max()
            assert left.empty or part["when"].max() < left["when"].min()
        assert left.empty


@pytest.mark.parametrize(
    ("case", "source"),
    [
        ("split", "csv"),
        ("earlier", "parquet"),  # tasks read the file themselves
        ("time part", "parquet"),
        ("leave last", "frame"),
        ("recommend", "csv"),
    ],
)
def test_points_are_those_of_the_raw_rows(
    spark: SparkSession, tmp_path: Path, case: str, source: str
) -> None:
    raw = rows_of()
    features = {key: value for key, value in CASES[case].items() if key != "data"}
    data = {"keep": ["row"], "root": str(tmp_path), **CASES[case].get("data", {})}
    if source == "parquet":
        raw.to_parquet(tmp_path / "raw.parquet", row_group_size=300)
        data["source"] = {"path": "raw.parquet"}
    elif source == "csv":
        text = raw.assign(when=pd.to_datetime(raw["when"], unit="s").dt.strftime("%Y-%m-%d %H:%M:%S"))
        text.to_csv(tmp_path / "raw.csv", index=False)
        data["source"] = {"path": "raw.csv", "header": True}
    run = make_run(data=data, **features)
    if case == "recommend":
        run = run.override("recommend={user: user, item: user, time: when}")
    frame = spark.createDataFrame(raw) if source == "frame" else None
    prepared = prepare_dataset(run, tmp_path / "data", frame=frame, spark=spark)
    made = read_all(prepared.path, "row")
    made.index = made.index.astype(np.int64)  # CSV's are text
    rows = raw.set_index("row").join(made["split"])
    check_points(prepared.manifest.label_times, rows, by_split=case == "split")
    write_data_report(prepared.path)
    label = section(parse(prepared.path / "report.html"), "label")
    assert label is not None
    assert "By all rows and their column when" in label.text


def test_added_rows_come_to_the_points_of_the_first_ones(spark: SparkSession, tmp_path: Path) -> None:
    days = [rows_of(), rows_of(START + 24 * 3600 * 61, ROWS)]
    run = make_run(data={"keep": ["row"]}, dense=[HOUR], sparse=[USER])
    out = tmp_path / "data"
    prepare_dataset(run, out, frame=spark.createDataFrame(days[0]), spark=spark)
    manifest = append_rows(run, out, "frozen", frame=spark.createDataFrame(days[1]), spark=spark).manifest
    check_points(manifest.label_times, pd.concat(days), by_split=False)


@pytest.mark.parametrize("time", ["user", "nothing"])
def test_a_column_that_is_no_time_costs_no_data_set(spark: SparkSession, tmp_path: Path, time: str) -> None:
    """Nothing else checks what `recommend` names."""
    run = make_run(sparse=[USER]).override(f"recommend={{user: user, item: user, time: {time}}}")
    frame = spark.createDataFrame(rows_of())
    assert prepare_dataset(run, tmp_path / "data", frame=frame, spark=spark).manifest.label_times is None


def test_without_a_time_there_is_nothing_to_count(spark: SparkSession, tmp_path: Path) -> None:
    run: RunConfig = make_run(sparse=[USER])
    frame = spark.createDataFrame(rows_of())
    assert prepare_dataset(run, tmp_path / "data", frame=frame, spark=spark).manifest.label_times is None
