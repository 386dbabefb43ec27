"""Rows of users, with the items that they met and those to be found, against pandas and by hand."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.preparation.appending import append_rows
from jobs.preparation.pipeline import Prepared, prepare_dataset
from jobs.preparation.row_hashes import with_row_hashes
from jobs.preparation.staging import stage
from jobs.preparation.transform import apply_spec
from jobs.preparation.user_events import check_events, check_one_split
from jobs.preparation.user_rows import with_user_rows
from tests.spark.prepared import read_split, read_vocabulary
from trainer.config import RunConfig
from trainer.errors import ConfigError, DataError
from trainer.features.row_encoder import RowEncoder

SPLITS = ("train", "valid", "test")
USER_ROWS = {
    "by": "user",
    "order_by": "time",
    "lists": {"seen": "item", "scores": "score"},
    "targets": "item",
}
PAST = {"user": "user", "item": "item", "time": "time", "max_length": 3}
LEAVE_LAST = {"method": "leave_last", "leave_last": {"user": "user", "time": "time"}}


def run_of(user_rows: dict[str, Any] | None = None, **data: Any) -> RunConfig:
    """Return a config whose only features are those of lists, users and their country."""
    data = {"label": {"column": "liked"}, "split": {"method": "column", "column": "split"}, **data}
    data["user_rows"] = {**USER_ROWS, "user_columns": ["country"], **(user_rows or {})}
    lists = [{"columns": ["seen", "scores"], "ops": "vocabulary", "pooling": "none"}]
    features = {"sparse": [{"columns": ["user", "country"], "ops": "vocabulary"}], "sequence": lists}
    return RunConfig.from_dict(
        {"name": "users", "data": data, "features": features, "model": {"name": "dlrm"}}
    )


def events() -> pd.DataFrame:
    """Return events of 40 users in any order, few of whom have some in every split."""
    random = np.random.default_rng(7)
    count = 600
    frame = pd.DataFrame(
        {
            "user": random.integers(0, 40, count),
            "item": random.integers(0, 25, count),
            "time": random.permutation(count) // 2,  # two events at each moment
            "step": np.arange(count),
            "score": random.integers(1, 6, count).astype(float),
            "liked": (random.random(count) < 0.7).astype(int),
            "country": [f"c{n}" if n % 3 else None for n in range(count)],
            "split": random.choice(SPLITS, count, p=[0.5, 0.2, 0.3]),
        }
    )
    return frame[(frame["user"] % 4 != 1) | (frame["split"] != "train")]


Rows = dict[int, dict[str, Any]]


def expected(frame: pd.DataFrame, split: str, config: dict[str, Any]) -> dict[str, Rows]:
    """Return the rows of a split by user, and those that are left out, under the names that say why."""
    liked = frame[frame["liked"] == 1].sort_values(["time", "step"])
    rows: dict[str, Rows] = {}
    for user, mine in liked.groupby("user"):
        before = list(SPLITS[: max(1, SPLITS.index(split))])
        seen, own = mine[mine["split"].isin(before)], mine[mine["split"] == split]
        if own.empty:
            continue
        found = [] if split == "train" else list(dict.fromkeys(own["item"]))
        if config.get("drop_seen", True):
            found = [item for item in found if item not in set(seen["item"])]
        kept = seen.tail(config.get("max_length") or len(seen))
        few, none = len(kept) < config.get("min_items", 1), split != "train" and not found
        name = f"few_items_{split}" if few else f"no_targets_{split}" if none else split
        countries = kept["country"].dropna()
        rows.setdefault(name, {})[int(user)] = {
            "seen": kept["item"].tolist(),
            "scores": kept["score"].tolist(),
            "__targets": found,
            "country": None if countries.empty else countries.iloc[-1],
        }
    return rows


def made(frame: DataFrame, run: RunConfig) -> dict[str, Rows]:
    """Return the rows of users by split, or why they are left out, before features are made of them."""
    assert run.data.user_rows is not None
    hashed = with_row_hashes(frame, frame.columns, seed=1).withColumnRenamed("split", "__split")
    rows = with_user_rows(hashed, run, run.data.user_rows).where("__user_row").toPandas()
    names = ["seen", "scores", "__targets", "country"]
    found: dict[str, Rows] = {}
    for row in rows.to_dict("records"):
        lists = {name: list(row[name]) if isinstance(row[name], np.ndarray) else row[name] for name in names}
        found.setdefault(row["__split"], {})[int(row["user"])] = lists
    return found


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"max_length": 3, "min_items": 2},
        {"max_length": 4, "drop_seen": False, "splits": ["valid", "test"]},
    ],
)
def test_lists_are_those_of_the_events_before_and_targets_those_of_the_split(
    spark: SparkSession, config: dict[str, Any]
) -> None:
    frame = events()
    run = run_of({"order_by": ["time", "step"], **config})
    found = made(spark.createDataFrame(frame.astype({"step": str})).repartition(4), run)
    wanted = [expected(frame, split, config) for split in config.get("splits", SPLITS)]
    assert found == {name: rows for split in wanted for name, rows in split.items()}
    assert set(config.get("splits", SPLITS)) < set(found)  # some are left out


@pytest.mark.parametrize(("share", "least", "max_length"), [(0.2, 1, None), (0.5, 3, 2)])
def test_held_out_items_and_the_others_are_all_of_a_user_of_one_split(
    spark: SparkSession, share: float, least: int, max_length: int | None
) -> None:
    frame = events()
    frame["split"] = frame["user"].map(lambda user: SPLITS[user % 3])
    hold_out = {"share": share, "at_least": least, "seed": 3}
    found = []
    for partitions in (1, 5):
        run = run_of({"hold_out": hold_out, "max_length": max_length})
        found.append(made(spark.createDataFrame(frame).repartition(partitions, "step"), run))
    assert found[0] == found[1]
    liked = frame[frame["liked"] == 1].sort_values("time")
    for user, mine in liked.groupby("user"):
        split = SPLITS[int(user) % 3]
        row = found[0].get(split, {}).get(int(user))
        items = set(mine["item"])
        held = 0 if split == "train" else max(least, int(share * len(items)))
        if row is None:
            assert held >= len(items)
            continue
        assert len(row["__targets"]) == len(set(row["__targets"])) == held
        rest = mine[~mine["item"].isin(row["__targets"])]
        if max_length is None:
            assert sorted(row["seen"]) == sorted(rest["item"])
        else:  # which of two events of one moment is the newer, nothing here tells
            assert len(row["seen"]) == min(len(rest), max_length)
            assert set(row["seen"]) <= set(rest["item"].tail(max_length + 1))
    other = made(spark.createDataFrame(frame), run_of({"hold_out": {**hold_out, "seed": 4}}))
    assert other["test"] != found[0]["test"]


@pytest.fixture(scope="module")
def prepared(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Return three users, the last with two events, whose newest one each is test, and a side table."""
    rows = [
        *[("a", item, time, 1, f"c{time}") for time, item in enumerate(["x", "y", "x", "z", "w"])],
        *[("b", item, time, 1, "d") for time, item in enumerate(["y", "x", "y"])],
        *[("c", item, time, 1, "e") for time, item in enumerate(["z", "y"])],
        ("a", "v", 9, 0, "f"),  # no positive
    ]
    folder = tmp_path_factory.mktemp("users")
    pd.DataFrame({"item": ["x", "y", "w"], "genre": ["g", "g", "h"]}).to_csv(
        folder / "items.csv", index=False
    )
    frame = spark.createDataFrame(rows, "user string, item string, time int, liked int, country string")
    run = run_of(
        {"lists": {"seen": "item", "scores": "time"}},
        root=str(folder),
        joins=[{"source": {"path": "items.csv", "format": "csv", "header": True}, "on": ["item"]}],
        clean={"where": "liked = 1"},
        keep=["user", "item", "genre"],
        split=LEAVE_LAST,
    )
    return prepare_dataset(run, folder / "data", frame=frame, spark=spark)


