"""Each user's newest events are left out, against pandas; files have an order even without a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.row_hashes import with_row_hashes
from jobs.preparation.sources import read_source
from jobs.preparation.splits import split_remarks, with_split
from trainer.config import SourceConfig, SplitConfig
from trainer.errors import DataError


def config(**settings: Any) -> SplitConfig:
    return SplitConfig.model_validate(
        {"method": "leave_last", "leave_last": {"user": "user", "time": "time", **settings}}
    )


def events() -> pd.DataFrame:
    """Return events of 50 users with many equal times, ordered among themselves by the text `step`."""
    random = np.random.default_rng(0)
    users = np.repeat(np.arange(50), random.integers(1, 9, 50))
    frame = pd.DataFrame({"user": users, "time": random.integers(0, 3, len(users)).astype(float)})
    frame["step"] = frame.groupby("user").cumcount() + 7  # from 7 to 14: as text 10 comes before 9
    return frame.sample(frac=1, random_state=1).assign(row=np.arange(len(users)))


def expected(frame: pd.DataFrame, test: int, valid: int) -> pd.Series:
    """Return the split of each row; users with too few events are `short`."""
    newest = frame.sort_values(["time", "step"], ascending=False)
    place = newest.groupby("user").cumcount()
    names = np.select([place < test, place < test + valid], ["test", "valid"], "train")
    names = np.where(newest.groupby("user")["row"].transform("count") <= test + valid, "short", names)
    return pd.Series(names, index=newest["row"]).sort_index()


@pytest.mark.parametrize(("test", "valid", "short_users"), [(1, 0, "train"), (2, 1, "drop")])
def test_the_newest_events_of_each_user_are_left_out(
    spark: SparkSession, test: int, valid: int, short_users: str
) -> None:
    frame = events()
    split = config(order_by=["step"], test=test, valid=valid, short_users=short_users)
    raw = spark.createDataFrame(frame.astype({"step": str}))
    hashed = with_row_hashes(raw, raw.columns, seed=1).repartition(5, "row")
    rows = with_split(hashed, split).select("row", "__split").toPandas()
    wanted = expected(frame, test, valid)
    short = wanted == "short"
    wanted = wanted[~short] if short_users == "drop" else wanted.where(~short, "train")
    assert rows.set_index("row")["__split"].sort_index().to_dict() == wanted.to_dict()
    users = frame.groupby("user").size()
    few = users[users <= test + valid]
    done = "dropped" if short_users == "drop" else "all in train"
    assert 0 < len(few) < 50
    assert split_remarks(hashed, split) == [
        f"{len(few)} users have fewer than {test + valid + 1} events: their {few.sum()} rows are {done}"
    ]


def test_events_that_nothing_orders_are_dealt_the_same_way_wherever_they_lie(spark: SparkSession) -> None:
    raw = spark.createDataFrame(events().assign(time=0.0))
    found = []
    for partitions in (1, 6):
        hashed = with_row_hashes(raw.repartition(partitions, "time", "row"), raw.columns, seed=1)
        rows = with_split(hashed, config()).select("row", "__split").toPandas()
        found.append(rows.set_index("row")["__split"].sort_index().to_dict())
    assert found[0] == found[1]
    assert set(found[0].values()) == {"train", "valid", "test"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "1"), (None, "2")], r"1 row\(s\) have no user"),
        ([("a", "1"), ("a", None), ("a", "soon")], r"1 row\(s\) have no time and 1 have one(.|\n)*soon"),
        ([("a", "1"), ("a", "2"), ("a", "3"), ("b", "9")], r"1 user\(s\) have fewer than 3 events(.|\n)*b"),
    ],
)
def test_events_that_cannot_be_ordered_are_named(
    spark: SparkSession, rows: list[tuple[str, str]], message: str
) -> None:
    frame = spark.createDataFrame(rows, "user string, time string")
    with pytest.raises(DataError, match=message):
        split_remarks(frame, config(short_users="error"))


def test_rows_of_files_are_numbered_in_file_order_however_spark_cuts_them_up(
    spark: SparkSession, tmp_path: Path
) -> None:
    names = ["b.csv", "a.csv", "folder/z 1.csv", "folder/y.csv"]
    lengths, rows = [40, 700, 0, 90], []
    (tmp_path / "folder").mkdir()
    for name, length in zip(names, lengths, strict=True):
        lines = [f"{name}-{n}" for n in range(length)]
        (tmp_path / name).write_text("".join(f"{line}\n\n" for line in ["id", *lines]), encoding="utf-8")
        rows.append(lines)
    wanted = [*rows[0], *rows[1], *rows[3], *rows[2]]  # as listed, and by name in the folder
    table = pa.table({"id": wanted[:500]})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=40)
    before = spark.conf.get("spark.sql.files.maxPartitionBytes")
    try:
        for size in ("300b", "128m"):
            spark.conf.set("spark.sql.files.maxPartitionBytes", size)
            source = SourceConfig(
                path=["b.csv", "a.csv", "folder"], format="csv", header=True, row_number="line"
            )
            for given, ids in (
                (source, wanted),
                (SourceConfig(path="rows.parquet", row_number="line"), wanted[:500]),
            ):
                found = read_source(given, str(tmp_path), spark, "source").repartition(3)
                numbered = {row["line"]: row["id"] for row in found.collect()}
                assert numbered == dict(enumerate(ids))
    finally:
        spark.conf.set("spark.sql.files.maxPartitionBytes", before)


def test_a_row_number_does_not_take_the_place_of_a_column(spark: SparkSession, tmp_path: Path) -> None:
    pq.write_table(pa.table({"Line": [1]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="two columns are named 'line'"):
        read_source(SourceConfig(path="rows.parquet", row_number="line"), str(tmp_path), spark, "source")
