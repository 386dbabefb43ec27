"""Each op against the same numbers computed with numpy and pandas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.pipeline import Prepared, prepare_dataset
from jobs.preparation.planned import plan_features
from tests.spark.prepared import make_run, read_all, read_vocabulary
from tests.support.xxh64 import xxh64
from trainer.errors import DataError, UserError

ROWS = 400
DENSE = [
    {"columns": "x"},
    {"columns": "text"},
    {"columns": "yes"},
    {"columns": "counts", "ops": [{"clip": {"min": 0, "max": 100}}, "log1p"]},
    {"columns": "gaps", "ops": [{"fill": "mean"}, "standardise"]},
    {"columns": "other_gaps", "ops": [{"fill": "median"}]},
    {"columns": "zero_gaps", "ops": {"fill": 0}},
    {"columns": "constant", "ops": "standardise"},
    {"columns": "long_constant", "ops": [{"fill": "mean"}, "min_max"]},
    {"columns": "rare", "ops": ["standardise", "log1p"]},
    {"columns": "scaled", "ops": "min_max"},
    {"columns": "amount", "ops": [{"bucketise": {"quantiles": 5}}]},
    {"columns": "time", "name": "hour", "ops": [{"hour": "America/New_York"}]},
]
SPARSE = [
    {"columns": "colour", "ops": [{"hash": 50}]},
    {"columns": "genres", "ops": [{"split": "|"}, {"hash": {"num_buckets": 1000, "seed": 3}}]},
    {"columns": "colour", "name": "any_colour", "ops": [{"hash": "unbounded"}]},
    {"columns": "small_id"},
    {"columns": "missing_colour", "ops": [{"fill": "none"}, "vocabulary"]},
    {"columns": "amount", "name": "amount_bucket", "ops": ["standardise", {"bucketise": {"quantiles": 5}}]},
    {"columns": "time", "name": "weekday", "ops": ["weekday", "vocabulary"]},
    {"columns": "time", "name": "month", "ops": ["month"]},
    {"columns": "amount", "name": "wide_bucket", "ops": [{"bucketise": [0.1, 1000, 2000]}]},
    {"cross": ["colour", "small_id"], "name": "colour_id", "ops": ["vocabulary"]},
    {"cross": ["small_id", "home", "time"], "name": "wide_cross", "ops": [{"hash": 100}]},
    {"columns": "home", "ops": [{"vocabulary": {"joint": True, "min_count": 3}}]},
    {"columns": "away", "table": "home"},
]


@pytest.fixture(scope="module")
def raw() -> pd.DataFrame:
    random = np.random.default_rng(0)
    x = random.normal(3, 2, ROWS).round(3)
    gaps = np.where(np.arange(ROWS) % 7 == 0, np.nan, x)
    return pd.DataFrame(
        {
            "row": np.arange(ROWS),
            "label": random.integers(0, 2, ROWS),
            "x": x,
            "text": [f" {v} " for v in x],
            "yes": x > 3,
            "counts": random.integers(-3, 500, ROWS),
            "gaps": gaps,
            "other_gaps": gaps,
            "zero_gaps": gaps,
            "constant": np.full(ROWS, 7.5),
            "long_constant": np.where(np.arange(ROWS) % 5 == 0, np.nan, 1234567890.1234567),
            "rare": (np.arange(ROWS) % 4 == 0).astype(float),
            "colour": random.choice(["red", "green", "a colour with a name of more than 32 bytes", ""], ROWS),
            "genres": random.choice(["a|b", "b", "", "c|a|zz"], ROWS),
            "small_id": random.integers(0, 9, ROWS),
            "missing_colour": random.choice(["red", ""], ROWS, p=[0.3, 0.7]),
            "scaled": x,
            "amount": random.lognormal(size=ROWS).round(4),
            "time": pd.to_datetime(random.integers(1.5e9, 1.6e9, ROWS), unit="s"),
            "home": random.choice(["Ajax", "PSV", "Sparta", "NEC"], ROWS, p=[0.5, 0.3, 0.19, 0.01]),
            "away": random.choice(["Ajax", "PSV", "Sparta", "Twente"], ROWS, p=[0.1, 0.2, 0.69, 0.01]),
        }
    )


@pytest.fixture(scope="module")
def prepared(spark: SparkSession, raw: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    run = make_run(data={"keep": ["row"]}, dense=DENSE, sparse=SPARSE)
    out = tmp_path_factory.mktemp("ops") / "data"
    return prepare_dataset(run, out, frame=spark.createDataFrame(raw), spark=spark)


@pytest.fixture(scope="module")
def rows(prepared: Prepared) -> pd.DataFrame:
    return read_all(prepared.path, "row")


def test_every_row_lands_in_one_split(rows: pd.DataFrame, raw: pd.DataFrame) -> None:
    assert rows.index.tolist() == raw["row"].tolist()
    assert rows["label"].tolist() == raw["label"].astype(float).tolist()


def test_numbers_without_ops_stay_as_they_are(rows: pd.DataFrame, raw: pd.DataFrame) -> None:
    np.testing.assert_array_equal(rows["x"], raw["x"].astype(np.float32))
    np.testing.assert_array_equal(rows["text"], raw["x"].astype(np.float32))
    np.testing.assert_array_equal(rows["yes"], raw["yes"].astype(np.float32))


def test_clip_and_log1p(rows: pd.DataFrame, raw: pd.DataFrame) -> None:
    np.testing.assert_allclose(rows["counts"], np.log1p(raw["counts"].clip(0, 100)), rtol=1e-6)


def test_fill_mean_and_standardise_use_training_rows_only(rows: pd.DataFrame, raw: pd.DataFrame) -> None:
    train = (rows["split"] == "train").to_numpy()
    filled = raw["gaps"].fillna(raw["gaps"][train].mean())
    expected = (filled - filled[train].mean()) / filled[train].std(ddof=0)
    np.testing.assert_allclose(rows["gaps"], expected, atol=1e-5)
    assert abs(raw["gaps"].mean() - raw["gaps"][train].mean()) > 1e-3  # the two means can be told apart


def test_fill_median_and_number(rows: pd.DataFrame, raw: pd.DataFrame) -> None:
    train = (rows["split"] == "train").to_numpy()
    median = raw["other_gaps"][train].median()
    np.testing.assert_allclose(rows["other_gaps"], raw["other_gaps"].fillna(median), atol=1e-5)
    np.testing.assert_allclose(rows["zero_gaps"], raw["zero_gaps"].fillna(0), atol=1e-6)


def test_a_constant_column_standardises_to_zero(rows: pd.DataFrame) -> None:
    assert rows["constant"].tolist() == [0.0] * ROWS


def test_a_mean_that_fills_the_gaps_of_a_constant_column_is_its_value_to_the_last_digit(
    rows: pd.DataFrame,
) -> None:
    assert rows["long_constant"].tolist() == [0.0] * ROWS


def test_log1p_takes_standardised_values_above_minus_one(rows: pd.DataFrame, raw: pd.DataFrame) -> None:
    train = raw["rare"][(rows["split"] == "train").to_numpy()]
    expected = np.log1p((raw["rare"] - train.mean()) / train.std(ddof=0))
    np.testing.assert_allclose(rows["rare"], expected, atol=1e-5)


def bucket(token: str, buckets: int, seed: int) -> int:
    unsigned = xxh64(f"{seed}:{token}".encode(), seed=42)
    return (unsigned - (unsigned >> 63 << 64)) % buckets + 1


def test_hash_is_documented_xxh64_modulo_buckets(rows: pd.DataFrame, raw: pd.DataFrame) -> None:
    assert rows["any_colour"].tolist() == [bucket(c, 2**62, 0) if c else 0 for c in raw["colour"]]
    assert rows["colour"].tolist() == [bucket(c, 50, 0) if c else 0 for c in raw["colour"]]
    lists = [[bucket(t, 1000, 3) for t in text.split("|") if t] for text in raw["genres"]]
    assert [list(ids) for ids in rows["genres"]] == lists


def test_min_max_and_quantiles_use_training_rows_only(rows: pd.DataFrame, raw: pd.DataFrame) -> None:
    train = (rows["split"] == "train").to_numpy()
    low, high = raw["scaled"][train].min(), raw["scaled"][train].max()
    np.testing.assert_allclose(rows["scaled"], (raw["scaled"] - low) / (high - low), atol=1e-6)
    edges = raw["amount"][train].quantile([0.2, 0.4, 0.6, 0.8])
    expected = np.searchsorted(edges, raw["amount"], side="right") + 1
    assert rows["amount"].tolist() == expected.tolist()
    assert rows["amount_bucket"].tolist() == expected.tolist()


def test_parts_of_timestamps(rows: pd.DataFrame, raw: pd.DataFrame) -> None:
    local = raw["time"].dt.tz_localize("UTC").dt.tz_convert("America/New_York")
    assert rows["hour"].tolist() == local.dt.hour.tolist()
    same = pd.DataFrame({"id": rows["weekday"].to_numpy(), "day": raw["time"].dt.dayofweek}).drop_duplicates()
    assert sorted(same["id"]) == [2, 3, 4, 5, 6, 7, 8]
    assert rows["month"].tolist() == raw["time"].dt.month.tolist()


def test_tables_of_numbers_have_room_for_all_of_them(prepared: Prepared) -> None:
    rows = {f.name: f.num_embeddings for f in prepared.manifest.spec.features}
    assert (rows["month"], rows["wide_bucket"], rows["amount_bucket"]) == (13, 5, 6)


def test_crosses_have_a_value_for_each_combination(
    rows: pd.DataFrame, raw: pd.DataFrame, prepared: Prepared
) -> None:
    joined = raw["colour"] + " & " + raw["small_id"].astype(str)
    counts = joined[(rows["split"] == "train").to_numpy() & (raw["colour"] != "")].value_counts()
    order = sorted(counts.index, key=lambda value: (-counts[value], value))
    assert read_vocabulary(prepared.path, "colour_id")["value"].tolist() == order
    ids = {value: 2 + place for place, value in enumerate(order)}
    expected = [
        0 if not colour else ids.get(value, 1) for colour, value in zip(raw["colour"], joined, strict=True)
    ]
    assert rows["colour_id"].tolist() == expected
    parts = zip(raw["small_id"], raw["home"], raw["time"].dt.strftime("%Y-%m-%d %H:%M:%S"), strict=True)
    wide = [bucket(" & ".join(map(str, part)), 100, 0) for part in parts]
    assert rows["wide_cross"].tolist() == wide


def test_a_joint_vocabulary_counts_every_feature_of_its_table(
    rows: pd.DataFrame, raw: pd.DataFrame, prepared: Prepared
) -> None:
    train = (rows["split"] == "train").to_numpy()
    counts = pd.concat([raw["home"][train], raw["away"][train]]).value_counts()
    order = [value for value in sorted(counts.index, key=lambda v: (-counts[v], v)) if counts[value] >= 3]
    vocabulary = read_vocabulary(prepared.path, "away")
    assert vocabulary["value"].tolist() == order
    assert vocabulary["count"].tolist() == counts[order].tolist()
    assert order[0] == "Sparta"  # the most frequent of both columns, not of `home`
    ids = {value: 2 + place for place, value in enumerate(order)}
    for name in ("home", "away"):
        assert rows[name].tolist() == [ids.get(value, 1) for value in raw[name]]


def test_ids_without_ops_are_used_as_they_are(
    rows: pd.DataFrame, raw: pd.DataFrame, prepared: Prepared
) -> None:
    assert rows["small_id"].tolist() == raw["small_id"].tolist()
    feature = next(f for f in prepared.manifest.spec.features if f.name == "small_id")
    assert feature.num_embeddings == raw["small_id"].max() + 1


def test_fill_makes_a_missing_token_a_value(rows: pd.DataFrame, raw: pd.DataFrame) -> None:
    expected = np.where(raw["missing_colour"] == "", 2, 3)  # `none` is the more frequent value
    assert rows["missing_colour"].tolist() == expected.tolist()


def test_fitted_numbers_are_in_the_spec(prepared: Prepared, raw: pd.DataFrame, rows: pd.DataFrame) -> None:
    train = (rows["split"] == "train").to_numpy()
    ops = {f.name: f.ops for f in prepared.manifest.spec.features}
    assert ops["gaps"][0].params["value"] == pytest.approx(raw["gaps"][train].mean(), abs=1e-6)
    assert set(ops["gaps"][1].params) == {"mean", "std"}
    assert ops["zero_gaps"][0].params == {"value": 0.0}


def test_statistics_describe_the_training_rows(
    prepared: Prepared, raw: pd.DataFrame, rows: pd.DataFrame
) -> None:
    train = (rows["split"] == "train").to_numpy()
    found = prepared.manifest.statistics
    assert found["zero_gaps"].null_share == pytest.approx(raw["zero_gaps"][train].isna().mean())
    assert found["x"].mean == pytest.approx(raw["x"][train].mean(), rel=1e-6)
    assert found["x"].min == pytest.approx(raw["x"][train].min(), rel=1e-6)
    lengths = [len([t for t in text.split("|") if t]) for text in raw["genres"][train]]
    assert found["genres"].mean_length == pytest.approx(np.mean(lengths))
    assert found["genres"].null_share == pytest.approx(np.mean(np.array(lengths) == 0))
    assert found["colour"].null_share == pytest.approx((raw["colour"][train] == "").mean())
    positives = {s: int(raw["label"][rows["split"] == s].sum()) for s in ("train", "valid", "test")}
    assert {name: split.positives for name, split in prepared.manifest.splits.items()} == positives


@pytest.mark.parametrize(
    ("kind", "group", "words"),
    [
        ("sparse", {"cross": ["a", "b"], "ops": "lower"}, ["no ids", "features.sparse.0.ops"]),
        ("sparse", {"cross": ["a", "b"]}, ["no ids"]),
        ("sequence", {"cross": ["a", "b"], "ops": "vocabulary"}, ["a cross is a sparse feature"]),
        ("sparse", {"cross": ["a", "gone"], "ops": "vocabulary"}, ["gone", "features.sparse.0.cross"]),
        ("sparse", {"cross": ["a", "tags"], "ops": "vocabulary"}, ["'tags' holds lists"]),
        ("sparse", {"cross": ["a", "label"], "ops": "vocabulary"}, ["the label cannot be part"]),
        ("sparse", {"columns": "tags", "ops": "words"}, ["'tags' holds lists already"]),
        ("sequence", {"columns": "a", "ops": "vocabulary"}, ["a sequence needs a list"]),
    ],
)
def test_features_that_the_columns_cannot_make_are_refused(
    spark: SparkSession, kind: str, group: dict[str, Any], words: list[str]
) -> None:
    frame = spark.createDataFrame([], "label int, a string, b int, tags array<string>")
    run = make_run(**{kind: [{"name": "made", **group}]})
    with pytest.raises(UserError) as error:
        plan_features(run, frame)
    assert [word for word in words if word not in str(error.value)] == []


def test_times_outside_the_calendar_are_refused_in_sparse_features_too(
    spark: SparkSession, tmp_path: Path
) -> None:
    rows = [(1, 1616893200, "2024-01-01"), (0, 1616893200500, "soon"), (1, None, None)]
    frame = spark.createDataFrame(rows, "label int, t bigint, text string")
    sparse = [
        {"columns": "t", "ops": ["hour", {"hash": 30}]},
        {"columns": "text", "ops": ["hour", {"hash": 30}]},
    ]
    with pytest.raises(DataError) as error:
        prepare_dataset(make_run(sparse=sparse), tmp_path / "data", frame=frame, spark=spark)
    words = [
        "'t' has 1 value(s) that `hour` cannot take",
        "1616893200500",
        "milliseconds",
        "'text'",
        "no times",
    ]
    assert [word for word in words if word not in str(error.value)] == []


def test_the_report_names_every_feature(prepared: Prepared) -> None:
    text = (prepared.path / "report.txt").read_text()
    assert text == prepared.report_text
    assert all(f.name in text for f in prepared.manifest.spec.features)