def test_a_data_set_holds_rows_of_users_and_names_its_target(prepared: Prepared) -> None:
    spec = prepared.manifest.spec
    assert spec.target is not None
    assert (spec.target.name, spec.target.table, [f.name for f in spec.seen]) == ("targets", "seen", ["seen"])
    # Training lists are x y x (a), y (b), and all of c, who has too few events for leave_last.
    vocabulary = read_vocabulary(prepared.path, "seen")
    assert dict(zip(vocabulary["value"], vocabulary["count"], strict=True)) == {"y": 3, "x": 2, "z": 1}
    ids = dict(zip(vocabulary["value"], vocabulary["id"], strict=True))
    country = read_vocabulary(prepared.path, "country").set_index("value")["id"]
    wanted = {
        "train": {"a": ("x y x", "", "c2"), "b": ("y", "", "d"), "c": ("z y", "", "e")},
        "valid": {"a": ("x y x", "z", "c2"), "b": ("y", "x", "d")},
        "test": {"a": ("x y x z", "w", None)},  # b's newest item is one that b met before
    }
    for split, users in wanted.items():
        rows = read_split(prepared.path, split).set_index("keep.user")
        assert set(rows.index) == set(users)
        assert (rows["label"] == 1).all()
        assert rows["keep.item"].isna().all()
        assert rows["keep.genre"].isna().all()
        for user, (seen, targets, place) in users.items():
            assert list(rows.loc[user, "seen"]) == [ids[item] for item in seen.split()]
            assert list(rows.loc[user, "targets"]) == [ids.get(item, 1) for item in targets.split()]
            assert rows.loc[user, "country"] == (1 if place is None else country[place])
    assert "user rows: 1 user(s) have no row in test: no item to be found" in prepared.report_text
    (table,) = prepared.manifest.joins
    assert (table.rows, table.unmatched) == (10, 2)  # events, not rows of users


