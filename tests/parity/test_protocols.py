"""The published protocols of NCF and SASRec on MovieLens-1M: what is prepared equals the authors' files."""

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
    lines["line"] = np.arange(len(lines))
    from_end = lines.groupby("user_id").cumcount(ascending=False)
    assert lines.groupby("user_id").size().min() >= 3  # none is too short for the protocol
    run = RunConfig.load(
        CONFIGS / "sasrec_movielens_1m.yaml",
        [
            f"data.root={published.parent}",
            "data.negatives.train=null",
            "data.negatives.evaluation.per_positive=5",
            "features.sequence.0.history.max_length=10",
        ],
    )
    prepared = prepare_dataset(run, tmp_path / "data", spark=spark)

    assert prepared.rows == {"train": len(lines) - 2 * 6_040, "valid": 6_040 * 6, "test": 6_040 * 6}
    columns = ["keep.user_id", "keep.item_id", "keep.line", "label", "seen"]
    places = {"train": from_end >= 2, "valid": from_end == 1, "test": from_end == 0}
    found = {split: split_of(prepared.path, split, columns) for split in places}
    for split, place in places.items():
        positives = found[split][found[split]["label"] == 1]
        ordered = positives.sort_values("line")[[*PAIR, "line"]].reset_index(drop=True)
        pd.testing.assert_frame_equal(ordered, lines[place].reset_index(drop=True))

    known = set(zip(lines["user_id"], lines["item_id"], strict=True))
    vocabulary = ds.dataset(prepared.path / "vocabulary" / "item_id").to_table().to_pandas()
    numbers = dict(zip(vocabulary["value"].astype(int), vocabulary["id"], strict=True))
    history = lines.groupby("user_id")["item_id"].agg(list)
    for split, last in (("valid", 2), ("test", 1)):
        rows = found[split]
        drawn = rows[rows["label"] == 0]
        assert known.isdisjoint(zip(drawn["user_id"], drawn["item_id"], strict=True))
        assert not drawn.duplicated(PAIR).any()
        for user, seen in zip(rows["user_id"], rows["seen"], strict=True):
            before = history[user][-last - 10 : -last]
            assert list(seen) == [numbers.get(item, 1) for item in before[-10:]]
