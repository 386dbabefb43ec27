"""Rows of a later day join a data set; old ids, parts and numbers stay."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.preparation import vocabulary
from jobs.preparation.appending import Mode, append_rows
from jobs.preparation.pipeline import Prepared, prepare_dataset
from tests.spark.prepared import make_run, read_all, read_vocabulary
from trainer.config import RunConfig
from trainer.errors import ConfigError, DataError
from trainer.schema import Manifest

ROWS = 300
SPLIT = {"fractions": [0.7, 0.15, 0.15]}


def run_of(**data: Any) -> RunConfig:
    return make_run(
        data={"keep": ["row"], "split": SPLIT, **data},
        dense=[{"columns": "x", "ops": [{"fill": "mean"}, "standardise"]}],
        sparse=[
            {"columns": "item", "ops": [{"vocabulary": {"min_count": 2}}]},
            {"columns": "few", "ops": [{"vocabulary": {"max_size": 3}}]},
            {"columns": "related", "table": "item"},
            {"columns": "raw_id"},
        ],
    )


def day(number: int) -> pd.DataFrame:
    """Return a day's rows; each day brings items of its own."""
    random = np.random.default_rng(number)
    item = random.zipf(1.4, ROWS).clip(max=30) + 7 * number
    return pd.DataFrame(
        {
            "row": np.arange(ROWS) + number * ROWS,
            "label": random.integers(0, 2, ROWS),
            "x": np.where(random.random(ROWS) < 0.1, np.nan, random.normal(number, 2, ROWS)),
            "item": item,
            "few": random.choice(["a", "b", "c", "d"] if number else ["a", "b"], ROWS),
            "related": [[int(i), int(i) + 1] for i in item],
            "raw_id": random.integers(0, 5 + number, ROWS),
        }
    )


@pytest.fixture(scope="module")
def frames() -> list[pd.DataFrame]:
    return [day(0), day(1), day(2)]


def prepared(spark: SparkSession, frame: pd.DataFrame, out: Path, **data: Any) -> Prepared:
    return prepare_dataset(run_of(**data), out, frame=spark.createDataFrame(frame), spark=spark)


def append(spark: SparkSession, frame: pd.DataFrame, out: Path, mode: Mode, **data: Any) -> Prepared:
    return append_rows(run_of(**data), out, mode, frame=spark.createDataFrame(frame), spark=spark)


def ranked(values: pd.Series, min_count: int, first: int, known: dict[str, int]) -> dict[str, int]:
    counts = Counter(values.astype(str))
    new = sorted(
        (v for v, n in counts.items() if n >= min_count and v not in known), key=lambda v: (-counts[v], v)
    )
    return {**known, **{value: number for number, value in enumerate(new, start=first)}}


def files(folder: Path) -> dict[str, int]:
    """Return the inode of each part, by path."""
    return {str(p.relative_to(folder)): p.stat().st_ino for p in sorted(folder.rglob("*.parquet"))}


@pytest.fixture(scope="module")
def grown(
    spark: SparkSession, frames: list[pd.DataFrame], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Prepared, dict[str, int], Manifest, dict[str, int], Path]:
    """Return two days grown, with the vocabulary, manifest and files of the first."""
    out = tmp_path_factory.mktemp("append") / "data"
    first = prepared(spark, frames[0], out)
    before = read_vocabulary(out, "item").set_index("value")["id"].to_dict()
    old_files = files(out)
    return append(spark, frames[1], out, "grow"), before, first.manifest, old_files, out


def test_new_values_follow_the_old_ones(grown: Any, frames: list[pd.DataFrame]) -> None:
    _, before, _, _, out = grown
    rows = read_all(out, "row")
    assert rows.index.tolist() == list(range(2 * ROWS))
    train = (rows["split"] == "train").to_numpy()
    new_train = frames[1]["item"][train[ROWS:]]
    ids = ranked(new_train, 2, 2 + len(before), before)
    assert len(ids) > len(before) + 5
    assert read_vocabulary(out, "item").set_index("value")["id"].to_dict() == ids
    both = pd.concat(frames[:2])
    # Values that the first day lacked stay out of vocabulary there: its parts are not written again.
    old, new = rows["item"].tolist()[:ROWS], rows["item"].tolist()[ROWS:]
    assert old == [before.get(str(v), 1) for v in both["item"][:ROWS]]
    assert new == [ids.get(str(v), 1) for v in both["item"][ROWS:]]
    assert [list(r) for r in rows["related"][ROWS:]] == [
        [ids.get(str(v), 1) for v in pair] for pair in frames[1]["related"]
    ]
    few = read_vocabulary(out, "few")
    assert sorted(few["id"]) == [2, 3, 4]  # max_size 3: one value more found room
    assert set(few["value"][:2]) == {"a", "b"}


def test_old_parts_and_fitted_numbers_stay(grown: Any, frames: list[pd.DataFrame]) -> None:
    result, _, first, old_files, out = grown
    manifest = result.manifest
    now = files(out)
    assert {name: now[name] for name in old_files} == old_files
    assert len(now) > len(old_files)
    ops = {f.name: f.ops for f in first.spec.features}
    assert {f.name: f.ops for f in manifest.spec.features} == ops
    mean, std = ops["x"][1].params["mean"], ops["x"][1].params["std"]
    filled = frames[1]["x"].fillna(ops["x"][0].params["value"])
    rows = read_all(out, "row")
    np.testing.assert_allclose(rows["x"][ROWS:], (filled - mean) / std, atol=1e-5)
    assert sum(split.rows for split in manifest.splits.values()) == 2 * ROWS
    for name, split in manifest.splits.items():
        assert split.files[: len(first.splits[name].files)] == first.splits[name].files
        assert split.positives == int(rows["label"][rows["split"] == name].sum())


