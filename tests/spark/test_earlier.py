"""Numbers of earlier rows, and what all features made of several rows promise: nothing later is in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.pipeline import Prepared
from jobs.preparation.transform import apply_spec
from jobs.scoring.candidates import Events
from tests.spark.derived_rows import (
    EARLIER,
    FILLED,
    HISTORIES,
    derived_frame,
    derived_run,
    earlier_items,
    earlier_number,
)
from tests.spark.prepared import read_all
from trainer.errors import DataError


@pytest.fixture(scope="module")
def prior(derived: Prepared) -> float:
    """Return the mean label of the training rows."""
    rows = read_all(derived.path, "row")
    return float(rows.loc[rows["split"] == "train", "label"].mean())


@pytest.mark.parametrize("name", list(EARLIER))
def test_numbers_are_those_of_strictly_earlier_rows(derived: Prepared, prior: float, name: str) -> None:
    frame = derived_frame()
    expected = [earlier_number(frame, row, EARLIER[name], prior) for row in frame.itertuples()]
    assert len(set(expected)) > 5
    assert any(np.isnan(expected))
    found = read_all(derived.path, "row")[name]
    np.testing.assert_allclose(found, np.nan_to_num(expected, nan=FILLED), rtol=1e-6, atol=1e-6)


def scored(spark: SparkSession, derived: Prepared, frame: pd.DataFrame) -> pd.DataFrame:
    names = [*EARLIER, *HISTORIES]
    rows = spark.createDataFrame(frame).repartition(5)
    spec = derived.manifest.spec
    made = apply_spec(rows, spec, derived.path, spark, features=names, keep=["row"]).toPandas()
    return made.set_index("keep.row").sort_index()


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    for name in EARLIER:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    for name in HISTORIES:
        pairs = zip(found[name], expected[name], strict=True)
        assert all(list(a) == list(b) for a, b in pairs), name


def test_nothing_that_happens_later_changes_a_row_however_the_rows_are_dealt(
    spark: SparkSession, derived: Prepared
) -> None:
    frame, expected = derived_frame(), read_all(derived.path, "row")
    now = 30
    later = frame["time"] >= now
    changed = frame.assign(
        label=np.where(later, 1 - frame["label"], frame["label"]),
        watched=np.where(later, 100.0, frame["watched"]),
        item=np.where(frame["time"] > now, "9", frame["item"]),
    )
    # The rows of that very moment too: neither their own label nor their neighbours' is in them.
    kept = frame.index[(frame["time"] <= now) & (frame["item"] == changed["item"])]
    found = scored(spark, derived, changed)
    assert_same(found.loc[kept], expected.loc[kept])
    assert (found["user_rate"] != expected["user_rate"]).sum() > 50


def test_rows_to_be_scored_are_given_what_a_row_after_all_events_would_get(
    spark: SparkSession, derived: Prepared, prior: float
) -> None:
    frame = derived_frame()
    rows = spark.createDataFrame(frame)
    events = Events.read(derived_run(), spark, rows)
    known = events.known_users(["a", "heavy"])
    candidates = events.candidates(known, derived.manifest.spec.features)
    newest = frame["time"].max()
    past = frame.assign(time=frame["time"].where(frame["time"] < newest, newest - 1e-9))
    checked = 0
    for row in candidates.toPandas().itertuples():
        asked: Any = row._replace(time=newest)
        for name, section in EARLIER.items():
            # No device is known of a candidate, so nothing of the pair is.
            expected = earlier_number(past, asked, section, prior)
            found = np.nan if getattr(row, name) is None else getattr(row, name)
            np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=name)
        for name in ("liked", "watchers"):
            checked += len(getattr(row, name))
            assert list(getattr(row, name)) == earlier_items(frame, row._replace(time=np.inf), name)
    assert checked > 20


def test_a_rate_needs_labels_or_the_rate_itself(spark: SparkSession, derived: Prepared) -> None:
    spec = derived.manifest.spec
    rows = spark.createDataFrame(derived_frame().tail(20)).drop("label")
    with pytest.raises(DataError) as error:
        apply_spec(rows, spec, derived.path, spark, features=["user_rate"])
    assert "feature 'user_rate'" in str(error.value)
    assert "labels of earlier rows" in str(error.value)
    ready = rows.selectExpr("row / 8 as user_rate", "row")
    made = apply_spec(ready, spec, derived.path, spark, features=["user_rate"], keep=["row"]).toPandas()
    assert (made["user_rate"] == made["keep.row"] / 8).all()
