"""Rows and configs that cannot be used: one clear error each, naming the place; the old data set stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.preparation import pipeline
from jobs.preparation.pipeline import prepare_dataset
from jobs.preparation.transform import Encodable
from jobs.preparation.writing import write_splits
from tests.spark.prepared import make_run
from trainer.config import RunConfig
from trainer.errors import ConfigError, DataError, UserError

pytestmark = pytest.mark.thorough

FRAME = pd.DataFrame(
    {
        "label": [0, 1] * 10,
        "rating": [1, 5] * 10,
        "x1": [0.5, 1.5] * 10,
        "x2": [2.0, 3.0] * 10,
        "gap": [1.0, None] * 10,
        "infinite": [1.0, float("inf")] * 10,
        "huge": [1.0, 1e200] * 10,
        "spike": [-100.0] + [1.0] * 19,
        "text": ["1", "many"] * 10,
        "low": [-1.0, 0.0] * 10,
        "id": [3, 4] * 10,
        "negative": [3, -4] * 10,
        "large": ["3", "99999999999999999999"] * 10,
        "halves": [0.5, 1.0] * 10,
        "weight": [1.0, -2.0] * 10,
        "user": ["a", "b"] * 10,
        "time": list(range(20)),
        "when": ["2024-01-01", "soon"] * 10,
        "names": [["a"], ["b", "c"]] * 10,
    }
)
DENSE = {"dense": [{"columns": "x1"}]}
ALL_TRAIN = {"split": {"fractions": [1, 0, 0]}}  # few rows, or equal ones, may leave a split empty
HISTORY = {"user": "user", "item": "id", "time": "time"}


def history(**changes: str) -> dict[str, Any]:
    return {"sequence": [{"name": "h", "history": {**HISTORY, **changes}}]}


def earlier(**changes: Any) -> dict[str, Any]:
    return {
        "dense": [{"name": "number", "earlier": {"by": "user", "time": "time", "what": "count", **changes}}]
    }


def failure(spark: SparkSession, out: Path, run: RunConfig) -> UserError:
    with pytest.raises(UserError) as error:
        prepare_dataset(run, out, frame=spark.createDataFrame(FRAME), spark=spark)
    assert not out.exists()
    assert list(out.parent.iterdir()) == []
    return error.value


BAD_ROWS: list[tuple[str, dict[str, Any], dict[str, Any], list[str]]] = [
    ("label not 0/1", {"label": {"column": "rating"}}, DENSE, ["not 0 or 1", "rating", "positive_at_least"]),
    (
        "label is text",
        {"label": {"column": "text", "positive_at_least": 2}},
        DENSE,
        ["no finite number", "text", "many"],
    ),
    ("label missing", {"label": {"column": "gap"}}, DENSE, ["10 row(s) have no label", "gap"]),
    ("negative weight", {"weight": "weight"}, DENSE, ["negative", "data.weight: weight", "-2.0"]),
    ("text in dense", {}, {"dense": [{"columns": "text"}]}, ["no numbers", "'text'", "many"]),
    ("list in dense", {}, {"dense": [{"columns": "names"}]}, ["no numbers", "'names'", "array"]),
    ("missing in dense", {}, {"dense": [{"columns": "gap"}]}, ["'gap'", "10 missing", "fill: 0"]),
    ("infinite in dense", {}, {"dense": [{"columns": "infinite"}]}, ["'infinite'", "10 infinite", "clip"]),
    (
        "infinite before standardise",
        {},
        {"dense": [{"columns": "infinite", "ops": ["standardise", {"clip": {"max": 9}}]}]},
        ["10 infinite", "inf", "put `clip: {min: ..., max: ...}` before `standardise`"],
    ),
    (
        "too large for a mean",
        {},
        {"dense": [{"columns": "huge", "ops": [{"fill": "mean"}, {"clip": {"max": 9}}]}]},
        ["'huge'", "10 infinite", "1e+200", "before `fill`"],
    ),
    (
        "log1p behind standardise",
        ALL_TRAIN,
        {"dense": [{"columns": "spike", "ops": ["standardise", "log1p"]}]},
        ["'spike'", "1 value(s) that `log1p` cannot take", "clip"],
    ),
    ("log1p of -1", {}, {"dense": [{"columns": "low", "ops": "log1p"}]}, ["'low'", "log1p", "-1.0", "clip"]),
    ("negative id", {}, {"sparse": [{"columns": "negative"}]}, ["'negative'", "-4", "vocabulary"]),
    ("id too large", {}, {"sparse": [{"columns": "large"}]}, ["'large'", "99999999999999999999"]),
    ("id not whole", {}, {"sparse": [{"columns": "halves"}]}, ["'halves'", "0.5"]),
    (
        "time unreadable",
        {"split": {"method": "time", "column": "when"}},
        DENSE,
        ["10 have one that cannot be read", "when", "soon"],
    ),
    (
        "time of a history unreadable",
        {},
        history(time="when"),
        ["10 row(s) have an id but a time that cannot be read", "sequence.0.history.time: when", "soon"],
    ),
    (
        "time of a history missing",
        {},
        history(time="gap"),
        ["10 row(s) have an id but no time", "features.sequence.0.history.time: gap"],
    ),
    (
        "time of earlier rows unreadable",
        {},
        earlier(time="when"),
        ["10 row(s) have an id but a time that cannot be read", "dense.0.earlier.time: when", "soon"],
    ),
    ("earlier rows without fill", {}, earlier(what="recency"), ["'number' has 2 missing", "fill: 0"]),
    (
        "missing column of earlier rows",
        {},
        earlier(by=["user", "usr"]),
        ["'usr'", "dense.0.earlier", "`user`"],
    ),
    ("missing label", {"label": {"column": "labell"}}, DENSE, ["'labell'", "data.label.column", "`label`"]),
    (
        "one class",
        {"label": {"column": "rating", "positive_at_least": 9}, **ALL_TRAIN},
        DENSE,
        ["the label is 0 in every training row", "data.label.column: rating", "positive_at_least (9 now)"],
    ),
    (
        "a share without rows",
        {"split": {"fractions": [0.9999, 0.0001, 0]}},
        DENSE,
        ["the valid split has no rows", "train: 20, valid: 0, test: 0 for a share of 0.0001", "more rows"],
    ),
    (
        "a value without a weight",
        {"weights_by": {"column": "user", "values": {"a": 2}}},
        DENSE,
        [
            "10 row(s) have no weight",
            "data.weights_by.column: user",
            "got:     b",
            "data.weights_by.other: 1",
        ],
    ),
    (
        "no value to be dealt by",
        {"split": {"by": "gap"}},
        DENSE,
        ["10 row(s) have no value to be split by", "data.split.by: gap", "drop_missing: [gap]"],
    ),
    (
        "values of no split",
        {"split": {"method": "column", "column": "user", "values": {"train": ["a"], "test": ["B"]}}},
        DENSE,
        ["10 row(s) have a value that no split names", "data.split.column: user", "b (10 rows)"],
    ),
    (
        "a number for a date",
        {"split": {"method": "time", "column": "time", "until": ["2024-01-01", "2024-02-01"]}},
        DENSE,
        ["no time of the column's kind", "data.split.until (column 'time')", "2024-01-01", "numbers"],
    ),
    (
        "misspelt group",
        {"split": {"by": "usr"}},
        DENSE,
        ["'usr'", "data.split.by", "did you mean `user`?"],
    ),
    ("no files", {"split": {"method": "files", "files": {"train": ["*"]}}}, DENSE, ["come from no files"]),
    ("missing weight", {"weight": "weightt"}, DENSE, ["'weightt'", "`weight`"]),
    ("missing column", {}, {"dense": [{"columns": ["x1", "x33"]}]}, ["'x33'", "features.dense.0", "x1, x2"]),
    ("missing kept column", {"keep": ["country"]}, DENSE, ["'country'", "data.keep"]),
]


@pytest.mark.parametrize(
    ("data", "features", "words"), [case[1:] for case in BAD_ROWS], ids=[c[0] for c in BAD_ROWS]
)
def test_rows_that_cannot_be_used_are_named(
    spark: SparkSession, tmp_path: Path, data: dict[str, Any], features: dict[str, Any], words: list[str]
) -> None:
    error = failure(spark, tmp_path / "out", make_run(data=data, **features))
    assert isinstance(error, (ConfigError, DataError))
    assert [word for word in words if word not in str(error)] == []


BAD_CONFIGS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("glob without match", {"dense": [{"columns": "q*"}]}, ["no column", "q*", "features.dense.0.columns"]),
    (
        "column twice",
        {"dense": [{"columns": "x1"}, {"columns": "x*"}]},
        ["'x1'", "twice", "features.dense.1"],
    ),
    ("reserved name", {"sparse": [{"columns": "label", "ops": "vocabulary"}]}, ["reserved", "label"]),
    ("reserved prefix", {"dense": [{"columns": "x1", "name": "keep.x"}]}, ["reserved", "keep.x"]),
    (
        "same name twice",
        {"dense": [{"columns": "x1"}], "sparse": [{"columns": "id", "name": "X1"}]},
        ["two features", "X1"],
    ),
    ("name for many", {"dense": [{"columns": "x*", "name": "all"}]}, ["one column", "x1"]),
    ("no such table", {"sparse": [{"columns": "id", "table": "idd"}, {"columns": "user"}]}, ["idd", "table"]),
    (
        "op and table",
        {"sparse": [{"columns": "id"}, {"columns": "user", "ops": "vocabulary", "table": "id"}]},
        ["contradict", "vocabulary"],
    ),
    ("sequence of one", {"sequence": [{"columns": "user", "ops": "vocabulary"}]}, ["needs a list", "split"]),
    (
        "bad condition",
        history(where="ratin >= 4"),
        ["features.sequence.0.history.where", "ratin >= 4"],
    ),
    (
        "condition that is a value",
        history(where="user"),
        ["features.sequence.0.history.where", "neither true nor false", "user (string)"],
    ),
    ("condition of earlier rows", earlier(where="ratin >= 4"), ["dense.0.earlier.where", "ratin >= 4"]),
    ("history of lists", history(item="names"), ["features.sequence.0.history", "'names' holds lists"]),
    ("number as a sequence", {"sequence": earlier()["dense"]}, ["sequence.0", "move it to features.dense"]),
    (
        "derived name of a raw column",
        {"dense": [{**earlier()["dense"][0], "name": "X1"}]},
        ["features.dense.0.name", "X1", "raw column"],
    ),
    (
        "label that encodes itself",
        {"dense": [{"name": "t", "target_encoding": {"by": ["user", "label"]}}]},
        ["features.dense.0.target_encoding.by", "label"],
    ),
    ("condition on many rows", history(where="max(time) > 3"), ["0.history.where", "max(time) > 3"]),
    (
        "unknown op",
        {"dense": [{"columns": "x1", "ops": ["fill", "standardize"]}]},
        ["fill", "features.dense.0.ops.0"],
    ),
]


@pytest.mark.parametrize(
    ("features", "words"), [case[1:] for case in BAD_CONFIGS], ids=[c[0] for c in BAD_CONFIGS]
)
def test_configs_that_do_not_fit_the_rows_are_named(
    spark: SparkSession, tmp_path: Path, features: dict[str, Any], words: list[str]
) -> None:
    error = failure(spark, tmp_path / "out", make_run(**features))
    assert isinstance(error, ConfigError)
    assert [word for word in words if word not in str(error)] == []


def test_all_problems_come_in_one_error(spark: SparkSession, tmp_path: Path) -> None:
    run = make_run(dense=[{"columns": ["gap", "infinite", "text"]}])
    error = failure(spark, tmp_path / "out", run)
    assert "'gap'" in error.what
    assert "'infinite'" in str(error)
    assert "'text'" in str(error)


def test_rows_lost_between_counting_and_writing_are_noticed(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(rows: Encodable, *others: Any, **named: Any) -> Any:
        return write_splits(replace(rows, rows=rows.rows.where("id = 3")), *others, **named)

    monkeypatch.setattr(pipeline, "write_splits", lossy)
    error = failure(spark, tmp_path / "out", make_run(data={"keep": ["id"], **ALL_TRAIN}, **DENSE))
    assert "the rows written are not the rows that were counted" in error.what
    assert sum(error.got.values()) == 10  # type: ignore[attr-defined]


def test_globs_pass_over_the_label(spark: SparkSession, tmp_path: Path) -> None:
    frame = FRAME[["label", "x1", "x2"]]
    run = make_run(data=ALL_TRAIN, dense=[{"columns": "*"}])
    prepared = prepare_dataset(run, tmp_path / "out", frame=spark.createDataFrame(frame), spark=spark)
    assert [f.name for f in prepared.manifest.spec.features] == ["x1", "x2"]


def test_features_follow_config_order_then_column_order(spark: SparkSession, tmp_path: Path) -> None:
    frame = FRAME[["label", "x2", "x1", "id"]]
    run = make_run(data=ALL_TRAIN, dense=[{"columns": "id"}, {"columns": "x*"}])
    prepared = prepare_dataset(run, tmp_path / "out", frame=spark.createDataFrame(frame), spark=spark)
    assert [f.name for f in prepared.manifest.spec.features] == ["id", "x2", "x1"]


def test_output_that_is_no_data_set_is_not_replaced(spark: SparkSession, tmp_path: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.txt").write_text("years of work")
    with pytest.raises(DataError, match="not a data set"):
        prepare_dataset(make_run(**DENSE), out, frame=spark.createDataFrame(FRAME), spark=spark)
    assert (out / "chapter1.txt").read_text() == "years of work"


def test_failed_prepare_leaves_the_old_data_set(spark: SparkSession, tmp_path: Path) -> None:
    out = tmp_path / "out"
    frame = spark.createDataFrame(FRAME)
    first = prepare_dataset(make_run(data=ALL_TRAIN, **DENSE), out, frame=frame, spark=spark)
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    with pytest.raises(DataError):
        prepare_dataset(make_run(dense=[{"columns": "gap"}]), out, frame=frame, spark=spark)
    assert {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    second = prepare_dataset(make_run(seed=9, data=ALL_TRAIN, **DENSE), out, frame=frame, spark=spark)
    assert second.manifest.seed == 9
    assert first.manifest.spec.hash == second.manifest.spec.hash
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
