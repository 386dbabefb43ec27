"""Target encodings: out of fold for the training rows, the mean over them for all others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.derived import fit_derived, with_derived
from jobs.preparation.pipeline import Prepared
from jobs.preparation.planned import plan_features
from jobs.preparation.transform import apply_spec
from tests.spark.derived_rows import ENCODINGS, derived_frame
from tests.spark.prepared import make_run, read_all


def smoothed(values: pd.Series, prior: float, smoothing: float) -> float:
    if len(values) == 0:
        return prior
    return float((values.sum() + smoothing * prior) / (len(values) + smoothing))


def keys(frame: pd.DataFrame, name: str) -> pd.Series:
    """Return one key per row, NaN where an id is missing."""
    by = ENCODINGS[name]["by"]
    ids = frame[by if isinstance(by, list) else [by]]
    return ids.apply(lambda row: "|".join(row) if row.notna().all() else None, axis=1)


@pytest.mark.parametrize("name", list(ENCODINGS))
def test_rows_outside_training_get_the_mean_over_the_training_rows(
    spark: SparkSession, derived: Prepared, name: str
) -> None:
    rows, key = read_all(derived.path, "row"), keys(derived_frame(), name)
    train = rows["split"] == "train"
    labels, smoothing = rows.loc[train, "label"], ENCODINGS[name]["smoothing"]
    expected = [smoothed(labels[key[train] == k], labels.mean(), smoothing) for k in key]
    np.testing.assert_allclose(rows.loc[~train, name], np.array(expected)[~train], rtol=1e-6)
    assert not np.allclose(rows.loc[train, name], np.array(expected)[train])
    frame = pd.concat([derived_frame(), pd.DataFrame({"row": [-1], "item": ["unseen"], "device": ["tv"]})])
    scored = spark.createDataFrame(frame[["row", "item", "device"]])
    spec = derived.manifest.spec
    made = apply_spec(scored, spec, derived.path, spark, features=[name], keep=["row"]).toPandas()
    found = made.set_index("keep.row").sort_index()[name]
    np.testing.assert_allclose(found, [labels.mean(), *expected], rtol=1e-6)


def test_the_table_holds_count_and_sum_of_each_id(derived: Prepared) -> None:
    rows, key = read_all(derived.path, "row"), keys(derived_frame(), "item_target")
    train = rows["split"] == "train"
    feature = next(f for f in derived.manifest.spec.features if f.name == "item_target")
    assert feature.derived is not None
    table = ds.dataset(derived.path / feature.derived.params["table"]).to_table().to_pandas()
    expected = rows.loc[train, "label"].groupby(key[train]).agg(["count", "sum"])
    found = table.set_index("key").sort_index()
    assert found["count"].to_dict() == expected["count"].to_dict()
    assert found["sum"].to_dict() == expected["sum"].to_dict()


def test_training_rows_get_the_mean_of_the_other_folds_and_never_their_own_label(
    spark: SparkSession, tmp_path: Path
) -> None:
    # Split and row hash are given, as a changed label would change them too.
    frame = derived_frame().assign(**{C.ORDER: np.arange(len(derived_frame())) * 7919})
    frame[C.SPLIT] = np.where(frame["row"] % 5 == 0, "test", "train")
    section = ENCODINGS["item_target"]
    run = make_run(dense=[{"name": "item_target", "target_encoding": section}])

    def encoded(frame: pd.DataFrame, name: str) -> pd.DataFrame:
        rows, label, folder = spark.createDataFrame(frame), F.col("label"), tmp_path / name
        features = fit_derived(rows, plan_features(run, rows), label, folder, spark)
        fold = F.pmod(F.xxhash64(F.lit(1), F.col(C.ORDER)), F.lit(section["folds"]))
        made = with_derived(rows.withColumn("fold", fold), features, label, folder, spark)
        return made.toPandas().set_index("row").sort_index()

    found = encoded(frame, "data")
    train = found[found[C.SPLIT] == "train"]
    assert sorted(train["fold"].unique()) == [0, 1, 2]
    column = "__derived_item_target"
    for _, row in train.iterrows():
        others = train[train["fold"] != row["fold"]]
        labels = others.loc[others["item"] == row["item"], "label"]
        assert row[column] == pytest.approx(smoothed(labels, others["label"].mean(), section["smoothing"]))
    fold = train["fold"] == 1
    flipped = frame.assign(
        label=np.where(frame["row"].isin(train.index[fold]), 1 - frame["label"], frame["label"])
    )
    again = encoded(flipped, "again").loc[train.index]
    assert (again.loc[fold, column] == train.loc[fold, column]).all()
    assert (again.loc[~fold, column] != train.loc[~fold, column]).mean() > 0.9
