"""Tasks that share the rows of a frequent id make what one would, and none has most of the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation import derived as derived_features
from jobs.preparation import shared_ids
from jobs.preparation.derived import with_derived
from jobs.preparation.earlier import earlier_column
from jobs.preparation.ordered import KEY, SEGMENT, Shared, staged
from jobs.preparation.pipeline import Prepared, prepare_dataset
from tests.spark.derived_rows import EARLIER, HISTORIES, derived_frame, derived_run
from tests.spark.prepared import read_all
from trainer.schema import Feature, FittedOp

pytestmark = pytest.mark.thorough


def share_on(patch: pytest.MonkeyPatch, cores: int, fewest: int, size: int) -> None:
    patch.setattr(shared_ids, "_cores", lambda spark: cores)
    patch.setattr(shared_ids, "_FEWEST_ROWS", fewest)
    patch.setattr(shared_ids, "_SEGMENT_ROWS", size)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Shared | None]:
    """Share ids of 20 rows and more, in segments of about ten, and keep what `share` returns."""
    share_on(monkeypatch, cores=64, fewest=20, size=10)
    returned: list[Shared | None] = []

    def share(*args: Any) -> Shared | None:
        returned.append(shared_ids.share(*args))
        return returned[-1]

    monkeypatch.setattr(derived_features, "share", share)
    return returned


def prepared(spark: SparkSession, out: Path) -> pd.DataFrame:
    key = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(key)
    spark.conf.set(key, "7")
    try:
        rows = spark.createDataFrame(derived_frame()).repartition(3)
        return read_all(prepare_dataset(derived_run(), out, frame=rows, spark=spark).path, "row")
    finally:
        spark.conf.set(key, before)


def assert_same(mine: pd.DataFrame, theirs: pd.DataFrame) -> None:
    for name in EARLIER:
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)
    for name in HISTORIES:
        assert [list(x) for x in mine[name]] == [list(x) for x in theirs[name]], name


def test_segments_of_an_id_give_what_its_whole_order_gives(
    spark: SparkSession, derived: Prepared, tmp_path: Path, found: list[Shared | None]
) -> None:
    # `derived` is compared with brute force, row by row, in the tests of histories and `earlier`.
    assert_same(prepared(spark, tmp_path / "data"), read_all(derived.path, "row"))
    begun = [len(shared.starts) for shared in found if shared is not None]
    assert len(begun) >= 3
    assert max(begun) >= 5


def test_what_would_take_too_much_is_left_to_one_task(
    spark: SparkSession,
    derived: Prepared,
    tmp_path: Path,
    found: list[Shared | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_ids, "_MOST_BYTES", 100)
    assert_same(prepared(spark, tmp_path / "data"), read_all(derived.path, "row"))
    assert found
    assert not any(found)


def user_count() -> Feature:
    params = {"by": ["user"], "time": "time", "what": "count", "of": None, "where": None}
    params |= {"window_seconds": None, "delay_seconds": 0.0, "smoothing": 0.0, "prior": None}
    return Feature(name="n", kind="dense", column="n", derived=FittedOp(name="earlier", params=params))


def test_no_task_has_most_rows_of_the_only_id(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    share_on(monkeypatch, cores=8, fewest=1000, size=100)
    seen: list[Any] = []

    def in_order(frame: Any, columns: Any, shared: Shared) -> Any:
        seen.append(shared.with_segments(frame))
        return ordered(frame, columns, shared)

    ordered = derived_features.in_order
    monkeypatch.setattr(derived_features, "in_order", in_order)
    rows, number = 5_000, F.col("id")
    frame = spark.range(rows).select(
        F.lit("only").alias("user"),
        (number % (rows // 5)).alias("time"),
        F.lit("train").alias(C.SPLIT),
        F.xxhash64("id").alias(C.ORDER),
    )
    made = with_derived(frame, [user_count()], None, "", spark).select("time", "n").toPandas()
    assert (made["n"] == 5 * made["time"]).all()
    sizes = [row["count"] for row in seen[0].groupBy(KEY, SEGMENT).count().collect()]
    assert sum(sizes) == rows
    assert len(sizes) >= 16
    assert max(sizes) < 3 * rows / len(sizes)


@pytest.mark.parametrize(("cores", "shared"), [(2, False), (3, True)])
def test_frequent_ids_are_shared_where_two_passes_pay(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, cores: int, shared: bool
) -> None:
    share_on(monkeypatch, cores=cores, fewest=100, size=10)
    rows = spark.range(600).select(
        F.when(F.col("id") % 6 == 0, F.col("id").cast("string")).otherwise("most").alias("user"),
        F.col("id").alias("time"),
        F.xxhash64("id").alias(C.ORDER),
    )
    columns = [earlier_column(rows, user_count(), None)]
    found = shared_ids.share(staged(rows, F.col("user"), F.col("time"), columns), columns, 600)
    assert (found is not None) == shared
    if found is not None:
        assert {key for key, _ in found.starts} == {"most"}
