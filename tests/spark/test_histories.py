"""Histories hold strictly earlier events, the newest of them, oldest first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.derived import history_as_of_now, with_derived
from jobs.preparation.histories import event_counts
from jobs.preparation.pipeline import Prepared, prepare_dataset
from jobs.preparation.report import report_text
from tests.spark.derived_rows import HISTORIES, derived_frame, earlier_items
from tests.spark.prepared import make_run, read_all, read_vocabulary
from trainer.config import RunConfig
from trainer.errors import ConfigError
from trainer.schema import Feature, FittedOp

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
    # Few moments, so that many events share one; one user with most of the events; some without a user;
    # ratings as a CSV file has them.
    return pd.DataFrame(
        {
            "row": np.arange(rows),
            "user": pd.Series(
                random.choice(["a", "b", "c", "heavy", None, ""], rows, p=[0.1, 0.1, 0.1, 0.5, 0.1, 0.1]),
                dtype=object,
            ),
            "item": random.integers(0, 30, rows).astype(str),
            "time": random.integers(0, 60, rows),
            "rating": random.choice(["1", "2.5", "3", "3.5", "4.0", "5"], rows),
        }
    )


@pytest.fixture(scope="module")
def prepared(spark: SparkSession, raw: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    out = tmp_path_factory.mktemp("histories") / "data"
    run = make_history_run(where="rating > 3")
    return prepare_dataset(run, out, frame=spark.createDataFrame(raw), spark=spark)


def reference(raw: pd.DataFrame, row: Any) -> list[str]:
    """Return a row's history by filtering the raw events; those of one moment are ordered by item."""
    if not row.user:
        return []
    liked = raw["rating"].astype(float) > 3
    events = raw[(raw["user"] == row.user) & (raw["time"] < row.time) & liked]
    return list(events.sort_values(["time", "item"])["item"])[-LENGTH:]


def test_history_is_the_newest_strictly_earlier_events(prepared: Prepared, raw: pd.DataFrame) -> None:
    rows = read_all(prepared.path, "row")
    ids = read_vocabulary(prepared.path, "item").set_index("value")["id"]
    expected = [[int(ids.get(i, 1)) for i in reference(raw, row)] for row in raw.itertuples()]
    assert [list(found) for found in rows["history"]] == expected
    assert {len(found) for found in expected} == set(range(LENGTH + 1))


def test_the_report_says_that_a_random_split_mixes_histories(prepared: Prepared) -> None:
    remark = "history: under a random split, histories of training rows list earlier events"
    assert remark in prepared.report_text
    by_time = make_history_run().override("data.split={method: time, column: time}").preparation()
    manifest = prepared.manifest.model_copy(update={"preparation": by_time})
    assert remark not in report_text(manifest)


def test_events_of_the_same_moment_are_not_in_each_others_history(
    spark: SparkSession, tmp_path: Path
) -> None:
    raw = pd.DataFrame(
        {
            "row": range(5),
            "user": ["u"] * 5,
            "item": ["first", "p", "q", "r", "last"],
            "time": [1, 2, 2, 2, 3],
            "rating": [5, 5, 5, 5, 1],
        }
    )
    run = make_history_run().override("data.split.fractions=[1.0, 0.0, 0.0]")
    prepared = prepare_dataset(run, tmp_path / "data", frame=spark.createDataFrame(raw), spark=spark)
    names = read_vocabulary(prepared.path, "item").set_index("id")["value"]
    histories = [[names[i] for i in found] for found in read_all(prepared.path, "row")["history"]]
    assert histories == [[], ["first"], ["first"], ["first"], ["first", "p", "q", "r"]]


@pytest.mark.parametrize("name", list(HISTORIES))
def test_items_have_histories_as_users_do_with_ties_and_missing_items_as_asked(
    derived: Prepared, name: str
) -> None:
    frame, ids = derived_frame(), read_vocabulary(derived.path, HISTORIES[name]["item"])
    names = ids.set_index("id")["value"]
    lists = [earlier_items(frame, row, name) for row in frame.itertuples()]
    known = set(names)
    expected = [[item if item in known else None for item in items] for items in lists]
    found = [[names.get(number) for number in ids] for ids in read_all(derived.path, "row")[name]]
    assert found == expected
    assert any("nothing" in items for items in lists) == (name == "tied")
    assert {len(items) for items in lists} == set(range(HISTORIES[name]["max_length"] + 1))


@pytest.mark.parametrize("kind", ["timestamp", "text of timestamps", "text of numbers", "date"])
def test_times_of_any_type_order_the_events(spark: SparkSession, tmp_path: Path, kind: str) -> None:
    days = pd.to_datetime(["2024-01-09", "2024-01-10", "2024-03-01"])
    numbers = {"text of numbers": ["9", "10", "100.5"], "text of timestamps": days.astype(str).tolist()}
    times = numbers.get(kind, days.date.tolist() if kind == "date" else days)
    raw = pd.DataFrame(
        {"row": range(3), "user": [1, 1, 1], "item": ["a", "b", "c"], "time": times, "rating": [5, 5, 1]}
    )
    run = make_history_run().override("data.split.fractions=[1.0, 0.0, 0.0]")
    prepared = prepare_dataset(run, tmp_path / "data", frame=spark.createDataFrame(raw), spark=spark)
    assert [len(found) for found in read_all(prepared.path, "row")["history"]] == [0, 1, 2]


