"""Labels, weights and down-sampled negatives against pandas, in one prepared data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.pipeline import Prepared, prepare_dataset
from jobs.preparation.transform import apply_spec
from tests.spark.prepared import make_run, read_all, read_vocabulary
from trainer.config import RunConfig
from trainer.errors import ConfigError, DataError, UserError
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


CONDITION = "seconds >= 30 and rating is not null"


def watched() -> pd.DataFrame:
    random = np.random.default_rng(6)
    seconds = [*random.integers(0, 60, ROWS - 3), "29.5", "30.5", None]
    return pd.DataFrame(
        {
            "row": np.arange(ROWS),
            "seconds": pd.Series(seconds, dtype=object).map(lambda x: None if x is None else str(x)),
            "rating": pd.Series(random.choice([1.0, 5.0, np.nan], ROWS), dtype=object).where(
                lambda x: x.notna(), None
            ),
            "user": random.integers(0, 40, ROWS),
            "time": np.arange(ROWS),
        }
    )


def watched_run(condition: str = CONDITION, **features: Any) -> RunConfig:
    earlier = {"by": "user", "time": "time", "what": "rate"}
    rate = {"name": "rate", "earlier": earlier, "ops": [{"fill": -1}]}
    return make_run(
        data={"keep": ["row"], "label": {"where": condition}},
        **(features or {"dense": [rate], "sparse": [{"columns": "user", "ops": "vocabulary"}]}),
    )


def test_a_condition_makes_the_label_also_of_rows_to_be_scored(spark: SparkSession, tmp_path: Path) -> None:
    frame = watched()
    expected = (pd.to_numeric(frame["seconds"]) >= 30) & frame["rating"].notna()
    assert 300 < expected.sum() < ROWS - 300
    rows = spark.createDataFrame(frame, "row int, seconds string, rating double, user int, time int")
    done = prepare_dataset(watched_run(), tmp_path / "data", frame=rows, spark=spark)
    found = read_all(done.path, "row")
    assert found["label"].tolist() == expected.tolist()
    assert done.manifest.spec.label.params["where"] == CONDITION
    earlier = expected.astype(float).groupby(frame["user"]).transform(lambda x: x.shift().expanding().mean())
    np.testing.assert_allclose(found["rate"], earlier.fillna(-1), rtol=1e-6)
    scored = apply_spec(rows, done.manifest.spec, done.path, spark, features=["rate"], keep=["row"])
    np.testing.assert_allclose(scored.toPandas().set_index("keep.row").sort_index()["rate"], found["rate"])
    unlabelled = rows.drop("rating")
    made = apply_spec(unlabelled, done.manifest.spec, done.path, spark, features=["user"], keep=["row"])
    assert made.toPandas().set_index("keep.row").sort_index()["user"].tolist() == found["user"].tolist()
    with pytest.raises(DataError, match="label"):
        apply_spec(unlabelled, done.manifest.spec, done.path, spark, features=["rate"])


def test_columns_of_the_labels_condition_are_no_features_by_glob(spark: SparkSession, tmp_path: Path) -> None:
    schema = "row int, seconds string, rating double, user int, time int"
    rows = spark.createDataFrame(watched(), schema)
    run = watched_run("`seconds` >= 30 and /* user */ coalesce(RATING, 9) > 4", dense=[{"columns": "*"}])
    done = prepare_dataset(run, tmp_path / "data", frame=rows, spark=spark)
    assert [f.name for f in done.manifest.spec.features] == ["row", "user", "time"]
    alone = watched_run("seconds >= 30", sparse=[{"columns": "seconds", "ops": "vocabulary"}])
    with pytest.raises(ConfigError, match="label cannot be a feature"):
        prepare_dataset(alone, tmp_path / "other", frame=rows, spark=spark)
    both = watched_run(
        sparse=[{"columns": "seconds", "ops": "vocabulary"}]
    )  # named, and not all of the label
    assert prepare_dataset(both, tmp_path / "other", frame=rows, spark=spark).rows["train"] > 0


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("secnds >= 30", ["data.label.where", "secnds >= 30"]),
        ("seconds", ["data.label.where", "neither true nor false"]),
        ("max(time) > 3", ["data.label.where", "max(time) > 3"]),
        ("seconds >= 99", ["data.label.where", "the label is 0 in every training row", "seconds >= 99 now"]),
    ],
)
def test_conditions_that_make_no_label_are_named(
    spark: SparkSession, tmp_path: Path, condition: str, words: list[str]
) -> None:
    schema = "row int, seconds string, rating double, user int, time int"
    rows = spark.createDataFrame(watched(), schema)
    run = watched_run(condition, sparse=[{"columns": "user", "ops": "vocabulary"}])
    with pytest.raises(UserError) as error:
        prepare_dataset(run, tmp_path / "data", frame=rows, spark=spark)
    assert [word for word in words if word not in str(error.value)] == []


def test_events_that_are_all_positives_need_negatives(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="every row is a positive") as caught:
        prepare_dataset(
            event_run(label={"implicit": True}),
            tmp_path / "out",
            frame=spark.createDataFrame(raw()),
            spark=spark,
        )
    assert caught.value.where == "data.label.implicit"
