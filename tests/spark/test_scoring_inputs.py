"""Raw rows to be scored become the same inputs that training saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.derived import history_as_of_now
from jobs.preparation.pipeline import Prepared, prepare_dataset, write_inputs
from jobs.preparation.transform import apply_spec
from tests.spark.prepared import make_run, read_all, read_split, read_vocabulary
from trainer.config import RunConfig
from trainer.errors import DataError
from trainer.schema import Manifest

ROWS = 300


def scoring_run() -> RunConfig:
    history = {"user": "user", "item": "item", "time": "time", "max_length": 3}
    return make_run(
        data={"keep": ["row"]},
        dense=[{"columns": "x", "ops": [{"fill": "median"}, "standardise"]}],
        sparse=[
            {"columns": "item", "ops": "vocabulary"},
            {"columns": "city", "ops": [{"hash": 100}]},
            {"columns": "raw_id"},
            {"columns": "tags", "ops": [{"split": "|"}, "vocabulary"]},
        ],
        sequence=[{"name": "history", "history": history, "table": "item"}],
    )


@pytest.fixture(scope="module")
def raw() -> pd.DataFrame:
    random = np.random.default_rng(5)
    return pd.DataFrame(
        {
            "row": np.arange(ROWS),
            "label": random.integers(0, 2, ROWS),
            "x": np.where(random.random(ROWS) < 0.2, np.nan, random.normal(size=ROWS)),
            "item": random.integers(0, 40, ROWS).astype(str),
            "city": random.choice(["Bonn", "Ulm", ""], ROWS),
            "raw_id": random.integers(0, 5, ROWS),
            "tags": random.choice(["a|b", "c", ""], ROWS),
            "user": random.integers(0, 10, ROWS),
            "time": random.permutation(ROWS),
        }
    )


@pytest.fixture(scope="module")
def prepared(spark: SparkSession, raw: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    out = tmp_path_factory.mktemp("scoring") / "data"
    return prepare_dataset(scoring_run(), out, frame=spark.createDataFrame(raw), spark=spark)


def test_the_spec_gives_the_prepared_rows_again(
    spark: SparkSession, raw: pd.DataFrame, prepared: Prepared
) -> None:
    spec = Manifest.load(prepared.path).spec
    unlabelled = spark.createDataFrame(raw.drop(columns="label"))
    made = apply_spec(unlabelled, spec, prepared.path, spark, keep=["row"]).toPandas()
    found = made.set_index("keep.row").sort_index()
    expected = read_all(prepared.path, "row")
    assert list(found.columns) == [f.name for f in spec.features]
    for feature in spec.features:
        if feature.is_list:
            pairs = zip(found[feature.name], expected[feature.name], strict=True)
            assert all(list(a) == list(b) for a, b in pairs), feature.name
        else:
            np.testing.assert_array_equal(found[feature.name], expected[feature.name], err_msg=feature.name)


def test_some_features_need_only_their_own_columns(
    spark: SparkSession, raw: pd.DataFrame, prepared: Prepared
) -> None:
    spec = prepared.manifest.spec
    items = spark.createDataFrame(raw[["item"]].drop_duplicates())
    made = apply_spec(items, spec, prepared.path, spark, features=["item"], keep=["item"]).toPandas()
    vocabulary = read_vocabulary(prepared.path, "item").set_index("value")["id"]
    assert dict(zip(made["keep.item"], made["item"], strict=True)) == {
        item: vocabulary.get(item, 1) for item in raw["item"].unique()
    }


def test_history_as_of_now_is_numbered_through_the_items_vocabulary(
    spark: SparkSession, raw: pd.DataFrame, prepared: Prepared
) -> None:
    now = history_as_of_now(scoring_run(), "history", spark, frame=spark.createDataFrame(raw))
    spec = prepared.manifest.spec
    made = apply_spec(now, spec, prepared.path, spark, features=["history"], keep=["user"]).toPandas()
    vocabulary = read_vocabulary(prepared.path, "item").set_index("value")["id"]
    for row in made.itertuples(index=False):
        newest = raw[raw["user"] == row[1]].sort_values("time")["item"].tail(3)
        assert list(row[0]) == [vocabulary.get(item, 1) for item in newest]


def test_inputs_are_written_in_the_order_asked_for(
    spark: SparkSession, raw: pd.DataFrame, prepared: Prepared, tmp_path: Path
) -> None:
    spec = prepared.manifest.spec
    made = apply_spec(spark.createDataFrame(raw).repartition(5), spec, prepared.path, spark, keep=["row"])
    manifest = write_inputs(
        made, spec, tmp_path / "inputs", spark, order_by=["keep.row"], rows_per_row_group=50, partitions=3
    )
    rows = read_split(tmp_path / "inputs", "test")
    assert rows["keep.row"].tolist() == list(range(ROWS))
    assert set(rows["label"]) == {0.0}
    assert manifest.split("test").rows == ROWS
    assert manifest.spec.hash == spec.hash
    assert list(manifest.splits) == ["test"]


def test_id_beyond_the_table_is_refused_when_scoring(
    spark: SparkSession, raw: pd.DataFrame, prepared: Prepared, tmp_path: Path
) -> None:
    spec = prepared.manifest.spec
    frame = spark.createDataFrame(raw.assign(raw_id=77))
    with pytest.raises(DataError) as error:
        write_inputs(apply_spec(frame, spec, prepared.path, spark), spec, tmp_path / "inputs", spark)
    assert "'raw_id' needs ids from 0 to 4, a row holds 77" in str(error.value)


def test_unreadable_time_is_refused_when_scoring(
    spark: SparkSession, raw: pd.DataFrame, prepared: Prepared, tmp_path: Path
) -> None:
    spec = prepared.manifest.spec
    frame = spark.createDataFrame(raw.assign(time=["soon", *map(str, raw["time"][1:])]))
    with pytest.raises(DataError) as error:
        write_inputs(apply_spec(frame, spec, prepared.path, spark), spec, tmp_path / "inputs", spark)
    assert "feature 'history': column 'time' holds no time: soon" in str(error.value)


def test_missing_raw_column_is_named(spark: SparkSession, raw: pd.DataFrame, prepared: Prepared) -> None:
    frame = spark.createDataFrame(raw.rename(columns={"city": "town"}))
    with pytest.raises(DataError) as error:
        apply_spec(frame, prepared.manifest.spec, prepared.path, spark)
    assert "'city'" in str(error.value)


def test_no_rows_to_score_is_a_valid_data_set(
    spark: SparkSession, raw: pd.DataFrame, prepared: Prepared, tmp_path: Path
) -> None:
    spec = prepared.manifest.spec
    nothing = apply_spec(spark.createDataFrame(raw).where("row < 0"), spec, prepared.path, spark)
    assert write_inputs(nothing, spec, tmp_path / "inputs", spark).splits["test"].rows == 0
