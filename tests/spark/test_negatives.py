"""Negatives of a prepared data set against pandas: who is left out, what a negative's row holds, and logQ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.preparation.negatives import with_negatives
from jobs.preparation.pipeline import prepare_dataset
from jobs.preparation.row_hashes import with_row_hashes
from jobs.preparation.sources import rows_and_columns
from jobs.preparation.splits import with_split
from tests.spark.prepared import make_run, read_split, read_vocabulary
from trainer.errors import ConfigError, DataError
from trainer.schema import Manifest

ITEMS = 60
SPLIT = {"method": "leave_last", "leave_last": {"user": "user", "time": "time", "test": 2, "valid": 1}}


def events() -> pd.DataFrame:
    """Return 60 users with label 0 and 1; user 0 met all items but three, and item 59 nobody in train."""
    random = np.random.default_rng(0)
    rows = [(0, item, 1) for item in range(ITEMS - 4)] + [(0, ITEMS - 1, 1)]
    for user in range(1, 60):
        seen = np.minimum(random.zipf(1.3, random.integers(2, 15)) - 1, ITEMS - 2)
        rows += [(user, item, int(random.random() < 0.8)) for item in seen]
    frame = pd.DataFrame(rows, columns=["user", "item", "label"])
    frame["time"] = frame.groupby("user").cumcount() * 10
    frame["row"] = np.arange(len(frame))
    frame["device"] = random.choice(["phone", "tv"], len(frame))
    frame["brand"] = "b" + (frame["item"] % 7).astype(str)
    return frame


def prices() -> pd.DataFrame:
    return pd.DataFrame(
        {"item": np.arange(ITEMS), "price": np.arange(ITEMS) * 1.5, "name": [f"i{n}" for n in range(ITEMS)]}
    )


@pytest.fixture(scope="module")
def prepared(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("negatives")
    prices().to_parquet(folder / "prices.parquet")
    run = make_run(
        data={
            "root": str(folder),
            "joins": [{"source": {"path": "prices.parquet"}, "on": ["item"]}],
            "keep": ["user", "item", "time", "device", "brand", "name", "row"],
            "split": SPLIT,
            "negatives": {
                "user": "user",
                "item": "item",
                "item_columns": ["brand"],
                "train": {"per_positive": 3, "distribution": "popularity"},
                "evaluation": {"per_positive": 8},
                "in_batch": {"log_q": True},
            },
        },
        dense=[{"columns": "price", "ops": ["standardise"]}],
        sparse=[{"columns": "item", "ops": [{"vocabulary": {"min_count": 2}}]}],
        sequence=[
            {"name": "seen", "history": {"user": "user", "item": "item", "time": "time"}, "table": "item"}
        ],
    )
    prepare_dataset(run, folder / "data", frame=spark.createDataFrame(events()))
    return folder / "data"


@pytest.fixture(scope="module")
def rows(prepared: Path) -> pd.DataFrame:
    """All rows in their order; `negative` where the item is another than in the raw row of that number."""
    found = pd.concat(
        [read_split(prepared, split).assign(split=split) for split in ("train", "valid", "test")]
    )
    found = found.drop(columns="item")  # the feature; the raw value is kept
    found.columns = [name.removeprefix("keep.") for name in found.columns]
    source = events().set_index("row")["item"]
    found["negative"] = found["item"] != found["row"].map(source)
    return found.reset_index(drop=True)


def test_every_positive_has_its_negatives_and_no_excluded_item_is_among_them(rows: pd.DataFrame) -> None:
    source = events()
    known = source.groupby("user")["item"].agg(set)
    positives = source[source["label"] == 1].set_index("row")
    negatives = rows[rows["negative"]]
    assert set(negatives["row"]) <= set(positives.index)
    assert not negatives.duplicated(["row", "item"]).any()
    split = rows[~rows["negative"]].set_index("row")["split"]
    assert sorted(split.index) == list(range(len(source)))
    trained = positives[positives.index.map(split) == "train"].groupby("user")["item"].agg(set)
    popular = set().union(*trained)
    for row, user in positives["user"].items():
        train = split[row] == "train"
        candidates = popular - trained[user] if train else set(source["item"]) - known[user]
        assert set(negatives.loc[negatives["row"] == row, "item"]) <= candidates
        wanted = min(len(candidates), 3 if split[row] == "train" else 8)
        assert (negatives["row"] == row).sum() == wanted, (row, user)
    assert (
        0
        < negatives[(negatives["user"] == 0) & (negatives["split"] == "test")].groupby("row").size().max()
        < 8
    )
    assert set(negatives.loc[negatives["split"] == "train", "item"]) <= popular


def test_a_negative_has_the_item_s_columns_and_the_positive_s_others(rows: pd.DataFrame) -> None:
    source = events().set_index("row").loc[rows["row"]].reset_index()
    assert (rows["name"] == "i" + rows["item"].astype(str)).all()
    assert (rows["brand"] == "b" + (rows["item"] % 7).astype(str)).all()
    for name in ("user", "time", "device"):
        assert (rows[name] == source[name]).all()
    assert (rows["label"] == np.where(rows["negative"], 0, source["label"])).all()
    slope = np.polyfit(rows["item"], rows["price"], 1)
    np.testing.assert_allclose(np.polyval(slope, rows["item"]), rows["price"], atol=1e-5)


def test_the_rows_of_a_group_are_one_positive_and_its_negatives(rows: pd.DataFrame) -> None:
    name = "negatives.group"
    grouped = rows[rows[name].notna()]
    assert grouped.groupby(name)["row"].nunique().eq(1).all()
    assert (grouped.groupby(name)["label"].sum() == 1).all()
    assert (rows.loc[rows[name].isna(), "label"] == 0).all()
    for split in ("valid", "test"):
        groups = rows.loc[(rows["split"] == split) & rows[name].notna(), name].astype(str)
        assert (groups != groups.shift()).sum() == groups.nunique()
        assert not rows.loc[rows["split"] == split, "label"].is_monotonic_decreasing
    train = rows.loc[rows["split"] == "train", name]
    assert (train != train.shift()).sum() > 2 * train.nunique()  # shuffled


def test_negatives_are_no_events_and_change_no_vocabulary(prepared: Path, rows: pd.DataFrame) -> None:
    source = events()
    split = rows[~rows["negative"]].set_index("row")["split"]
    counts = source[source["row"].map(split) == "train"]["item"].value_counts()
    vocabulary = read_vocabulary(prepared, "item")
    assert (
        dict(zip(vocabulary["value"].astype(int), vocabulary["count"], strict=True))
        == counts[counts >= 2].to_dict()
    )
    numbers = dict(zip(vocabulary["value"].astype(int), vocabulary["id"], strict=True))
    for _, row in rows.sample(200, random_state=0).iterrows():
        earlier = source[(source["user"] == row["user"]) & (source["time"] < row["time"])]
        assert list(row["seen"]) == [numbers.get(item, 1) for item in earlier["item"]][-50:]


def test_log_q_is_each_item_s_share_of_the_training_positives(prepared: Path, rows: pd.DataFrame) -> None:
    table = pd.read_parquet(prepared / "item_log_q").astype({"item": int})
    positives = rows[(rows["split"] == "train") & (rows["label"] == 1)]
    counts = positives["item"].value_counts()
    assert table.set_index("item")["count"].to_dict() == counts.to_dict()
    ids = positives.groupby("item")["item"].first().index
    vocabulary = read_vocabulary(prepared, "item")
    numbers = dict(zip(vocabulary["value"].astype(int), vocabulary["id"], strict=True))
    assert table.set_index("item")["id"].to_dict() == {item: numbers.get(item, 1) for item in ids}
    share = table.groupby("id")["count"].transform("sum") / len(positives)
    np.testing.assert_allclose(table["log_q"], np.log(share), rtol=1e-6)
    assert table["count"].is_monotonic_decreasing
    assert not (prepared / "_items").exists()
    assert Manifest.load(prepared).splits["test"].rows == (rows["split"] == "test").sum()


def added(
    frame: DataFrame, scratch: Path, negatives: dict[str, Any], **data: Any
) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows with their negatives, and the remarks."""
    data = {"split": SPLIT, **data}
    run = make_run(data={"negatives": {"user": "user", "item": "item", **negatives}, **data})
    spark = frame.sparkSession
    joined, own = rows_and_columns(run, spark, frame)
    split = with_split(with_row_hashes(joined, own, seed=1), run.data.split)
    found, remarks = with_negatives(split, run, own, spark, scratch)
    return found.toPandas(), remarks


