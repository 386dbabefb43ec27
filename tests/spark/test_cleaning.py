"""Cleaning against pandas: the same rows stay at every partitioning, and every rule says what it dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.preparation.cleaning import clean
from jobs.preparation.columns import BAD_LINE
from jobs.preparation.pipeline import prepare_dataset
from jobs.preparation.row_hashes import with_row_hashes
from tests.spark.prepared import make_run, read_all
from trainer.config import CleanConfig
from trainer.errors import ConfigError, DataError

ROWS = 500


def raw() -> pd.DataFrame:
    random = np.random.default_rng(11)
    frame = pd.DataFrame(
        {
            "row": np.arange(ROWS),
            "user": random.zipf(1.3, ROWS).clip(max=60),
            "item": random.zipf(1.4, ROWS).clip(max=50).astype(str),
            "rating": random.integers(1, 6, ROWS).astype(str),
            "time": random.integers(0, 10, ROWS),
            "price": np.where(random.random(ROWS) < 0.1, np.nan, random.random(ROWS)),
            "city": random.choice(["Bonn", "Ulm", "", None], ROWS, p=[0.5, 0.4, 0.05, 0.05]),
        }
    )
    return frame.assign(label=frame["row"] % 2)


def staged(spark: SparkSession, frame: pd.DataFrame | DataFrame) -> DataFrame:
    """Return the rows as cleaning gets them."""
    rows = spark.createDataFrame(frame) if isinstance(frame, pd.DataFrame) else frame
    return with_row_hashes(rows, rows.columns, seed=1).withColumn(BAD_LINE, F.lit(None).cast("string"))


def kept(rows: DataFrame) -> list[int]:
    return sorted(row["row"] for row in rows.select("row").collect())


def core(frame: pd.DataFrame, least: dict[str, int]) -> pd.DataFrame:
    """Drop rare values, one column at a time, until nothing changes."""
    while True:
        before = len(frame)
        for name, count in least.items():
            frame = frame[frame.groupby(name)[name].transform("size") >= count]
        if len(frame) == before:
            return frame


def test_all_rules_in_a_row_equal_pandas_at_every_partitioning(spark: SparkSession) -> None:
    frame = raw()
    config = CleanConfig.model_validate(
        {
            "where": "rating > 1.5",  # text beside a number
            "drop_missing": ["price", "city"],
            "deduplicate": {"by": ["user", "item"], "keep": "last", "order_by": "time"},
            "k_core": {"user": 2, "item": 3},
        }
    )
    rated = frame[frame["rating"].astype(float) > 1.5]
    present = rated[rated["price"].notna() & rated["city"].isin(["Bonn", "Ulm"])]
    newest = present[present["time"] == present.groupby(["user", "item"])["time"].transform("max")]
    tied = newest.groupby(["user", "item"])["row"].agg(set)

    found = []
    for partitions, shuffled in ((1, frame), (5, frame.sample(frac=1, random_state=2))):
        rows = staged(spark, spark.createDataFrame(shuffled).repartition(partitions))
        cleaned, steps = clean(rows, config)
        found.append((kept(cleaned), steps))
    assert found[0] == found[1]
    rows_kept, steps = found[0]

    # Which of two rows of one moment stays is the hash's choice; the core depends on it by pairs alone.
    unique = present.drop_duplicates(["user", "item"])
    expected = core(unique, {"user": 2, "item": 3})
    pairs = frame.loc[rows_kept, ["user", "item"]]
    assert set(map(tuple, pairs.to_numpy())) == set(map(tuple, expected[["user", "item"]].to_numpy()))
    assert all(row in tied[(frame.loc[row, "user"], frame.loc[row, "item"])] for row in rows_kept)
    left = [ROWS, len(rated), len(present), len(unique), len(expected)]
    assert 0 < left[4] < left[3] < left[2] < left[1] < left[0]
    assert [(step.name, step.dropped, step.left) for step in steps] == [
        (name, before - after, after)
        for name, before, after in zip(
            ("where", "drop_missing", "deduplicate", "k_core"), left, left[1:], strict=False
        )
    ]


def test_a_core_is_peeled_as_long_as_it_takes(spark: SparkSession) -> None:
    # A chain loses its two ends in each round; only the ring at the other users has a 2-core.
    chain = [(f"u{n}", item) for n in range(10) for item in (n, n + 1)]
    ring = [(f"r{n}", item) for n in range(3) for item in (100 + n, 100 + (n + 1) % 3)]
    frame = pd.DataFrame(chain + ring, columns=["user", "item"]).assign(row=range(26))
    cleaned, (step,) = clean(staged(spark, frame), CleanConfig(k_core={"user": 2, "item": 2}))
    assert kept(cleaned) == list(range(20, 26))
    assert (step.dropped, step.left) == (20, 6)


def test_equal_rows_and_first_rows_stay_once(spark: SparkSession) -> None:
    frame = pd.DataFrame({"row": [1, 1, 2, 2, 3], "x": [5.0, 5.0, np.nan, np.nan, 5.0], "t": list("ababb")})
    whole, _ = clean(staged(spark, frame.drop(columns="t")), CleanConfig.model_validate({"deduplicate": {}}))
    assert kept(whole) == [1, 2, 3]
    by_time = pd.DataFrame({"row": range(4), "user": list("aabb"), "time": ["9", "10", "2024-01-02", "7"]})
    first = {"deduplicate": {"by": ["user"], "keep": "first", "order_by": "time"}}
    oldest, _ = clean(staged(spark, by_time), CleanConfig.model_validate(first))
    assert kept(oldest) == [0, 3]  # times, not text: 9 is before 10, and 7 seconds are before 2024


def test_a_copy_of_a_row_has_the_same_lists(spark: SparkSession) -> None:
    lists = [None, [], [], [None], [1, None], [None, 1], [1], [1], None]
    rows = spark.createDataFrame([(1, values) for values in lists], "label int, x array<int>")
    whole, (step,) = clean(staged(spark, rows), CleanConfig.model_validate({"deduplicate": {}}))
    assert step.dropped == 3
    assert {str(row["x"]) for row in whole.collect()} == {str(values) for values in lists}


@pytest.mark.parametrize(
    ("config", "kind", "words"),
    [
        ({"where": "ratin > 3"}, ConfigError, ["data.clean.where", "ratin", "`rating`"]),
        ({"where": "time + 1"}, ConfigError, ["neither true nor false"]),
        ({"drop_missing": ["town"]}, DataError, ["'town'", "data.clean.drop_missing", "city"]),
        ({"k_core": {"users": 5}}, DataError, ["'users'", "data.clean.k_core", "did you mean `user`?"]),
        ({"deduplicate": {"by": ["itm"]}}, DataError, ["data.clean.deduplicate.by", "`item`"]),
        (
            {"deduplicate": {"by": ["item"], "order_by": "tme"}},
            DataError,
            ["data.clean.deduplicate.order_by", "`time`"],
        ),
        ({"k_core": {"city": 2}}, DataError, ["row(s) have no value in it", "drop_missing: [city]"]),
        (
            {"deduplicate": {"by": ["user"], "order_by": "city"}},
            DataError,
            ["data.clean.deduplicate.order_by: city", "no value"],
        ),
        (
            {"drop_missing": ["city"], "deduplicate": {"by": ["user"], "order_by": "city"}},
            DataError,
            ["a time that cannot be read"],
        ),
        (
            {"where": "rating >= 2", "k_core": {"user": 2, "item": 1000}},
            DataError,
            [
                "`k_core` dropped the last",
                "500 rows; `where` dropped",
                "item: the most rows of one value are",
                "asked for 1,000",
            ],
        ),
        ({"where": "rating > 5"}, DataError, ["cleaning leaves no rows", "`where` dropped the last 500"]),
    ],
)
def test_rules_that_fit_no_rows_are_refused(
    spark: SparkSession, config: dict[str, Any], kind: type[Exception], words: list[str]
) -> None:
    with pytest.raises(kind) as caught:
        clean(staged(spark, raw()), CleanConfig.model_validate(config))
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_prepared_data_set_tells_what_was_cleaned_and_warns_of_times_to_come(
    spark: SparkSession, tmp_path: Path
) -> None:
    days = pd.to_datetime(pd.Series(["2200-01-01", "1990-06-01", "1970-02-03"]))
    frame = raw().assign(day=days[raw()["row"] % 3].to_numpy())
    run = make_run(
        data={
            "keep": ["row"],
            "clean": {"where": "row < 400", "deduplicate": {"by": ["user", "item"]}},
            "split": {"method": "time", "column": "day", "until": ["1985-01-01", "2000-01-01"]},
        },
        sparse=[{"columns": "user"}],
    )
    prepared = prepare_dataset(run, tmp_path / "data", frame=spark.createDataFrame(frame), spark=spark)
    rows = read_all(prepared.path, "row")
    pairs = frame[frame["row"] < 400].groupby(["user", "item"])
    assert len(rows) == pairs.ngroups
    assert set(frame.loc[rows.index, "row"] % 3) == {0, 1, 2}
    assert rows["split"].map({"test": 0, "valid": 1, "train": 2}).tolist() == [n % 3 for n in rows.index]
    assert [step.model_dump() for step in prepared.manifest.cleaning] == [
        {"name": "where", "dropped": 100, "left": 400},
        {"name": "deduplicate", "dropped": 400 - pairs.ngroups, "left": pairs.ngroups},
    ]
    late = int((rows["split"] == "test").sum())
    assert prepared.manifest.remarks == (f"times after now: {late} rows (data.split.column: day)",)
    assert f"times after now: {late} rows" in prepared.report_text
    assert "where                 100        400" in prepared.report_text
