"""Labels, weights and down-sampled negatives against pandas, in one prepared data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.pipeline import Prepared, prepare_dataset
from tests.spark.prepared import make_run, read_all, read_vocabulary
from trainer.config import RunConfig
from trainer.errors import ConfigError
from trainer.schema import Manifest

ROWS = 2000
WEIGHTS = {"view": 1.0, "click": 2.5, "buy": 5.0}


def raw() -> pd.DataFrame:
    random = np.random.default_rng(4)
    events = random.choice([*WEIGHTS, "hover"], ROWS, p=[0.6, 0.1, 0.1, 0.2])
    return pd.DataFrame(
        {
            "row": np.arange(ROWS),
            "event": events,
            "user": random.integers(0, 40, ROWS),
            "item": random.integers(0, 30, ROWS).astype(str),
            "time": np.arange(ROWS),
        }
    )


def event_run(**data: Any) -> RunConfig:
    history = {"user": "user", "item": "item", "time": "time", "max_length": 2}
    return make_run(
        data={
            "keep": ["row"],
            "label": {"column": "event", "positive_values": ["click", "buy"]},
            "weights_by": {"column": "event", "values": WEIGHTS, "other": 0.5},
            "split": {"method": "time", "column": "time", "fractions": [0.6, 0.2, 0.2]},
            **data,
        },
        sparse=[{"columns": "item", "ops": "vocabulary"}],
        sequence=[{"name": "history", "history": history, "table": "item"}],
    )


@pytest.fixture(scope="module")
def prepared(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    run = event_run(downsample_negatives={"keep": 0.25})
    frame = spark.createDataFrame(raw().sample(frac=1, random_state=1)).repartition(3)
    return prepare_dataset(run, tmp_path_factory.mktemp("labels") / "data", frame=frame, spark=spark)


def test_labels_and_weights_follow_the_event(prepared: Prepared) -> None:
    rows = read_all(prepared.path, "row")
    events = raw().loc[rows.index, "event"]
    assert (rows["label"] == events.isin(["click", "buy"])).all()
    assert (rows["weight"] == events.map({**WEIGHTS, "hover": 0.5})).all()
    spec = prepared.manifest.spec
    assert spec.label.params["positive_values"] == ["click", "buy"]
    assert spec.weight == "event"


def test_only_negatives_of_the_training_split_are_left_out(prepared: Prepared) -> None:
    rows, frame = read_all(prepared.path, "row"), raw()
    positive = frame["event"].isin(["click", "buy"])
    missing = frame.index.difference(rows.index)
    negatives = frame.index[(frame["time"] < 1200) & ~positive]
    assert set(missing) < set(negatives)
    kept = 1 - len(missing) / len(negatives)
    assert kept == pytest.approx(0.25, abs=0.04)  # three standard deviations of 1,000 draws
    splits = Manifest.load(prepared.path).splits
    assert splits["train"].negatives_kept == pytest.approx(kept, abs=1e-12)
    assert splits["valid"].negatives_kept == splits["test"].negatives_kept == 1.0
    assert (splits["valid"].rows, splits["test"].rows) == (400, 400)
    assert splits["train"].positives == int(positive[:1200].sum())
    assert f"train: {100 * kept:.2f} % of the negatives were kept" in prepared.report_text
    # Counts are those of the rows that are left; events of the others stay in histories.
    left = frame.loc[rows.index[rows["split"] == "train"], "item"]
    vocabulary = read_vocabulary(prepared.path, "item").set_index("value")
    assert vocabulary["count"].to_dict() == left.value_counts().to_dict()
    names = vocabulary.reset_index().set_index("id")["value"]
    for row in list(rows.index[-50:]):
        earlier = frame[(frame["user"] == frame.loc[row, "user"]) & (frame["time"] < frame.loc[row, "time"])]
        assert [names[i] for i in rows.loc[row, "history"]] == earlier["item"].tolist()[-2:]


def test_the_same_negatives_stay_at_every_partitioning_and_a_larger_share_keeps_them(
    spark: SparkSession, prepared: Prepared, tmp_path: Path
) -> None:
    frame = spark.createDataFrame(raw()).repartition(1)
    run = event_run(downsample_negatives={"keep": 0.5})
    more = read_all(prepare_dataset(run, tmp_path / "more", frame=frame, spark=spark).path, "row")
    assert set(read_all(prepared.path, "row").index) < set(more.index)


def test_events_that_are_all_positives_need_negatives(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="every row is a positive") as caught:
        prepare_dataset(
            event_run(label={"implicit": True}),
            tmp_path / "out",
            frame=spark.createDataFrame(raw()),
            spark=spark,
        )
    assert caught.value.where == "data.label.implicit"
