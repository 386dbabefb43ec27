"""`prepare` leaves the data report's page in the data set, and goes on where the page cannot be written."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from jinja2 import Environment
from pyspark.sql import SparkSession

from jobs.preparation import pipeline
from jobs.preparation.pipeline import prepare_dataset
from tests.spark.conftest import WRITE_PAGE
from tests.spark.prepared import make_run
from tests.support.html_page import parse, section, tile_values
from trainer.schema import Manifest


def test_prepare_writes_the_page_and_a_page_that_fails_costs_no_data_set(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipeline, "write_page", WRITE_PAGE)
    run = make_run(
        data={"keep": ["time"]},
        dense=[{"columns": ["x", "told"]}],
        sparse=[{"columns": "word", "ops": "vocabulary"}],
    )
    frame = spark.range(1000).selectExpr(
        "cast(xxhash64(id) % 100 as double) as x",
        "cast(id % 3 = 0 as double) as told",
        "concat('<b>', id % 7) as word",
        "timestamp_seconds(1700000000 + 60 * id) as time",
        "cast(id % 3 = 0 as int) as label",
    )
    prepared = prepare_dataset(run, tmp_path / "data", frame=frame, spark=spark)
    page = parse(prepared.path / "report.html")
    assert tile_values(page)["Rows"] == tile_values(page)["Rows looked at"] == "1,000"
    look, label, ids = (section(page, anchor) for anchor in ("look", "label", "ids"))
    assert look is not None
    assert "Predicts the label alone" in look.text
    assert "told AUC 1.000" in look.text
    assert label is not None
    assert "By the kept column time" in label.text
    assert ids is not None
    assert "<b>0" in ids.text

    def broken(*_: object) -> None:
        raise RuntimeError("no such template")

    monkeypatch.setattr(Environment, "get_template", broken)
    with caplog.at_level(logging.WARNING, logger="jobs.preparation"):
        again = prepare_dataset(run, tmp_path / "data", frame=frame, spark=spark)
    assert Manifest.load(again.path) == again.manifest
    assert not (again.path / "report.html").exists()
    assert "no report.html, the data set is complete without it: no such template" in caplog.text