def test_rows_to_be_scored_need_no_targets(spark: SparkSession, prepared: Prepared) -> None:
    spec = prepared.manifest.spec
    record = {"user": "new", "country": "d", "seen": ["y", "v"], "scores": [0, 1]}
    single = RowEncoder.load(spec, prepared.path).encode_rows([record])
    assert "targets" not in single
    frame = spark.createDataFrame(
        [tuple(record.values())], "user string, country string, seen array<string>, scores array<int>"
    )
    (row,) = apply_spec(frame, spec, prepared.path, spark).collect()
    assert row["targets"] == []
    assert {name: pa.array([row[name]]).to_pylist() for name in single} == {
        name: column.to_pylist() for name, column in single.items()
    }
    assert single["seen"].to_pylist()[0][1] == 1


def test_a_new_day_is_refused(spark: SparkSession, prepared: Prepared) -> None:
    raw = {**prepared.manifest.preparation["data"], "root": str(prepared.path.parent)}
    run = run_of(raw["user_rows"], **{key: raw[key] for key in ("label", "clean", "split")})
    frame = spark.createDataFrame([("a", 1)], "user string, item int")
    with pytest.raises(ConfigError, match=r"cannot be added(.|\n)*data\.user_rows"):
        append_rows(run, prepared.path, "frozen", frame=frame, spark=spark)