@pytest.mark.parametrize(
    "split", [SPLIT, {"method": "time", "column": "time", "until": [20, 60]}], ids=["leave_last", "time"]
)
@pytest.mark.parametrize("exclude", [None, "known"])
def test_held_out_items_are_negatives_in_train_as_often_as_others_unless_excluded(
    spark: SparkSession, tmp_path: Path, split: dict[str, Any], exclude: str | None
) -> None:
    train: dict[str, Any] = {"per_positive": 12} | ({} if exclude is None else {"exclude": exclude})
    found, _ = added(
        spark.createDataFrame(events()),
        tmp_path / "items",
        {"train": train, "evaluation": {"per_positive": 5}},
        split=split,
    )
    raw, negatives = found[~found["__negative"]], found[found["__negative"]]
    pairs = {part: set(zip(rows["user"], rows["item"], strict=True)) for part, rows in raw.groupby("__split")}
    known = pairs["train"] | pairs["valid"] | pairs["test"]
    evaluated = negatives[negatives["__split"] != "train"]
    assert len(evaluated) > 300
    assert known.isdisjoint(zip(evaluated["user"], evaluated["item"], strict=True))
    drawn = negatives[negatives["__split"] == "train"]
    positives = raw[(raw["__split"] == "train") & (raw["label"] == 1)]
    trained = positives.groupby("user")["item"].agg(set)
    items = list(zip(drawn["user"], drawn["item"], strict=True))
    assert not any(item in trained[user] for user, item in items)
    if exclude == "known":
        assert known.isdisjoint(items)
        return
    held_out = pairs["valid"] | pairs["test"]
    catalogue = set(raw["item"])
    expected = variance = 0.0
    for user, lists in positives.groupby("user").size().items():
        left = catalogue - trained[user]
        chance = min(1.0, 12 / len(left))
        met = sum((user, item) in held_out for item in left)
        expected += lists * met * chance
        variance += lists * met * chance * (1 - chance)
    assert expected > 60
    assert abs(sum(pair in held_out for pair in items) - expected) <= 4.5 * np.sqrt(variance)


