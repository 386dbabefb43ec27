"""Vocabularies: order, unseen and missing values, limits, sharing, and the paths for large ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.preparation import joined_ids, vocabulary
from jobs.preparation.pipeline import Prepared, prepare_dataset
from tests.spark.prepared import make_run, read_all, read_vocabulary

ROWS = 600
SPARSE = [
    {"columns": "item", "ops": "vocabulary"},
    {"columns": "item_twice", "ops": [{"vocabulary": {"min_count": 5, "max_size": 8}}]},
    {"columns": "tags", "ops": [{"split": ", "}, "vocabulary"]},
    {"columns": "related", "table": "item"},
    {"columns": "empty", "ops": "vocabulary"},
    {"columns": "maybe", "ops": "vocabulary"},
]


@pytest.fixture(scope="module")
def raw() -> pd.DataFrame:
    random = np.random.default_rng(1)
    item = random.zipf(1.3, ROWS).clip(max=400)
    tags = [", ".join(random.choice(["x", "y", "z", "w"], random.integers(0, 4))) for _ in range(ROWS)]
    return pd.DataFrame(
        {
            "row": np.arange(ROWS),
            "label": random.integers(0, 2, ROWS),
            "item": item,
            "item_twice": item,
            "tags": tags,
            "related": [[int(i), int(i) + 1] for i in item],
            "empty": [""] * ROWS,
            "maybe": np.where(np.arange(ROWS) % 5 == 0, np.nan, item),
        }
    )


def prepare(spark: SparkSession, raw: pd.DataFrame, out: Path) -> Prepared:
    run = make_run(data={"keep": ["row"]}, sparse=SPARSE)
    return prepare_dataset(run, out, frame=spark.createDataFrame(raw), spark=spark)


@pytest.fixture(scope="module")
def prepared(spark: SparkSession, raw: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(spark, raw, tmp_path_factory.mktemp("vocabulary") / "data")


def ids_of(values: list[str], min_count: int = 1, max_size: int | None = None) -> dict[str, int]:
    """Number values from 2, most frequent first, ties by value: the rule, written on its own."""
    ranked = sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0].encode()))
    kept = [value for value, count in ranked if count >= min_count][:max_size]
    return {value: number for number, value in enumerate(kept, start=2)}


def test_ids_follow_frequency_then_value(prepared: Prepared, raw: pd.DataFrame) -> None:
    rows = read_all(prepared.path, "row")
    train = (rows["split"] == "train").to_numpy()
    expected = ids_of(raw["item"][train].astype(str).tolist())
    stored = read_vocabulary(prepared.path, "item")
    assert dict(zip(stored["value"], stored["id"], strict=True)) == expected
    assert stored["count"].tolist() == sorted(stored["count"], reverse=True)
    assert rows["item"].tolist() == [expected.get(str(v), 1) for v in raw["item"]]
    assert (rows["item"][~train] == 1).any()  # some values are unseen, so the rule was put to the test
    assert (rows["item"][train] != 1).all()


def test_rare_values_and_those_beyond_max_size_are_unseen(prepared: Prepared, raw: pd.DataFrame) -> None:
    rows = read_all(prepared.path, "row")
    train = (rows["split"] == "train").to_numpy()
    expected = ids_of(raw["item"][train].astype(str).tolist(), min_count=5, max_size=8)
    assert rows["item_twice"].tolist() == [expected.get(str(v), 1) for v in raw["item"]]
    feature = next(f for f in prepared.manifest.spec.features if f.name == "item_twice")
    assert feature.num_embeddings == 2 + len(expected)


def test_lists_are_numbered_item_by_item(prepared: Prepared, raw: pd.DataFrame) -> None:
    rows = read_all(prepared.path, "row")
    train = (rows["split"] == "train").to_numpy()
    tokens = [[t for t in text.split(", ") if t] for text in raw["tags"]]
    expected = ids_of([t for keep, row in zip(train, tokens, strict=True) if keep for t in row])
    assert [list(ids) for ids in rows["tags"]] == [[expected[t] for t in row] for row in tokens]


def test_a_shared_table_uses_its_owners_numbers(prepared: Prepared, raw: pd.DataFrame) -> None:
    rows = read_all(prepared.path, "row")
    stored = read_vocabulary(prepared.path, "item").set_index("value")["id"]
    assert [list(ids) for ids in rows["related"]] == [
        [int(stored.get(str(v), 1)) for v in pair] for pair in raw["related"]
    ]
    features = {f.name: f for f in prepared.manifest.spec.features}
    assert features["related"].table == "item"
    assert features["related"].num_embeddings == features["item"].num_embeddings
    assert features["related"].vocabulary == features["item"].vocabulary


def test_missing_values_are_zero_and_do_not_turn_integers_into_floats(
    prepared: Prepared, raw: pd.DataFrame
) -> None:
    rows = read_all(prepared.path, "row")
    assert ((rows["maybe"] == 0) == raw["maybe"].isna().to_numpy()).all()
    assert not any("." in value for value in read_vocabulary(prepared.path, "maybe")["value"])


def test_a_column_without_any_value_gets_an_empty_vocabulary(prepared: Prepared) -> None:
    assert len(read_vocabulary(prepared.path, "empty")) == 0
    assert (read_all(prepared.path, "row")["empty"] == 0).all()
    feature = next(f for f in prepared.manifest.spec.features if f.name == "empty")
    assert feature.num_embeddings == 2


def test_oov_shares_count_ids_outside_the_vocabulary(prepared: Prepared) -> None:
    rows = read_all(prepared.path, "row")
    others = rows[rows["split"] != "train"]
    assert prepared.manifest.statistics["item"].oov_share == pytest.approx((others["item"] == 1).mean())
    seen = others["maybe"][others["maybe"] != 0]
    assert prepared.manifest.statistics["maybe"].oov_share == pytest.approx((seen == 1).mean())
    train = rows["item_twice"][rows["split"] == "train"]  # `min_count` and `max_size` keep values out
    assert (train == 1).any()
    assert prepared.manifest.statistics["item_twice"].train_oov_share == pytest.approx((train == 1).mean())
    assert prepared.manifest.statistics["item"].train_oov_share == 0
    line = next(line for line in prepared.report_text.splitlines() if line.startswith("item_twice"))
    assert f"{100 * (train == 1).mean():.2f} %" in line
    assert "saw fewer than min_count times" in prepared.report_text


@pytest.mark.parametrize("hot_values", [3, 1_000])
def test_large_vocabularies_take_other_joins_and_sorts_but_give_the_same_data(
    spark: SparkSession,
    raw: pd.DataFrame,
    prepared: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hot_values: int,
) -> None:
    monkeypatch.setattr(joined_ids, "HELD_BYTES", 0)
    monkeypatch.setattr(joined_ids, "_HOT_VALUES", hot_values)
    monkeypatch.setattr(vocabulary, "_VALUES_PER_PARTITION", 7)
    monkeypatch.setattr(vocabulary, "_COUNTS_PER_TASK", 5)
    again = prepare(spark, raw, tmp_path / "data")
    assert again.manifest.spec == prepared.manifest.spec
    pd.testing.assert_frame_equal(read_all(again.path, "row"), read_all(prepared.path, "row"))


def test_another_vocabulary_has_another_digest(
    spark: SparkSession, raw: pd.DataFrame, tmp_path: Path
) -> None:
    run = make_run(data={"keep": ["row"]}, sparse=[{"columns": "item", "ops": "vocabulary"}])
    first = prepare_dataset(run, tmp_path / "a", frame=spark.createDataFrame(raw), spark=spark)
    renamed = raw.assign(item=raw["item"].replace(1, 1000))
    second = prepare_dataset(run, tmp_path / "b", frame=spark.createDataFrame(renamed), spark=spark)
    assert first.manifest.spec.hash != second.manifest.spec.hash
    assert any("vocabulary_hash" in line for line in first.manifest.spec.differences(second.manifest.spec))
