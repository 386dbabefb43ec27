"""Labels of several tasks, ratings among them, against pandas in one prepared data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.appending import append_rows
from jobs.preparation.pipeline import Prepared, prepare_dataset
from jobs.preparation.transform import apply_spec
from tests.spark.prepared import make_run, read_all
from trainer.config import RunConfig
from trainer.errors import ConfigError, DataError, UserError
from trainer.reporting.data import write_data_report
from trainer.schema import Manifest

ROWS = 1500
LABELS = {
    "click": {"column": "clicked"},
    "buy": {"column": "bought", "known_where": "clicked = 1"},
    "stars": {"column": "stars", "kind": "rating", "missing": "skip"},
    "long": {"where": "seconds >= 30"},
}


def raw(seed: int = 4, rows: int = ROWS) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    clicked = (random.random(rows) < 0.3).astype(int)
    stars = np.where(random.random(rows) < 0.4, random.integers(1, 6, rows) / 2, np.nan)
    return pd.DataFrame(
        {
            "row": np.arange(rows) + 10_000 * seed,
            "item": random.integers(0, 30, rows).astype(str),
            "clicked": clicked,
            "bought": clicked * (random.random(rows) < 0.2),
            "stars": stars,
            "seconds": random.integers(0, 60, rows),
        }
    )


def task_run(labels: dict[str, Any] | None = None, **data: Any) -> RunConfig:
    section = {"label": None, "labels": LABELS if labels is None else labels, "keep": ["row"], **data}
    return make_run(data=section, sparse=[{"columns": "item", "ops": "vocabulary"}])


@pytest.fixture(scope="module")
def prepared(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    frame = spark.createDataFrame(raw()).repartition(3)
    out = tmp_path_factory.mktemp("tasks") / "data"
    return prepare_dataset(task_run(downsample_negatives={"keep": 0.5}), out, frame=frame, spark=spark)


def test_every_task_has_its_label_where_it_counts(prepared: Prepared) -> None:
    rows = read_all(prepared.path, "row")
    frame = raw().set_index("row").loc[rows.index]
    assert (rows["label"] == frame["clicked"]).all()
    bought = frame["bought"].where(frame["clicked"] == 1).astype(float)
    pd.testing.assert_series_equal(rows["label__buy"].astype(float), bought, check_names=False)
    pd.testing.assert_series_equal(rows["label__stars"].astype(float), frame["stars"], check_names=False)
    assert (rows["label__long"] == (frame["seconds"] >= 30)).all()
    # Negatives of the first task alone are left out, and only of the training rows.
    dropped = raw().set_index("row").index.difference(rows.index)
    assert (raw().set_index("row").loc[dropped, "clicked"] == 0).all()
    assert prepared.manifest.splits["train"].negatives_kept == pytest.approx(0.5, abs=0.07)


def test_manifest_tells_of_every_task(prepared: Prepared) -> None:
    manifest = Manifest.load(prepared.path)
    rows = read_all(prepared.path, "row")
    train = rows[rows["split"] == "train"]
    spec = manifest.spec
    assert [task.name for task in spec.tasks] == list(LABELS)
    assert spec.label_columns == ("label", "label__buy", "label__stars", "label__long")
    for name, column in zip(LABELS, spec.label_columns, strict=True):
        for split in ("train", "valid", "test"):
            values = rows.loc[rows["split"] == split, column].astype(float)
            found = manifest.splits[split].labels[name]
            assert found.rows == values.count()
            assert found.mean == pytest.approx(values.mean())
            assert found.std == pytest.approx(values.std(ddof=0))
    assert manifest.splits["train"].positives == int(train["label"].sum())
    stars = next(task for task in spec.tasks if task.name == "stars")
    assert stars.is_rating
    assert stars.mean == pytest.approx(train["label__stars"].mean())
    assert stars.std == pytest.approx(train["label__stars"].std(ddof=0))
    told = json.loads((prepared.path / "report.json").read_text())
    assert told["splits"]["train"]["labels"]["stars"]["rows"] == train["label__stars"].count()
    assert "stars" in prepared.report_text
    page = write_data_report(prepared.path).path.read_text()
    assert f"{train['label__stars'].mean():.4f}" in page


def test_rows_to_be_scored_need_no_label(spark: SparkSession, prepared: Prepared) -> None:
    frame = spark.createDataFrame(raw()[["row", "item"]].head(20))
    made = apply_spec(frame, prepared.manifest.spec, prepared.path, spark, keep=["row"])
    assert made.count() == 20


def test_a_lone_rating_with_a_later_day_keeps_what_was_fitted(spark: SparkSession, tmp_path: Path) -> None:
    run = make_run(
        data={
            "label": {"column": "stars", "kind": "rating"},
            "clean": {"drop_missing": ["stars"]},
            "keep": ["row"],
        },
        sparse=[{"columns": "item", "ops": "vocabulary"}],
    )
    first = prepare_dataset(run, tmp_path / "data", frame=spark.createDataFrame(raw(4, 300)), spark=spark)
    task = first.manifest.spec.tasks[0]
    rows = read_all(first.path, "row")
    assert (rows["label"] == raw(4, 300).set_index("row").loc[rows.index, "stars"]).all()
    assert task.mean == pytest.approx(rows.loc[rows["split"] == "train", "label"].mean())
    assert "positives" not in first.report_text
    added = append_rows(
        run, tmp_path / "data", "grow", frame=spark.createDataFrame(raw(5, 300)), spark=spark, into="train"
    )
    assert added.manifest.spec.tasks[0] == task
    train = read_all(first.path, "row").query("split == 'train'")["label"]
    assert added.manifest.splits["train"].labels["label"].mean == pytest.approx(train.mean())
    assert added.manifest.splits["train"].labels["label"].rows == len(train)


@pytest.mark.parametrize(
    ("labels", "error", "parts"),
    [
        (
            {"click": {"column": "clicked"}, "stars": {"column": "stars", "kind": "rating"}},
            DataError,
            ["no label", "data.labels.stars.column: stars", "data.labels.stars.missing: skip"],
        ),
        ({"click": {"column": "clickt"}}, DataError, ["clickt", "data.labels.click.column", "`clicked`"]),
        (
            {"click": {"column": "clicked"}, "long": {"column": "seconds"}},
            DataError,
            ["not 0 or 1", "data.labels.long.positive_at_least", "data.labels.long.kind: rating"],
        ),
        (
            {"click": {"column": "clicked"}, "buy": {"column": "bought", "known_where": "seconds > 99"}},
            DataError,
            ["no training row has a label", "data.labels.buy"],
        ),
        (
            {"click": {"column": "clicked"}, "buy": {"column": "bought", "known_where": "secnds > 9"}},
            ConfigError,
            ["data.labels.buy.known_where", "secnds"],
        ),
        (
            {"click": {"column": "clicked"}, "long": {"column": "seconds", "positive_at_least": 99}},
            DataError,
            ["the label is 0 in every training row", "data.labels.long.positive_at_least (99 now)"],
        ),
    ],
    ids=["missing", "no column", "not binary", "never known", "condition", "one class"],
)
def test_labels_that_cannot_be_used_are_refused_by_task(
    spark: SparkSession, tmp_path: Path, labels: dict[str, Any], error: type[UserError], parts: list[str]
) -> None:
    with pytest.raises(error) as caught:
        prepare_dataset(
            task_run(labels), tmp_path / "data", frame=spark.createDataFrame(raw(4, 200)), spark=spark
        )
    for part in parts:
        assert part in str(caught.value)


def test_no_label_of_any_task_is_a_feature(spark: SparkSession, tmp_path: Path) -> None:
    run = make_run(
        data={"label": None, "labels": LABELS}, sparse=[{"columns": ["item", "bought"], "ops": "vocabulary"}]
    )
    with pytest.raises(ConfigError, match="the label cannot be a feature") as caught:
        prepare_dataset(run, tmp_path / "data", frame=spark.createDataFrame(raw(4, 50)), spark=spark)
    assert "bought" in str(caught.value)
