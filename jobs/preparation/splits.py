"""Deals rows into train, valid and test: by a hash, by time, by a column, by folds, or by source file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.leave_last import check_leave_last, with_leave_last
from jobs.preparation.named_splits import split_by_file, split_by_value
from jobs.preparation.split_times import check_times, moment, time_warnings
from trainer.config import SplitConfig
from trainer.errors import ConfigError, DataError
from trainer.schema import SPLITS

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

# Rows whose values decide a quantile; with more rows a sample chosen by hash, the same on every run.
QUANTILE_ROWS = 1_000_000
_CAUSES = {
    "random": "equal rows share a split, and few rows may miss a small share by chance",
    "time": "rows of equal time share a split, the older one",
    "column": "no row has one of its values",
    "k_fold": "few rows leave folds empty",
    "files": "its files hold no rows",
}


def with_split(rows: DataFrame, split: SplitConfig) -> DataFrame:
    """Add the column `SPLIT`.

    `random` compares a seeded hash with the fractions: of the whole row, or of the column `by`. `time` cuts
    at the values where the sorted times reach the fractions; rows of equal time stay together, in the older
    split. `time` with `until` cuts at these times. `k_fold` cuts the hashes of `random` into equal ranges.
    `leave_last`: see there.

    Args:
        rows: with `HASH` (see `with_row_hashes`), the columns that the split names, and `FILE` for `files`.
        split: method and what belongs to it.

    Raises:
        ConfigError: a time of `until` is none, is of another kind than the column's, or before the first.
        DataError: a value that decides is missing or cannot be used.
    """
    if split.leave_last is not None:
        return with_leave_last(rows, split.leave_last)
    if split.method == "column":
        return split_by_value(rows, split)
    if split.method == "files":
        return split_by_file(rows, split)
    if split.method == "time":
        return _by_time(rows, split)
    hashed = _dealing_hash(rows, split)
    if split.method == "k_fold":
        return rows.withColumn(C.SPLIT, _fold(hashed, split))
    train, until_valid = split_limits(split)
    x = hash_share(hashed)
    return rows.withColumn(C.SPLIT, _name(x < F.lit(train), x < F.lit(until_valid)))


def require_filled(rows: Mapping[str, int], split: SplitConfig) -> None:
    """Check that no split came out empty that was not left empty on purpose.

    Args:
        rows: by split.
        split: says which splits are wanted.

    Raises:
        DataError: one is empty.
    """
    counts = {name: rows.get(name, 0) for name in SPLITS}
    empty = [name for name in SPLITS if name in split.wanted() and not counts[name]]
    if not empty:
        return
    name = empty[0]
    share = f" for a share of {dict(zip(SPLITS, split.fractions, strict=True))[name]:g}"
    cause = _CAUSES.get(split.method, "no row belongs to it")
    if split.by is not None:
        cause = f"rows of one {split.by} share a split, and there are few of them"
    if split.until is not None:
        cause = f"no time of a row lies there: data.split.until is {', '.join(map(str, split.until))}"
    fractions = split.method in ("random", "time") and split.until is None
    raise DataError(
        f"the {name} split has no rows",
        where=f"data.split ({split.method})",
        got=", ".join(f"{split_name}: {count:,}" for split_name, count in counts.items())
        + (share if fractions else ""),
        fixes=[
            f"likely cause: {cause}",
            "prepare more rows",
            *(["give it a share of 0 to leave it empty: data.split.fractions"] if fractions else []),
        ],
    )


def split_remarks(rows: DataFrame, split: SplitConfig) -> list[str]:
    """Return what the report should say about the rows that a split deals.

    Raises:
        DataError: a user or time that `leave_last` needs is missing.
    """
    if split.leave_last is not None:
        return check_leave_last(rows, split.leave_last)
    if split.method == "time" and split.column is not None:
        return time_warnings(rows, {f"data.split.column: {split.column}": split.column})
    return []


def hash_share(hashed: Column) -> Column:
    """Return a 64-bit hash as a number in [0, 1)."""
    return F.shiftrightunsigned(hashed, 11) / F.lit(float(1 << 53))


def sample_share(count: int) -> float:
    """Return the share of rows that exact quantiles are taken of."""
    return min(1.0, QUANTILE_ROWS / max(count, 1))


def dealt(hashes: NDArray[np.int64], split: SplitConfig) -> pa.Array:
    """Return the split of each row for method `random`, as `with_split` deals it.

    Args:
        hashes: int64 [N], `HASH`.
        split: with its fractions.
    """
    train, until_valid = split_limits(split)
    x = (hashes.view(np.uint64) >> np.uint64(11)) / float(1 << 53)
    places = (x >= train).astype(np.int8) + (x >= until_valid)
    return pa.DictionaryArray.from_arrays(pa.array(places), pa.array(SPLITS)).dictionary_decode()


def split_limits(split: SplitConfig) -> tuple[float, float]:
    """Return the shares up to which rows are train, and valid."""
    train, valid, test = split.fractions
    return train, round(train + valid, 12) if test > 0 else 1.0


def _name(train: Column, valid: Column) -> Column:
    return F.when(train, "train").when(valid, "valid").otherwise("test")


def _dealing_hash(rows: DataFrame, split: SplitConfig) -> Column:
    """Return the hash that deals a row: its own, or one of its value of `by`."""
    if split.by is None:
        return F.col(C.HASH)
    value = C.single_token(rows, split.by, f"data.split.by: {split.by}")
    found = rows.agg(F.count(F.when(value.isNull(), 1))).first()
    if found is not None and found[0]:
        raise DataError(
            f"{found[0]:,} row(s) have no value to be split by",
            where=f"data.split.by: {split.by}",
            fixes=[f"data.clean.drop_missing: [{split.by}]"],
        )
    return F.xxhash64(F.lit(split.seed), F.lit("split"), value)


def _fold(hashed: Column, split: SplitConfig) -> Column:
    folds = split.k_fold
    assert folds is not None
    fold = F.floor(hash_share(hashed) * F.lit(folds.k))
    if folds.valid_share is None:
        valid = fold == F.lit((folds.fold + 1) % folds.k)
    else:  # another hash: the first one decides the fold
        valid = hash_share(F.xxhash64(F.lit("valid"), hashed)) < F.lit(folds.valid_share)
    return F.when(fold == F.lit(folds.fold), "test").when(valid, "valid").otherwise("train")


def _by_time(rows: DataFrame, split: SplitConfig) -> DataFrame:
    assert split.column is not None
    count = check_times(rows, split.column)
    times = C.time(rows, split.column)
    if split.until is not None:
        first, second = (moment(rows, split.column, value) for value in split.until)
        if not first <= second:
            raise ConfigError(
                "the second time is before the first",
                where="data.split.until",
                got=", ".join(map(str, split.until)),
            )
        return rows.withColumn(C.SPLIT, _name(times < F.lit(first), times < F.lit(second)))
    last_of_train, last_of_valid = _quantiles(rows, times, split_limits(split), count)
    x = times.cast("double")
    return rows.withColumn(C.SPLIT, _name(x <= F.lit(last_of_train), x <= F.lit(last_of_valid)))


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
