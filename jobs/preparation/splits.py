"""Deals rows into train, valid and test, by a hash of the row or by time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.histories import time_problems
from trainer.config import SplitConfig
from trainer.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

# Rows whose values decide a quantile; with more rows a sample chosen by hash, the same on every run.
QUANTILE_ROWS = 1_000_000


def with_split(rows: DataFrame, split: SplitConfig) -> DataFrame:
    """Add the column `SPLIT`.

    `random` compares the row's seeded hash with the fractions. `time` cuts at the values where the sorted
    times reach the fractions; rows of equal time stay together, in the older split.

    Args:
        rows: with `HASH` (see `with_row_hashes`) and, for `time`, the time column.
        split: method and fractions.

    Raises:
        DataError: a time is missing or cannot be read.
    """
    train, valid, test = split.fractions
    until_valid = round(train + valid, 12) if test > 0 else 1.0
    if split.method == "random":
        low, high, x = F.lit(train), F.lit(until_valid), hash_share(F.col(C.HASH))
        return rows.withColumn(C.SPLIT, _name(x < low, x < high))
    assert split.column is not None
    times = C.time(rows, split.column)
    count = _check_times(rows, split.column)
    first, second = _quantiles(rows, times, (train, until_valid), count)
    x = times.cast("double")
    return rows.withColumn(C.SPLIT, _name(x <= F.lit(first), x <= F.lit(second)))


def hash_share(hashed: Column) -> Column:
    """Return a 64-bit hash as a number in [0, 1)."""
    return F.shiftrightunsigned(hashed, 11) / F.lit(float(1 << 53))


def sample_share(count: int) -> float:
    """Return the share of rows that exact quantiles are taken of."""
    return min(1.0, QUANTILE_ROWS / max(count, 1))


def _name(train: Column, valid: Column) -> Column:
    return F.when(train, "train").when(valid, "valid").otherwise("test")


def _check_times(rows: DataFrame, name: str) -> int:
    missing, bad = time_problems(rows, name)
    found = rows.agg(
        F.count(F.lit(1)).alias("rows"),
        F.count(F.when(missing, 1)).alias("missing"),
        F.count(F.when(bad, 1)).alias("bad"),
        F.min(F.when(bad, C.column(name).cast("string"))).alias("example"),
    ).first()
    assert found is not None
    if found["missing"] or found["bad"]:
        raise DataError(
            f"{found['missing']} row(s) have no time and {found['bad']} have one that cannot be read",
            where=f"data.split.column: {name}",
            got=found["example"],
            allowed="numbers, timestamps, dates",
            fixes=["remove those rows", "data.split.method: random"],
        )
    return int(found["rows"])


def _quantiles(
    rows: DataFrame, times: Column, shares: tuple[float, float], count: int
) -> tuple[float, float]:
    """Return the last time of train and of valid; no limit where the shares so far make up all rows."""
    sample = rows.where(hash_share(F.col(C.ORDER)) < F.lit(sample_share(count))).select(
        times.cast("double").alias("time")
    )
    texts = [f"percentile_disc({share!r}) within group (order by time)" for share in shares]
    found = sample.agg(F.expr(texts[0]).alias("first"), F.expr(texts[1]).alias("second")).first()
    assert found is not None
    # The newest row of a sample is not the newest of all.
    first, second = (
        math.inf if share >= 1 else found[name] or 0.0
        for share, name in zip(shares, found.asDict(), strict=True)
    )
    return first, second