def test_the_manifest_tells_of_both_days(grown: Any, frames: list[pd.DataFrame]) -> None:
    result, _, first, _, out = grown
    manifest = Manifest.load(out)
    assert manifest == result.manifest
    (added,) = manifest.appended
    assert added.mode == "grow"
    assert sum(added.rows.values()) == ROWS
    features = {f.name: f for f in manifest.spec.features}
    stored = read_vocabulary(out, "item")
    assert features["item"].num_embeddings == features["related"].num_embeddings == 2 + len(stored)
    assert features["raw_id"].num_embeddings == 6
    assert manifest.spec.hash != first.spec.hash
    rows = read_all(out, "row")
    train = (rows["split"] == "train").to_numpy()
    both = pd.concat(frames[:2])["x"][train]
    assert manifest.statistics["x"].null_share == pytest.approx(both.isna().mean(), abs=1 / len(both))


def test_frozen_applies_the_stored_spec(
    spark: SparkSession, frames: list[pd.DataFrame], tmp_path: Path
) -> None:
    out = tmp_path / "data"
    first = prepared(spark, frames[0], out)
    ids = read_vocabulary(out, "item").set_index("value")["id"].to_dict()
    new = frames[1].assign(raw_id=0)
    result = append(spark, new, out, "frozen")
    assert result.manifest.spec == first.manifest.spec
    rows = read_all(out, "row")
    assert rows["item"].tolist()[ROWS:] == [ids.get(str(v), 1) for v in new["item"]]
    assert (rows["item"][ROWS:] == 1).any()
    with pytest.raises(DataError, match="the same rows are in the data set already"):
        append(spark, new, out, "frozen")
    with pytest.raises(DataError, match="the same rows are in the data set already"):
        append(spark, frames[0], out, "grow")
    with pytest.raises(DataError, match="'raw_id' needs ids from 0 to 4"):
        append(spark, frames[2].assign(raw_id=9), out, "frozen")
    assert Manifest.load(out) == result.manifest
    assert len(read_all(out, "row")) == 2 * ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_a_day_alone_cannot_give_is_refused(
    spark: SparkSession, frames: list[pd.DataFrame], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="not a data set"):
        append(spark, frames[1], tmp_path / "nothing", "grow")
    out = tmp_path / "data"
    unique = {"clean": {"deduplicate": {"by": ["row"]}}}
    prepared(spark, frames[0], out, **unique)
    with pytest.raises(ConfigError) as error:
        append(spark, frames[1], out, "grow", split={"fractions": [0.5, 0.25, 0.25]}, **unique)
    assert "data.split.fractions" in str(error.value)
    with pytest.raises(ConfigError, match=r"data\.clean\.deduplicate"):
        append(spark, frames[1], out, "grow", **unique)


def test_the_same_rows_give_the_same_data_set(
    spark: SparkSession, frames: list[pd.DataFrame], tmp_path: Path
) -> None:
    first = prepared(spark, frames[0], tmp_path / "a")
    mixed = frames[0].sample(frac=1.0, random_state=3)
    again = prepare_dataset(
        run_of(), tmp_path / "b", frame=spark.createDataFrame(mixed).repartition(7), spark=spark
    )
    sizes = {"bytes"}  # parts are written by whichever task: the same rows, perhaps compressed apart
    without = lambda m: [  # noqa: E731
        (n, s.rows, s.positives, [p.model_dump(exclude=sizes) for p in s.files]) for n, s in m.splits.items()
    ]
    assert again.manifest.spec == first.manifest.spec
    assert without(again.manifest) == without(first.manifest)
    assert again.manifest.fingerprint == first.manifest.fingerprint
    pd.testing.assert_frame_equal(read_all(tmp_path / "a", "row"), read_all(tmp_path / "b", "row"))


def test_vocabularies_of_many_parts_grow_as_those_of_one(
    spark: SparkSession,
    frames: list[pd.DataFrame],
    grown: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vocabulary, "_VALUES_PER_PARTITION", 7)
    monkeypatch.setattr(vocabulary, "_COUNTS_PER_TASK", 1)
    whole, out = grown[-1], tmp_path / "data"
    prepared(spark, frames[0], out)
    append(spark, frames[1], out, "grow")
    assert len(list((out / "vocabulary" / "item").glob("*.parquet"))) > 2
    for table in ("item", "few"):
        pd.testing.assert_frame_equal(read_vocabulary(out, table), read_vocabulary(whole, table))
    assert Manifest.load(out).spec == Manifest.load(whole).spec
    # Frequent values are taken from the first parts.
    stored = pd.read_parquet(out / "vocabulary" / "item", columns=["id"])["id"].tolist()
    assert stored == sorted(stored)


def test_a_day_is_added_where_an_earlier_part_had_no_rows(
    spark: SparkSession, frames: list[pd.DataFrame], tmp_path: Path
) -> None:
    out = tmp_path / "data"
    first = prepared(spark, frames[0], out, rows_per_file=40)
    train = first.manifest.splits["train"]
    hole = train.files[1]
    kept = [file for file in train.files if file != hole]
    splits = {
        **first.manifest.splits,
        "train": train.model_copy(update={"files": tuple(kept), "rows": train.rows - hole.rows}),
    }
    (out / hole.path).unlink()
    first.manifest.model_copy(update={"splits": splits}).save(out)
    added = append(spark, frames[1], out, "grow", rows_per_file=40)
    assert sum(added.rows.values()) == 2 * ROWS - hole.rows
    assert {file.path for file in kept} < {file.path for file in added.manifest.splits["train"].files}
