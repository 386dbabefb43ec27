"""Real data sets, counted again with pandas."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.pipeline import Prepared, prepare_dataset
from tests.spark.prepared import make_run, read_all, read_split, read_vocabulary

INTEGERS = [f"I{i}" for i in range(1, 14)]
CATEGORIES = [f"C{i}" for i in range(1, 27)]
COLUMNS = ["label", *INTEGERS, *CATEGORIES]


@pytest.fixture(scope="module")
def criteo(spark: SparkSession, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    run = make_run(
        name="criteo",
        data={
            "root": str(shared_data / "criteo-10k"),
            "source": {
                "path": "train_examples.txt",
                "format": "tsv",
                "columns": ["label", *INTEGERS, *CATEGORIES],
            },
            "keep": [*INTEGERS, *CATEGORIES],
        },
        dense=[{"columns": "I*", "ops": [{"fill": 0}, {"clip": {"min": 0}}, "log1p"]}],
        sparse=[{"columns": "C*", "ops": [{"vocabulary": {"min_count": 2}}]}],
    )
    return prepare_dataset(run, tmp_path_factory.mktemp("criteo") / "data", spark=spark)


@pytest.fixture(scope="module")
def criteo_raw(shared_data: Path) -> pd.DataFrame:
    path = shared_data / "criteo-10k" / "train_examples.txt"
    return pd.read_csv(path, sep="\t", header=None, dtype=str, quoting=csv.QUOTE_NONE, names=COLUMNS)


def test_criteo_rows_and_positives(criteo: Prepared, criteo_raw: pd.DataFrame) -> None:
    assert sum(criteo.rows.values()) == len(criteo_raw) == 10_000
    positives = sum(split.positives for split in criteo.manifest.splits.values())
    assert positives == int(criteo_raw["label"].astype(int).sum())


def test_criteo_ids_and_numbers_follow_from_the_raw_columns(criteo: Prepared) -> None:
    splits = {name: read_split(criteo.path, name) for name in ("train", "valid", "test")}
    train, others = splits["train"], pd.concat([splits["valid"], splits["test"]])
    for name in CATEGORIES:
        counts = Counter(train[f"keep.{name}"].dropna())
        ranked = sorted((v for v, n in counts.items() if n >= 2), key=lambda v: (-counts[v], v))
        ids = {value: number for number, value in enumerate(ranked, start=2)}
        assert dict(read_vocabulary(criteo.path, name)[["value", "id"]].to_numpy().tolist()) == ids
        for frame in splits.values():
            expected = frame[f"keep.{name}"].map(lambda v, ids=ids: 0 if pd.isna(v) else ids.get(v, 1))
            assert frame[name].tolist() == expected.tolist()
        found = criteo.manifest.statistics[name]
        assert found.ids == len(ids)
        assert found.null_share == pytest.approx(train[f"keep.{name}"].isna().mean())
        assert found.oov_share == pytest.approx((others[name] == 1).sum() / (others[name] != 0).sum())
    for name in INTEGERS:
        raw = train[f"keep.{name}"].astype(float)
        np.testing.assert_allclose(train[name], np.log1p(raw.fillna(0).clip(lower=0)), rtol=1e-6)
        assert criteo.manifest.statistics[name].null_share == pytest.approx(raw.isna().mean())


@pytest.mark.slow
def test_movielens_1m_counts(spark: SparkSession, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "ml-1m"
    ratings = {"format": "csv", "delimiter": "::", "encoding": "ISO-8859-1"}
    run = make_run(
        name="ml-1m",
        data={
            "root": str(folder),
            "source": {"path": "ratings_no_timestamp.dat", **ratings, "columns": ["user", "movie", "rating"]},
            "joins": [
                {
                    "source": {
                        "path": "users.dat", **ratings,
                        "columns": ["user", "gender", "age", "occupation", "zip"],
                    },
                    "on": ["user"],
                },
                {
                    "source": {"path": "movies.dat", **ratings, "columns": ["movie", "title", "genres"]},
                    "on": ["movie"],
                },
            ],
            "label": {"column": "rating", "positive_at_least": 4},
            "keep": ["user", "movie", "genres"],
        },
        sparse=[
            {"columns": ["user", "movie", "gender", "age", "occupation"], "ops": "vocabulary"},
            {"columns": "genres", "ops": [{"split": "|"}, "vocabulary"]},
        ],
    )  # fmt: skip
    prepared = prepare_dataset(run, tmp_path / "data", spark=spark)
    raw = pd.read_csv(
        folder / "ratings_no_timestamp.dat",
        sep="::",
        engine="python",
        header=None,
        names=["user", "movie", "rating"],
    )
    assert sum(prepared.rows.values()) == len(raw) == 1_000_209
    assert sum(s.positives for s in prepared.manifest.splits.values()) == int((raw["rating"] >= 4).sum())
    train = read_split(prepared.path, "train")
    assert prepared.manifest.statistics["user"].ids == train["keep.user"].nunique()
    assert prepared.manifest.statistics["movie"].ids == train["keep.movie"].nunique()
    genres = train["keep.genres"].str.split("|")
    assert prepared.manifest.statistics["genres"].mean_length == pytest.approx(genres.str.len().mean())
    names = read_vocabulary(prepared.path, "genres").set_index("id")["value"]
    sample = train.head(500)
    assert [[names[i] for i in ids] for ids in sample["genres"]] == genres.head(500).tolist()


def test_movielens_100k_histories(spark: SparkSession, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "ml-100k"
    run = make_run(
        name="ml-100k",
        data={
            "root": str(folder),
            "source": {"path": "MovieLens100k_data.parquet.brotli"},
            "joins": [{"source": {"path": "MovieLens100k_users.parquet.brotli"}, "on": ["user_id"]}],
            "label": {"column": "rating", "positive_at_least": 4},
            "keep": ["user_id", "movie_id", "timestamp"],
            "split": {"method": "time", "column": "timestamp"},
        },
        dense=[{"columns": "age", "ops": "standardise"}],
        sparse=[{"columns": ["user_id", "movie_id", "occupation"], "ops": "vocabulary"}],
        sequence=[
            {
                "name": "liked",
                "history": {
                    "user": "user_id", "item": "movie_id", "time": "timestamp", "max_length": 20,
                    "where": "rating >= 4",
                },
                "table": "movie_id",
            }
        ],
    )  # fmt: skip
    prepared = prepare_dataset(run, tmp_path / "data", spark=spark)
    raw = pd.read_parquet(folder / "MovieLens100k_data.parquet.brotli").sort_values(
        "timestamp", kind="stable"
    )
    rows = read_all(prepared.path, "timestamp")
    splits = {name: rows.index[rows["split"] == name] for name in ("train", "valid", "test")}
    assert splits["train"].max() < splits["valid"].min()
    assert splits["valid"].max() < splits["test"].min()
    assert [len(found) for found in splits.values()] == pytest.approx([80_000, 10_000, 10_000], abs=50)
    ids = read_vocabulary(prepared.path, "movie_id").set_index("value")["id"].to_dict()
    liked = dict(iter(raw[raw["rating"] >= 4].groupby("user_id")))
    sample = rows.reset_index().iloc[:: len(rows) // 300]
    for user, time, found in zip(
        sample["keep.user_id"], sample["keep.timestamp"], sample["liked"], strict=True
    ):
        events = liked[user] if user in liked else raw.head(0)
        earlier = events[events["timestamp"] < time].tail(20)
        # Ratings of one second have no order of their own, so the lists are compared as multisets.
        if len(earlier) < 20:
            assert Counter(found) == Counter(ids.get(str(m), 1) for m in earlier["movie_id"])
        assert len(found) == len(earlier)
