"""Timestamps in nanoseconds, as pandas writes them: they are those of microseconds, cut off downwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.pipeline import prepare_dataset
from jobs.preparation.sources import raw_rows
from tests.spark.prepared import make_run, read_all, read_vocabulary
from trainer.errors import DataError

pytestmark = pytest.mark.thorough

ROWS = 120
# Around 1970 and today; 1,234,567 microseconds and 891 nanoseconds apart from whole half hours.
TICKS = np.arange(ROWS) * 1800 * 10**9 - 30 * 3600 * 10**9 + 1_234_567_891
TICKS[::2] += 1_700_000_000 * 10**9


def table(unit: str) -> pa.Table:
    ticks = TICKS if unit == "ns" else TICKS // 1000
    some = pa.array(ticks, pa.int64(), mask=np.arange(ROWS) % 10 == 3)
    lists = pa.array([[tick, None][: n % 3] for n, tick in enumerate(ticks.tolist())], pa.list_(pa.int64()))
    return pa.table(
        {
            "row": np.arange(ROWS),
            "label": np.arange(ROWS) % 2,
            "moment": some.cast(pa.timestamp(unit, "UTC")),
            "clock": some.cast(pa.timestamp(unit)),
            "at": pa.array(ticks).cast(pa.timestamp(unit, "Europe/Berlin")),
            "times": lists.cast(pa.list_(pa.timestamp(unit))),
        }
    )


@pytest.mark.parametrize("drift", [False, True])
def test_nanoseconds_are_read_as_the_microseconds_below_them(
    spark: SparkSession, tmp_path: Path, drift: bool
) -> None:
    made = {}
    for unit in ("us", "ns"):
        folder = tmp_path / unit
        folder.mkdir()
        halves = {"0": table("us" if drift else unit).slice(0, 60), "1": table(unit).slice(60)}
        for name, half in halves.items():
            pq.write_table(half, folder / f"{name}.parquet", version="2.6")
        stored = {pq.read_schema(path).field("at").type.unit for path in folder.iterdir()}
        assert stored == ({"us"} if unit == "us" else {"us", "ns"} if drift else {"ns"})
        hours = [{"columns": ["moment", "clock"], "ops": ["hour", {"fill": -1}]}]
        run = make_run(
            data={
                "root": str(folder),
                "source": {"path": "*.parquet"},
                "keep": ["row"],
                "split": {"method": "time", "column": "at"},
            },
            dense=hours,
            sparse=[{"columns": "moment", "name": "id", "ops": "vocabulary"}],
            sequence=[{"columns": "times", "ops": "vocabulary"}],
        )
        prepare_dataset(run, folder / "out", spark=spark)
        made[unit] = read_all(folder / "out", "row")
    pd.testing.assert_frame_equal(made["ns"], made["us"])
    moments = pd.to_datetime(TICKS)
    hours_of = np.where(np.arange(ROWS) % 10 == 3, -1, moments.hour)
    np.testing.assert_array_equal(made["ns"]["moment"], hours_of)
    np.testing.assert_array_equal(made["ns"]["clock"], hours_of)
    newest = np.argsort(TICKS)[-12:]
    assert sorted(made["ns"].index[made["ns"]["split"] == "test"]) == sorted(newest)
    texts = set(read_vocabulary(tmp_path / "ns" / "out", "times")["value"])
    train = made["ns"].index[made["ns"]["split"] == "train"]
    expected = {moments[n].floor("us").isoformat(" ") for n in train if n % 3}
    assert texts == expected


def test_decimals_of_too_many_digits_are_named(spark: SparkSession, tmp_path: Path) -> None:
    wide = pa.array([1, 2], pa.decimal256(50, 4))
    pq.write_table(pa.table({"label": [0, 1], "x": wide}), tmp_path / "a.parquet")
    run = make_run(data={"root": str(tmp_path), "source": {"path": "a.parquet"}}, dense=[{"columns": "x"}])
    with pytest.raises(DataError, match="'x' holds decimals of more digits"):
        raw_rows(run, spark)


def test_a_catalog_that_is_not_there_is_named(spark: SparkSession) -> None:
    run = make_run(data={"source": {"table": "main.ads.clicks"}}, dense=[{"columns": "x"}])
    with pytest.raises(DataError, match="no such table"):
        raw_rows(run, spark)