def test_history_as_of_now_is_each_users_newest_events(spark: SparkSession, raw: pd.DataFrame) -> None:
    run = make_history_run(where="rating > 3")
    found = history_as_of_now(run, "history", spark, frame=spark.createDataFrame(raw)).collect()
    lists = {row["user"]: row["history"] for row in found}
    now = pd.DataFrame({"user": ["a", "b", "c", "heavy"], "time": [10**6] * 4})
    assert lists == {row.user: reference(raw, row) for row in now.itertuples()}


def test_users_that_are_no_numbers_are_nobody(spark: SparkSession) -> None:
    frame = pd.DataFrame({"user": [1.0, np.nan, np.nan], "item": ["a", "b", "c"], "time": [1, 2, 3]})
    found = history_as_of_now(make_history_run(), "history", spark, frame=spark.createDataFrame(frame))
    assert [(row["user"], row["history"]) for row in found.collect()] == [(1.0, ["a"])]


CONDITIONS = {
    "rating > 3": True,
    "3 < Rating": True,
    "rating between 3 and 3.6 and name = 'rating > 3'": True,
    "rating not in (3, 4)": True,
    "rating > whole": True,
    "rating * 2 = 7": True,
    "`odd name` >= -4": True,
    "empty > -1": False,
    "no_number > 3": False,
    "length(name) > 3": True,
    "cast(rating as int) > 3": False,
    "rating = '3.50'": False,
    "whole = 3 or rating in (7)": True,
    "whole >= 3 -- and rating > 4": True,
    "name like 'rating%' and rating /* text */ >= 3": True,
}


# What the user casts, Spark casts by its own rules: under ANSI, this one is an error.
SKIPPED = {"true": "cast(rating as int) > 3", "false": ""}


@pytest.mark.parametrize("ansi", ["true", "false"])
def test_text_compares_with_numbers_as_a_number(spark: SparkSession, ansi: str) -> None:
    kinds = "rating string, name string, `odd name` string, empty string, no_number string, whole int"
    frame = spark.createDataFrame([("3.5", "rating > 3", "-3.5", "", "NaN", 3)], kinds)
    before = spark.conf.get("spark.sql.ansi.enabled")
    try:
        spark.conf.set("spark.sql.ansi.enabled", ansi)
        counts = [
            event_counts(frame, text, "where").alias(text) for text in CONDITIONS if text != SKIPPED[ansi]
        ]
        row = frame.select(*counts).first()
    finally:
        spark.conf.set("spark.sql.ansi.enabled", before)
    assert row is not None
    assert row.asDict() == {text: CONDITIONS[text] for text in row.asDict()}


def test_history_as_of_now_names_the_histories_there_are(spark: SparkSession) -> None:
    with pytest.raises(ConfigError) as error:
        history_as_of_now(make_history_run(), "history_of_user", spark)
    assert "history" in str(error.value)


def growth_and_wrong(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Return how many rows are wrong, and by how much the worker that made their lists grew meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of earlier tests
    before = _peak_kib()
    wrong = sum(pc.sum(pc.invert(batch.column("right")).cast("int64")).as_py() or 0 for batch in batches)
    yield pa.RecordBatch.from_pydict({"wrong": [wrong], "growth": [_peak_kib() - before]})


def _peak_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


@pytest.mark.slow
def test_a_user_with_a_million_events_needs_little_memory(spark: SparkSession) -> None:
    params = {
        "user": "user",
        "item": "id",
        "time": "id",
        "max_length": 50,
        "where": None,
        "include_ties": False,
    }
    history = FittedOp(name="history", params=params)
    feature = Feature(name="seen", kind="sequence", column="found", derived=history, is_list=True)
    events = spark.range(1, 1_000_001).selectExpr("id", "if(id % 100 = 0, id, -1) as user")
    made = with_derived(events, [feature], None, "", spark)
    before = "filter(sequence(greatest(id - 51, 0), id - 1), x -> x % 100 != 0)"
    newest = f"transform(reverse(slice(reverse({before}), 1, 50)), x -> cast(x as string))"
    right = made.selectExpr(f"found = if(user = -1, {newest}, cast(array() as array<string>)) as right")
    rows = right.mapInArrow(growth_and_wrong, "wrong bigint, growth bigint").collect()
    assert sum(row["wrong"] for row in rows) == 0
    # All lists together are 50 million texts.
    assert max(row["growth"] for row in rows) < 200 * 1024
