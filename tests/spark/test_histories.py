"""Histories hold strictly earlier events, the newest of them, oldest first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.histories import history_as_of_now
from jobs.preparation.pipeline import Prepared, prepare_dataset
from tests.spark.prepared import make_run, read_all, read_vocabulary
from trainer.config import RunConfig
from trainer.errors import ConfigError

LENGTH = 4


def make_history_run(**history: Any) -> RunConfig:
    section = {"user": "user", "item": "item", "time": "time", "max_length": LENGTH, **history}
    return make_run(
        data={"label": {"column": "rating", "positive_at_least": 4}, "keep": ["row"]},
        sparse=[{"columns": "item", "ops": "vocabulary"}],
        sequence=[{"name": "history", "history": section, "table": "item"}],
    )


@pytest.fixture(scope="module")
def raw() -> pd.DataFrame:
    random = np.random.default_rng(2)
    rows = 500
    # Few moments, so that many events share one; one user with most of the events; some without a user.
    return pd.DataFrame(
        {
            "row": np.arange(rows),
            "user": pd.Series(
                random.choice(["a", "b", "c", "heavy", None], rows, p=[0.1, 0.1, 0.1, 0.6, 0.1]), dtype=object
            ),
            "item": random.integers(0, 30, rows).astype(str),
            "time": random.integers(0, 60, rows),
            "rating": random.integers(1, 6, rows),
        }
    )


@pytest.fixture(scope="module")
def prepared(spark: SparkSession, raw: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    out = tmp_path_factory.mktemp("histories") / "data"
    run = make_history_run(where="rating >= 4")
    return prepare_dataset(run, out, frame=spark.createDataFrame(raw), spark=spark)


def reference(raw: pd.DataFrame, row: Any) -> list[str]:
    """Return a row's history by filtering the raw events; those of one moment are ordered by item."""
    if pd.isna(row.user):
        return []
    events = raw[(raw["user"] == row.user) & (raw["time"] < row.time) & (raw["rating"] >= 4)]
    return list(events.sort_values(["time", "item"])["item"])[-LENGTH:]


def test_history_is_the_newest_strictly_earlier_events(prepared: Prepared, raw: pd.DataFrame) -> None:
    rows = read_all(prepared.path, "row")
    ids = read_vocabulary(prepared.path, "item").set_index("value")["id"]
    expected = [[int(ids.get(i, 1)) for i in reference(raw, row)] for row in raw.itertuples()]
    assert [list(found) for found in rows["history"]] == expected
    assert {len(found) for found in expected} == set(range(LENGTH + 1))


def test_events_of_the_same_moment_are_not_in_each_others_history(
    spark: SparkSession, tmp_path: Path
) -> None:
    raw = pd.DataFrame(
        {
            "row": range(5),
            "user": ["u"] * 5,
            "item": ["first", "p", "q", "r", "last"],
            "time": [1, 2, 2, 2, 3],
            "rating": [5, 5, 5, 5, 5],
        }
    )
    run = make_history_run().override("data.split.fractions=[1.0, 0.0, 0.0]")
    prepared = prepare_dataset(run, tmp_path / "data", frame=spark.createDataFrame(raw), spark=spark)
    names = read_vocabulary(prepared.path, "item").set_index("id")["value"]
    histories = [[names[i] for i in found] for found in read_all(prepared.path, "row")["history"]]
    assert histories == [[], ["first"], ["first"], ["first"], ["first", "p", "q", "r"]]


@pytest.mark.parametrize("kind", ["timestamp", "text of timestamps", "text of numbers", "date"])
def test_times_of_any_type_order_the_events(spark: SparkSession, tmp_path: Path, kind: str) -> None:
    days = pd.to_datetime(["2024-01-09", "2024-01-10", "2024-03-01"])
    numbers = {"text of numbers": ["9", "10", "100.5"], "text of timestamps": days.astype(str).tolist()}
    times = numbers.get(kind, days.date.tolist() if kind == "date" else days)
    raw = pd.DataFrame(
        {"row": range(3), "user": [1, 1, 1], "item": ["a", "b", "c"], "time": times, "rating": [5, 5, 5]}
    )
    run = make_history_run().override("data.split.fractions=[1.0, 0.0, 0.0]")
    prepared = prepare_dataset(run, tmp_path / "data", frame=spark.createDataFrame(raw), spark=spark)
    assert [len(found) for found in read_all(prepared.path, "row")["history"]] == [0, 1, 2]


def test_history_as_of_now_is_each_users_newest_events(spark: SparkSession, raw: pd.DataFrame) -> None:
    run = make_history_run(where="rating >= 4")
    found = history_as_of_now(run, "history", spark, frame=spark.createDataFrame(raw)).collect()
    lists = {row["user"]: row["history"] for row in found}
    now = pd.DataFrame({"user": ["a", "b", "c", "heavy"], "time": [10**6] * 4})
    assert lists == {row.user: reference(raw, row) for row in now.itertuples()}


def test_history_as_of_now_names_the_histories_there_are(spark: SparkSession) -> None:
    with pytest.raises(ConfigError) as error:
        history_as_of_now(make_history_run(), "history_of_user", spark)
    assert "history" in str(error.value)
