"""Negatives of rows added later: drawn as those of the first rows, none that the user liked before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.appending import Mode, append_rows
from jobs.preparation.earlier_days import EarlierDays
from jobs.preparation.pipeline import Prepared, prepare_dataset
from tests.spark.prepared import make_run, read_split, read_vocabulary
from trainer.config import RunConfig
from trainer.errors import ConfigError, DataError

ROWS, USERS = 240, 25
PER_POSITIVE = {"train": 3, "valid": 5, "test": 5}


def run_of(**negatives: Any) -> RunConfig:
    section = {
        "user": "user",
        "item": "item",
        "train": {"per_positive": 3, "distribution": "popularity"},
        "evaluation": {"per_positive": 5},
        "in_batch": {"log_q": True},
        **negatives,
    }
    return make_run(
        data={
            "keep": ["user", "item", "row"],
            "split": {"fractions": [0.7, 0.15, 0.15]},
            "negatives": section,
        },
        dense=[{"name": "rate", "target_encoding": {"by": "item"}}],
        sparse=[{"columns": "item", "ops": ["vocabulary"]}],
    )


def day(number: int) -> pd.DataFrame:
    """Return a day's rows; of the items each day has twelve that the days before lack."""
    random = np.random.default_rng(number + 20)
    return pd.DataFrame(
        {
            "row": np.arange(ROWS) + number * ROWS,
            "user": random.integers(0, USERS, ROWS),
            "item": ((30 + 12 * number) * random.random(ROWS) ** 2).astype(int),
            "label": (random.random(ROWS) < 0.8).astype(int),
        }
    )


DAYS = [day(0), day(1), day(2)]
BOTH = pd.concat(DAYS[:2])


def append(
    spark: SparkSession,
    out: Path,
    mode: Mode,
    number: int = 1,
    *,
    run: RunConfig | None = None,
    **options: Any,
) -> Prepared:
    before = spark.createDataFrame(pd.concat(DAYS[:number])).repartition(3)
    new = spark.createDataFrame(DAYS[number])
    return append_rows(
        run or run_of(), out, mode, frame=new, spark=spark, earlier=EarlierDays(frame=before), **options
    )


def first_day(spark: SparkSession, out: Path, run: RunConfig | None = None) -> Prepared:
    return prepare_dataset(run or run_of(), out, frame=spark.createDataFrame(DAYS[0]), spark=spark)


def read(folder: Path) -> pd.DataFrame:
    """Return all rows; `negative` where the item is another than in the raw row of that number."""
    parts = [read_split(folder, split).assign(split=split) for split in PER_POSITIVE]
    rows = pd.concat(parts, ignore_index=True).rename(columns={"item": "id"})
    rows.columns = [name.removeprefix("keep.") for name in rows.columns]
    raw = pd.concat(DAYS).set_index("row")["item"]
    return rows.assign(negative=rows["item"] != rows["row"].map(raw))


