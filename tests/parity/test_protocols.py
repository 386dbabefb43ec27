"""The published protocols of NCF, SASRec and Mult-VAE on MovieLens-1M, against the authors' files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.pipeline import prepare_dataset
from tests.spark.conftest import REPOSITORY
from trainer.config import RunConfig

pytestmark = pytest.mark.slow
CONFIGS = REPOSITORY / "jobs" / "configs"
PAIR = ["user_id", "item_id"]


def split_of(dataset: Path, split: str, columns: list[str]) -> pd.DataFrame:
    """Return columns of a split, the kept ones as integers under their raw names."""
    table = ds.dataset(dataset / split).to_table(columns=columns)
    found = table.to_pandas()
    kept = [name for name in columns if name.startswith("keep.") and name != "keep.negatives.group"]
    found[kept] = found[kept].astype(np.int64)
    return found.rename(columns=lambda name: name.removeprefix("keep."))


def pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs of user and item in a fixed order, each as often as it comes."""
    return frame[PAIR].astype(np.int64).sort_values(PAIR).reset_index(drop=True)


def numbers_of(dataset: Path, feature: str) -> dict[int, int]:
    """Return the id of each raw item."""
    vocabulary = ds.dataset(dataset / "vocabulary" / feature).to_table().to_pandas()
    return dict(zip(vocabulary["value"].astype(int), vocabulary["id"], strict=True))


def test_ncf(spark: SparkSession, shared_data: Path, tmp_path: Path) -> None:
    published = shared_data / "ncf-ml-1m"
    if not published.is_dir():
        pytest.skip(f"NCF's files are not here: {published}")
    train = pd.read_csv(published / "ml-1m.train.user_item_rating.tsv", sep="\t", names=[*PAIR, "rating"])
    test = pd.read_csv(published / "ml-1m.test.rating", sep="\t", names=[*PAIR, "rating", "timestamp"])
    raw = tmp_path / "raw"
    raw.mkdir()
    # The training file as published has a fourth column with the times, which this copy of it lacks.
    train.assign(timestamp=0).to_csv(raw / "ml-1m.train.rating", sep="\t", header=False, index=False)
    for name in ("ml-1m.test.rating", "ml-1m.test.negative"):
        shutil.copy(published / name, raw)
    run = RunConfig.load(CONFIGS / "ncf_movielens_1m.yaml", [f"data.root={raw}", "data.negatives.train=null"])
    prepared = prepare_dataset(run, tmp_path / "data", spark=spark)

    assert prepared.rows == {"train": 994_169, "valid": 0, "test": 6_040 * 100}
    found = split_of(prepared.path, "train", ["keep.user_id", "keep.item_id", "label"])
    assert (found["label"] == 1).all()
    pd.testing.assert_frame_equal(pairs(found), pairs(train))

    found = split_of(prepared.path, "test", ["keep.user_id", "keep.item_id", "label", "keep.negatives.group"])
    positives, negatives = found[found["label"] == 1], found[found["label"] == 0]
    pd.testing.assert_frame_equal(pairs(positives), pairs(test))
    lists = negatives.groupby("user_id")["item_id"].agg(sorted)
    wanted = {}
    for line in (published / "ml-1m.test.negative").read_text(encoding="utf-8").splitlines():
        pair, *items = line.split("\t")
        user, item = map(int, pair.strip("()").split(","))
        wanted[user] = (item, sorted(map(int, items)))
    assert lists.to_dict() == {user: items for user, (_, items) in wanted.items()}
    assert dict(zip(positives["user_id"], positives["item_id"], strict=True)) == {
        user: item for user, (item, _) in wanted.items()
    }
    same = negatives["item_id"] == negatives["user_id"].map(positives.set_index("user_id")["item_id"])
    assert same.sum() == 156  # as published
    groups = found.groupby("negatives.group")
    assert groups.ngroups == 6_040
    assert (groups.size() == 100).all()
    assert (groups["user_id"].nunique() == 1).all()


def test_sasrec(spark: SparkSession, shared_data: Path, tmp_path: Path) -> None:
    published = shared_data / "sasrec" / "ml-1m.txt"
    if not published.exists():
        pytest.skip(f"SASRec's file is not here: {published}")
    lines = pd.read_csv(published, sep=" ", names=PAIR)
    sequences = lines.groupby("user_id")["item_id"].agg(list)
    assert sequences.map(len).min() >= 3  # none is too short for the protocol
    run = RunConfig.load(CONFIGS / "sasrec_movielens_1m.yaml", [f"data.root={published.parent}"])
    prepared = prepare_dataset(run, tmp_path / "data", spark=spark)

    assert prepared.rows == dict.fromkeys(("train", "valid", "test"), 6_040)
    numbers = numbers_of(prepared.path, "seen")
    for split, last in (("train", 3), ("valid", 2), ("test", 1)):
        rows = split_of(prepared.path, split, ["keep.user_id", "seen", "targets"]).set_index("user_id")
        for user, items in sequences.items():
            ids = [numbers.get(item, 1) for item in items]
            assert list(rows.loc[user, "seen"]) == ids[: -2 if split == "train" else -last]
            assert list(rows.loc[user, "targets"]) == ([] if split == "train" else [ids[-last]])


def test_mult_vae(spark: SparkSession, shared_data: Path, tmp_path: Path) -> None:
    published = shared_data / "ml-1m" / "ratings_no_timestamp.dat"
    if not published.exists():
        pytest.skip(f"MovieLens-1M is not here: {published}")
    names = [*PAIR, "rating"]
    ratings = pd.read_csv(published, sep="::", names=names, engine="python")
    liked = ratings[ratings["rating"] >= 4]
    liked = liked[liked.groupby("user_id")["item_id"].transform("size") >= 5]
    overrides = [
        f"data.root={published.parent}",
        # This copy of the file lacks the times, which order the lists and nothing else.
        f"data.source.path={published.name}",
        "data.source.columns=[user_id, movie_id, rating]",
        "data.source.row_number=line",
        "data.user_rows.order_by=line",
    ]
    run = RunConfig.load(CONFIGS / "movielens_1m_mult_vae.yaml", overrides)
    prepared = prepare_dataset(run, tmp_path / "data", spark=spark)

    numbers = numbers_of(prepared.path, "seen")
    items = liked.groupby("user_id")["item_id"].agg(list)
    columns = ["keep.user_id", "seen", "targets"]
    found = {split: split_of(prepared.path, split, columns) for split in ("train", "valid", "test")}
    users = pd.concat([rows["user_id"] for rows in found.values()])
    assert sorted(users) == sorted(items.index)  # each in one split
    for split, share in (("train", 0.8), ("valid", 0.1), ("test", 0.1)):
        assert abs(len(found[split]) / len(items) - share) < 0.02
        for user, seen, targets in found[split].itertuples(index=False):
            ids = [numbers.get(item, 1) for item in items[user]]
            assert sorted([*seen, *targets]) == sorted(ids)
            assert len(targets) == (0 if split == "train" else int(0.2 * len(ids)))
            known = [list(lists[lists > 1]) for lists in (seen, targets)]
            assert set(known[0]).isdisjoint(known[1])
            assert list(seen) == [id for id in ids if id in set(seen)] or 1 in seen
    # What held-out users met trains nothing: ids are those of the training users' items alone.
    trained = items[found["train"]["user_id"]].explode().value_counts()
    vocabulary = ds.dataset(prepared.path / "vocabulary" / "seen").to_table().to_pandas()
    assert dict(zip(vocabulary["value"].astype(int), vocabulary["count"], strict=True)) == trained.to_dict()