def test_neither_partitions_nor_the_order_of_rows_change_the_negatives(
    spark: SparkSession, tmp_path: Path
) -> None:
    frame = spark.createDataFrame(events())
    before = spark.conf.get("spark.sql.shuffle.partitions")
    found = []
    try:
        for number, (partitions, shuffles) in enumerate([(1, 1), (7, 5)]):
            spark.conf.set("spark.sql.shuffle.partitions", shuffles)
            negatives = {
                "train": {"per_positive": 1, "distribution": "mixed", "exclude": "none"},
                "evaluation": {"per_positive": 5, "distribution": "popularity", "alpha": 0.5},
            }
            rows, _ = added(frame.repartition(partitions, "item"), tmp_path / str(number), negatives)
            found.append(rows.sort_values(["__order", "__hash", "item"]).reset_index(drop=True))
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", before)
    pd.testing.assert_frame_equal(*found)
    assert found[0]["__negative"].sum() > 1_000


def test_a_file_s_negatives_are_taken_as_they_are(spark: SparkSession, tmp_path: Path) -> None:
    source = events()
    frame = spark.createDataFrame(source)
    mined = pd.DataFrame({"user": [3, 3, 3, 4], "item": [50, 51, 52, 58], "score": 0.5})
    mined.to_parquet(tmp_path / "mined.parquet")
    last = source[source["label"] == 1].groupby("user").tail(1).set_index("user")["item"]
    # The positive itself may be in its list, as it is in 156 of NCF's, and an item that no row has.
    lists = {5: [last[5], 1, 999], 6: [7]}
    lines = [
        f"({user},{last[user]})" + "".join(f"\t{item}" for item in items) for user, items in lists.items()
    ]
    (tmp_path / "test.negative").write_text("\n".join([*lines, ""]), encoding="utf-8")
    rows, remarks = added(
        frame,
        tmp_path / "items",
        {
            "train": {"file": {"path": "mined.parquet"}, "per_positive": 2},
            "evaluation": {"file": {"path": "test.negative", "format": "ncf"}},
        },
        root=str(tmp_path),
    )
    made = rows[rows["__negative"]]
    train = made[made["__split"] == "train"].groupby("row")["item"].agg(set)
    positives = rows[~rows["__negative"] & (rows["label"] == 1)].set_index("row")
    users = positives.loc[train.index, "user"]
    assert set(users) == {3, 4}
    wanted = positives[(positives["__split"] == "train") & positives["user"].isin([3, 4])]
    assert set(train.index) == set(wanted.index)
    for row, items in train.items():
        assert len(items) == (2 if users[row] == 3 else 1)
        assert items <= set(mined[mined["user"] == users[row]]["item"])
    tested = made[made["__split"] != "train"]
    assert tested.groupby("user")["item"].agg(sorted).to_dict() == {5: sorted(lists[5]), 6: [7]}
    left = positives[positives["__split"] != "train"]
    lacking = len(left) - 2
    assert any(
        remark.startswith(f"{lacking} of {len(left)} positives have no negatives") for remark in remarks
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(1,2)\t3\n1 2 3\n", r"a line is not(.|\n)*1 2 3"),
        ("(1000,2)\t3\n", "no negatives for any of the positives"),
        ("(1,ITEM)\tabc\n", "an item of the file is no bigint(.|\n)*abc"),
    ],
)
def test_a_file_that_does_not_fit_the_rows_is_named(
    spark: SparkSession, tmp_path: Path, text: str, message: str
) -> None:
    frame = events()
    last = frame[(frame["user"] == 1) & (frame["label"] == 1)]["item"].iloc[-1]
    (tmp_path / "x.negative").write_text(text.replace("ITEM", str(last)), encoding="utf-8")
    file = {"evaluation": {"file": {"path": "x.negative", "format": "ncf"}}}
    with pytest.raises(DataError, match=message):
        added(spark.createDataFrame(frame[frame["user"] < 4]), tmp_path / "items", file, root=str(tmp_path))


def test_columns_that_negatives_cannot_be_made_of_are_named(spark: SparkSession, tmp_path: Path) -> None:
    frame = spark.createDataFrame([(1, [1, 2], 1, 1)], "user int, item array<int>, label int, time int")
    with pytest.raises(ConfigError, match="'item' holds lists"):
        added(frame, tmp_path / "items", {"train": {"per_positive": 1}})
    with pytest.raises(DataError, match="'brand' is not in the rows"):
        added(frame, tmp_path / "items", {"train": {"per_positive": 1}, "item_columns": ["brand"]})