def ordered(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values(["row", "negative", "item"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def appended(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Prepared, pd.DataFrame, pd.DataFrame]]:
    """Return by mode the data set of two days, its rows, and those of the first day alone."""
    found: dict[str, tuple[Prepared, pd.DataFrame, pd.DataFrame]] = {}
    modes: tuple[Mode, ...] = ("grow", "frozen")
    for mode in modes:
        out = tmp_path_factory.mktemp(mode) / "data"
        first_day(spark, out)
        before = read(out)
        done = append(spark, out, mode)
        found[mode] = done, read(out), before
    return found


def liked(rows: pd.DataFrame, user: int) -> set[int]:
    return set(rows.loc[(rows["user"] == user) & (rows["label"] == 1), "item"])


@pytest.mark.parametrize("mode", ["grow", "frozen"])
def test_new_positives_have_negatives_that_the_user_never_liked(appended: Any, mode: str) -> None:
    _, rows, _ = appended[mode]
    new = rows[rows["row"] >= ROWS]
    own, raw_new = new[~new["negative"]], DAYS[1]
    assert sorted(own["row"]) == raw_new["row"].tolist()
    assert (new.loc[new["negative"], "label"] == 0).all()
    train_rows = set(own.loc[own["split"] == "train", "row"])
    trained = pd.concat([DAYS[0], raw_new[raw_new["row"].isin(train_rows)]])
    catalogue = set(BOTH["item"]) if mode == "grow" else set(DAYS[0]["item"])
    counted = trained if mode == "grow" else DAYS[0]
    popular = set(counted.loc[counted["label"] == 1, "item"])
    for row, group in new.groupby("row"):
        positive = group[~group["negative"]].iloc[0]
        drawn = group.loc[group["negative"], "item"].tolist()
        assert (len(drawn) > 0) == (positive["label"] == 1), row
        if not drawn:
            continue
        user, split = positive["user"], positive["split"]
        assert (group["split"] == split).all()
        assert (group["user"] == user).all()
        assert group["negatives.group"].nunique() == 1
        known = set(BOTH.loc[BOTH["user"] == user, "item"])
        left = popular - liked(trained, user) if split == "train" else catalogue - known
        assert set(drawn) <= left, (row, split)
        assert len(drawn) == len(set(drawn)) == min(PER_POSITIVE[split], len(left))
    assert {"train", "valid", "test"} == set(new.loc[new["negative"], "split"])
    # Items that only the new day has are drawn where they are let in.
    unknown = set(raw_new["item"]) - set(DAYS[0]["item"])
    assert len(unknown) >= 10
    assert bool(unknown & set(new.loc[new["negative"], "item"])) == (mode == "grow")


@pytest.mark.parametrize("mode", ["grow", "frozen"])
def test_old_rows_and_their_negatives_stay(appended: Any, mode: str) -> None:
    done, rows, before = appended[mode]
    pd.testing.assert_frame_equal(ordered(rows[rows["row"] < ROWS]), ordered(before))
    assert done.manifest.appended[0].rows == {
        split: int(((rows["row"] >= ROWS) & (rows["split"] == split)).sum()) for split in PER_POSITIVE
    }


def test_popular_items_are_drawn_more_often(appended: Any) -> None:
    _, rows, _ = appended["grow"]
    trained = rows[(rows["split"] == "train") & ~rows["negative"] & (rows["label"] == 1)]
    counts = trained["item"].value_counts()
    drawn = rows[(rows["row"] >= ROWS) & (rows["split"] == "train") & rows["negative"]]["item"].value_counts()
    half = len(counts) // 2
    assert (
        drawn.reindex(counts.index[:half], fill_value=0).mean()
        > 1.3 * drawn.reindex(counts.index[half:], fill_value=0).mean()
    )


@pytest.mark.parametrize("mode", ["grow", "frozen"])
def test_log_q_grows_with_the_vocabulary_or_stays(appended: Any, mode: str) -> None:
    done, rows, before = appended[mode]
    counted = rows if mode == "grow" else before
    trained = counted[(counted["split"] == "train") & ~counted["negative"] & (counted["label"] == 1)]
    counts = trained["item"].value_counts()
    found = pd.read_parquet(done.path / "item_log_q").astype({"item": int}).set_index("item").sort_index()
    assert found["count"].to_dict() == counts.to_dict()
    ids = read_vocabulary(done.path, "item").astype({"value": int}).set_index("value")["id"]
    assert found["id"].to_dict() == {item: ids.get(item, 1) for item in counts.index}
    known = found[found["id"] > 1]
    np.testing.assert_allclose(
        known["log_q"], np.log(known["count"] / counts.sum()).astype(np.float32), rtol=1e-6
    )


def test_encodings_and_vocabularies_count_no_negatives(appended: Any) -> None:
    done, rows, _ = appended["grow"]
    own = rows[(rows["split"] == "train") & ~rows["negative"]]
    stored = pd.read_parquet(done.path / "encoding" / "rate").astype({"key": int}).set_index("key")
    assert stored["count"].sort_index().to_dict() == own["item"].value_counts().sort_index().to_dict()
    assert stored["sum"].sum() == own["label"].sum()


def test_a_third_day_and_a_named_split(spark: SparkSession, tmp_path: Path) -> None:
    run = run_of(in_batch={"log_q": False})
    first_day(spark, tmp_path / "data", run)
    append(spark, tmp_path / "data", "grow", run=run)
    append(spark, tmp_path / "data", "grow", 2, run=run, into="train")
    rows = read(tmp_path / "data")
    new = rows[rows["row"] >= 2 * ROWS]
    assert set(new["split"]) == {"train"}
    every = pd.concat(DAYS)
    drawn = new[new["negative"]]
    assert len(drawn) == 3 * int(DAYS[2]["label"].sum())
    assert all(
        item not in liked(every, user) for user, item in zip(drawn["user"], drawn["item"], strict=True)
    )


def test_negatives_need_the_old_rows_and_all_of_them(spark: SparkSession, tmp_path: Path) -> None:
    out = tmp_path / "data"
    first_day(spark, out)
    new = spark.createDataFrame(DAYS[1])
    with pytest.raises(ConfigError, match=r"data\.negatives[\s\S]*--history-input"):
        append_rows(run_of(), out, "grow", frame=new, spark=spark)
    some = EarlierDays(frame=spark.createDataFrame(DAYS[0].iloc[:-1]))
    with pytest.raises(DataError, match="not the raw rows that the data set was made of"):
        append_rows(run_of(), out, "grow", frame=new, spark=spark, earlier=some)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_log_q_alone_needs_no_old_rows(spark: SparkSession, tmp_path: Path) -> None:
    run = run_of(train=None, evaluation=None)
    first_day(spark, tmp_path / "data", run)
    new = spark.createDataFrame(DAYS[1])
    done = append_rows(run, tmp_path / "data", "grow", frame=new, spark=spark)
    rows = read(done.path)
    trained = rows[(rows["split"] == "train") & (rows["label"] == 1)]
    found = pd.read_parquet(done.path / "item_log_q").astype({"item": int}).set_index("item")["count"]
    assert found.to_dict() == trained["item"].value_counts().to_dict()
