"""`synthesize` on Spark: rows that tasks wrote, the config that prepares them, and what is never replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from sklearn.metrics import log_loss

from jobs import RunConfig, Synthesis, prepare, synthesize
from jobs.preparation.failures import named_failures
from jobs.preparation.sources import raw_rows
from jobs.synthesis.shape import Shape
from jobs.synthesis.truth import Truth
from jobs.synthesis.writing import FileWriter
from tests.spark.prepared import read_split
from trainer.errors import DataError
from trainer.schema import Manifest

pytestmark = pytest.mark.thorough

EVENTS: dict[str, Any] = {
    "rows": 6000,
    "dense": 2,
    "sparse": 3,
    "cardinality": 500,
    "multi_hot": 1,
    "mean_length": 3.0,
    "history": 10,
}


@pytest.fixture(scope="module")
def events(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Synthesis:
    return synthesize(tmp_path_factory.mktemp("events") / "synth", spark=spark, files=3, **EVENTS)


def rows_of(made: Synthesis) -> pd.DataFrame:
    return pq.read_table(made.path / "rows").to_pandas()


def test_the_folder_holds_the_rows_and_says_that_they_are_synthetic(events: Synthesis) -> None:
    frame, told = rows_of(events), json.loads((events.path / "synthetic.json").read_text())
    assert len(frame) == events.rows == told["rows"] == 6000
    assert frame["label"].sum() == events.positives == told["positives"]
    assert told["synthetic"] is True
    assert told["best"]["auc"] == events.best.auc == events.as_json()["best"]["auc"]
    assert told["options"]["history"] == 10
    assert [path.name for path in sorted(events.path.iterdir())] == [
        "SYNTHETIC.md", "config.yaml", "rows", "synthetic.json"
    ]  # fmt: skip
    assert [path.name for path in sorted((events.path / "rows").iterdir())] == [
        f"synthetic-{number:06d}.parquet" for number in range(3)
    ]
    for text in (
        events.text(),
        (events.path / "SYNTHETIC.md").read_text(),
        events.config.read_text().splitlines()[0],
    ):
        assert "synthetic" in text.lower()
        assert f"{events.best.auc:.4f}" in (events.config.read_text() if text.startswith("#") else text)
    # The entropy is of the labels that were drawn.
    constant = log_loss(frame["label"], [frame["label"].mean()] * len(frame))
    assert events.best.log_loss / events.best.ne == pytest.approx(constant, rel=0.03)


def test_another_number_of_files_gives_the_same_rows_and_the_same_best_auc(
    spark: SparkSession, events: Synthesis, tmp_path: Path
) -> None:
    other = synthesize(tmp_path / "synth", spark=spark, files=1, **EVENTS)
    assert other.best == events.best
    pd.testing.assert_frame_equal(rows_of(other), rows_of(events))
    # A second one takes the place of the first.
    again = synthesize(tmp_path / "synth", spark=spark, rows=50, seed=9)
    assert len(rows_of(again)) == 50
    assert [path.name for path in tmp_path.iterdir()] == ["synth"]


def test_the_written_config_prepares_the_rows_with_lists_and_histories(
    spark: SparkSession, events: Synthesis, tmp_path: Path
) -> None:
    run = RunConfig.load(events.config).override("data.keep=[user_id, item_id, event_time]")
    data = prepare(None, run, tmp_path / "data", spark=spark)
    manifest = Manifest.load(data.path)
    assert sum(data.as_json()["rows"].values()) == 6000
    assert sum(split.positives for split in manifest.splits.values()) == events.positives
    assert manifest.synthetic
    assert "(synthetic)" in data.report.splitlines()[0]
    kinds = {feature.name: feature.kind for feature in manifest.spec.features}
    assert set(kinds) == {"I1", "I2", "C1", "C2", "C3", "M1", "user_id", "item_id", "history"}
    # A user's latest row lists the items of the rows before it.
    rows = pd.concat([read_split(data.path, name) for name in ("train", "valid", "test")])
    user = rows["keep.user_id"].mode()[0]
    mine = rows[rows["keep.user_id"] == user].sort_values("keep.event_time")
    assert len(mine) > 10
    assert mine["keep.event_time"].is_unique
    assert list(mine["history"].iloc[-1]) == list(mine["item_id"].iloc[-11:-1])


def test_tsv_is_read_back_with_the_written_config_as_the_same_rows(
    spark: SparkSession, events: Synthesis, tmp_path: Path
) -> None:
    text = synthesize(tmp_path / "text", spark=spark, format="tsv", **EVENTS)
    assert text.best == events.best
    read = raw_rows(RunConfig.load(text.config), spark).toPandas()
    expected = rows_of(events)
    assert list(read.columns) == list(expected.columns)
    hexed = expected["C3"].map(lambda value: None if pd.isna(value) else f"{int(value):08x}")
    assert sorted(read["C3"].dropna()) == sorted(hexed.dropna())
    assert read["label"].astype(int).sum() == text.positives
    lists = expected["M1"].dropna().map(lambda items: "|".join(f"{item:08x}" for item in items))
    assert sorted(read["M1"].dropna()) == sorted(lists)


def test_a_task_that_does_not_see_the_folder_says_where_it_looked(
    spark: SparkSession, tmp_path: Path
) -> None:
    writer = FileWriter(Shape.of(rows=10), Truth(bias=0.0, scale=1.0), str(tmp_path / "elsewhere"))
    with pytest.raises(DataError) as error, named_failures("--out"):
        spark.range(1).mapInArrow(writer, "level long, rows long, positives long").collect()
    assert f"does not see the output folder {tmp_path / 'elsewhere'}" in str(error.value)


def test_what_is_not_all_synthetic_is_not_replaced(spark: SparkSession, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "photo.jpg").write_text("mine")
    with pytest.raises(DataError, match="is not synthetic data"):
        synthesize(mine, spark=spark, rows=10)
    made = synthesize(tmp_path / "synth", spark=spark, rows=10)
    made.config.write_text(made.config.read_text().replace("dlrm", "dcn_v2"))
    with pytest.raises(DataError) as error:
        synthesize(made.path, spark=spark, rows=10)
    assert "config.yaml, which was changed" in str(error.value)
    (made.path / "prepared").mkdir()
    with pytest.raises(DataError, match="prepared"):
        synthesize(made.path, spark=spark, rows=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "synth"]
    assert (mine / "photo.jpg").read_text() == "mine"
    assert made.config.read_text().count("dcn_v2") == 1