def test_training_events_stay_where_only_valid_and_test_are_rows_of_users(
    spark: SparkSession, tmp_path: Path
) -> None:
    frame = events()
    run = run_of(
        {"splits": ["valid", "test"], "lists": {"seen": "item"}, "order_by": ["time", "step"]},
        keep=["user", "item"],
        negatives={"user": "user", "item": "item", "train": {"per_positive": 1}},
    ).as_dict()
    run["features"] = {
        "sparse": [{"columns": ["user", "item"], "ops": "vocabulary"}],
        "sequence": [
            {"columns": "seen", "table": "item"},
            {"name": "past", "history": {**PAST, "where": "liked = 1"}, "table": "item"},
        ],
    }
    prepared = prepare_dataset(
        RunConfig.from_dict(run), tmp_path / "data", frame=spark.createDataFrame(frame), spark=spark
    )
    own = frame[frame["split"] == "train"]
    train = read_split(prepared.path, "train")
    given = train[
        train["keep.negatives.group"].notna() & (train["label"] == 1) | train["keep.negatives.group"].isna()
    ]
    assert sorted(zip(given["keep.user"], given["keep.item"], given["label"], strict=True)) == sorted(
        zip(own["user"], own["item"], own["liked"], strict=True)
    )
    assert len(train) > len(given)  # negatives
    assert not any(len(lists) for name in ("seen", "targets") for lists in train[name])
    assert {len(past) for past in train["past"]} == {0, 1, 2, 3}
    vocabulary = read_vocabulary(prepared.path, "item")
    counts = own["item"].value_counts()
    assert dict(zip(vocabulary["value"].astype(int), vocabulary["count"], strict=True)) == counts.to_dict()
    ids = dict(zip(vocabulary["value"].astype(int), vocabulary["id"], strict=True))
    for split in ("valid", "test"):
        rows = read_split(prepared.path, split).set_index("keep.user")
        wanted = expected(frame, split, {})[split]
        assert [list(past) for past in rows["past"]] == [list(seen[-3:]) for seen in rows["seen"]]
        assert {
            user: (list(rows.loc[user, "seen"]), list(rows.loc[user, "targets"])) for user in rows.index
        } == {
            user: ([ids[i] for i in row["seen"]], [ids.get(i, 1) for i in row["__targets"]])
            for user, row in wanted.items()
        }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", None, 1, 1, "v")], r"1 event\(s\) have no item(.|\n)*targets: item(.|\n)*drop_missing"),
        (
            [(None, "x", 1, 1, "v"), ("a", "x", None, 1, "v")],
            r"have no user(.|\n)*also: 1 event\(s\) have no time",
        ),
        ([("a", "x", 1, 3, "v")], r"label that is not 0 or 1"),
        (
            [("a", None, 1, 0, "v"), ("a", "x", 1, 1, "t"), ("a", "y", 2, 1, "v")],
            r"1 user\(s\) .*several splits",
        ),
    ],
)
def test_events_that_no_list_can_hold_are_named(
    spark: SparkSession, rows: list[tuple[Any, ...]], message: str
) -> None:
    names = {"t": "train", "v": "valid"}
    frame = spark.createDataFrame(
        [(*row[:4], names[row[4]]) for row in rows],
        "user string, item string, time int, liked int, __split string",
    ).withColumn("__bad_line", F.lit(None).cast("string"))
    run = run_of({"lists": {"seen": "item"}, "user_columns": [], "hold_out": {"share": 0.5}})
    assert run.data.user_rows is not None
    check = check_one_split if "several" in message else check_events
    with pytest.raises(DataError, match=message):
        check(frame, run, run.data.user_rows)


@pytest.mark.parametrize(
    ("user_rows", "features", "message"),
    [
        ({"order_by": "when"}, {}, r"no column 'when'|when(.|\n)*data\.user_rows"),
        ({"lists": {"COUNTRY": "item"}}, {}, r"name of a column of the events(.|\n)*lists\.COUNTRY"),
        ({"by": "tags"}, {}, r"'tags' holds lists, one value per event"),
        (
            {},
            {"sparse": [{"columns": "item"}]},
            r"'item' is made of a column of events, which no row of a user",
        ),
        ({}, {"sparse": [{"columns": "user"}]}, r"no feature numbers the ids(.|\n)*columns: seen"),
        ({"ids_of": "sen"}, {}, r"has this name(.|\n)*did you mean"),
        (
            {"lists": {"seen": "item", "again": "item"}},
            {"sequence": [{"columns": ["seen", "again"], "ops": "vocabulary"}]},
            r"several features number the ids(.|\n)*ids_of: seen",
        ),
        (
            {},
            {"sequence": [{"columns": "seen", "name": "targets"}]},
            r"the name `targets` is that of the items",
        ),
        ({}, {"sequence": [{"name": "past", "history": PAST}]}, r"a row of a user is no event(.|\n)*history"),
        (
            {"splits": ["test"], "lists": {"seen": "time"}},
            {"sequence": [{"name": "past", "history": PAST}]},
            r"a history is one of its lists(.|\n)*past_item: item",
        ),
    ],
)
def test_a_config_that_fits_no_row_of_a_user_says_so(
    spark: SparkSession, tmp_path: Path, user_rows: dict[str, Any], features: dict[str, Any], message: str
) -> None:
    values = run_of({"lists": {"seen": "item"}, **user_rows}).as_dict()
    values["features"] = features or {"sequence": [{"columns": "seen", "ops": "vocabulary"}]}
    kinds = "user string, item string, time int, liked int, country string, split string, tags array<string>"
    frame = spark.createDataFrame([], kinds)
    with pytest.raises((ConfigError, DataError), match=message), ExitStack() as cached:
        stage(RunConfig.from_dict(values), spark, frame, tmp_path, cached)
