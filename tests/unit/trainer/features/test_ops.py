"""Ops of a config are checked by their signatures, and against what the op before them gives."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import yaml

from trainer.config import FeatureGroup, OpConfig, RunConfig
from trainer.errors import ConfigError
from trainer.features.ops import (
    Kind,
    check_ops,
    column_op,
    entries,
    feature_ops,
    first_value,
    op_schemas,
    resolve_ops,
)
from trainer.features.registry import OPS
from trainer.schema import FittedOp, numbers_per_row


def run_with(kind: str, *ops: Any, **group: Any) -> RunConfig:
    group = {"ops": list(ops), **({"columns": "b"} if "cross" not in group else {}), **group}
    return RunConfig.from_dict(
        {
            "name": "ops",
            "data": {"label": {"column": "label"}},
            "features": {kind: [{"columns": "a"}, group]},
            "model": {"name": "dlrm"},
        }
    )


def chain(kind: Kind, *ops: Any) -> tuple[FittedOp, ...]:
    return resolve_ops([OpConfig.model_validate(op) for op in ops], kind, "features.here")


GOOD = [
    ("dense", [{"fill": 0}, {"clip": {"min": 0, "max": 1.5}}, "log1p", "standardise"], "number"),
    ("dense", [{"fill": "median"}, "min_max", {"round": 3}], "number"),
    ("dense", ["hour", {"fill": 0}, {"bucketise": [6, 12]}], "time"),
    ("sparse", [{"fill": "none"}, {"split": "|"}, {"vocabulary": {"min_count": 2, "max_size": 10}}], "token"),
    ("sparse", [{"hash": 100}], "token"),
    ("sparse", [{"weekday": "Asia/Tokyo"}, "vocabulary"], "time"),
    ("sparse", ["milliseconds", {"age": "2024-01-01"}, {"bucketise": {"quantiles": 10}}], "time"),
    ("sparse", [{"clip": {"max": 9}}, {"fill": 0}, {"hash": 10}], "number"),
    ("sparse", [{"hash": "unbounded"}], "token"),
    ("sequence", [{"split": ","}, {"truncate": 5}, {"hash": {"num_buckets": 100, "seed": 4}}], "token"),
    ("sequence", ["lower", "words", {"truncate": {"max_length": 5, "keep": "last"}}, "vocabulary"], "token"),
]


@pytest.mark.parametrize(("kind", "ops", "reads"), GOOD)
def test_good_chains_pass_and_say_what_they_read(kind: Kind, ops: list[Any], reads: str) -> None:
    check_ops(run_with(kind, *ops))
    resolved = chain(kind, *ops)
    assert first_value(resolved, kind) == reads
    assert [entry.name for _, entry in entries(resolved, kind)] == [op.name for op in resolved]


@pytest.mark.parametrize(
    ("kind", "ops", "words"),
    [
        ("dense", ["logp1"], ["logp1", "`log1p`", "features.dense.1.ops.0"]),
        ("dense", ["log1p", {"clip": {"mni": 0}}], ["mni", "`min`", "features.dense.1.ops.1"]),
        ("dense", [{"clip": {}}], ["`min`, `max` or both", "features.dense.1.ops.0"]),
        ("dense", [{"clip": {"min": 2, "max": 1}}], ["min < max"]),
        ("dense", [{"fill": "average"}], ["features.dense.1.ops.0"]),
        ("dense", [{"fill": float("nan")}], ["features.dense.1.ops.0", "finite"]),
        ("dense", [{"log1p": 3}], ["takes no parameter"]),
        ("dense", [{"standardise": {"mean": 1.0}}], ["unknown key", "mean"]),
        ("dense", [{"hash": 10}], ["no such op for dense features", "hash"]),
        ("dense", ["log1p", "hour"], ["behind an op that gives numbers", "features.dense.1.ops.1"]),
        ("dense", ["bucketise"], ["exactly one of `edges` and `quantiles`"]),
        ("dense", [{"bucketise": {"edges": [1], "quantiles": 3}}], ["exactly one"]),
        ("dense", [{"bucketise": [1, 1, 2]}], ["edges that rise"]),
        ("dense", [{"bucketise": []}], ["edges", "at least 1"]),
        ("dense", [{"bucketise": {"quantiles": 1}}], ["quantiles"]),
        ("dense", [{"hour": "Europe/Brelin"}], ["Europe/Brelin", "time zone"]),
        ("dense", [{"hour": "../UTC"}], ["time zone"]),
        ("dense", [{"holiday": ["2024-02-30"]}], ["2024-02-30", "must be a date"]),
        ("dense", [{"holiday": ["2024-12-25 10:00"]}], ["must be a date"]),
        ("dense", [{"age": "yesterday"}], ["yesterday", "must be a date or time"]),
        ("dense", [{"age": {"at": "2024-01-01", "unit": "weeks"}}], ["weeks", "days"]),
        ("sparse", ["standardise", {"age": "2024-01-01"}], ["behind an op that gives numbers", "age"]),
        ("sparse", ["vocablary"], ["no such op for sparse features", "`vocabulary`"]),
        ("sparse", ["hash"], ["num_buckets", "required"]),
        ("sparse", [{"hash": 0}], ["num_buckets"]),
        ("sparse", [{"hash": "many"}], ["num_buckets"]),
        ("sparse", ["vocabulary", {"split": "|"}], ["must be the last op", "features.sparse.1.ops.1"]),
        ("sparse", [{"hash": 9}, "no_op"], ["must be the last op", "features.sparse.1.ops.1"]),
        ("sparse", [{"split": "|"}, "words"], ["`split` has made lists", "features.sparse.1.ops.1"]),
        ("sparse", ["words", {"fill": "none"}], ["`fill` before `words`", "features.sparse.1.ops.1"]),
        ("sparse", [{"split": ""}], ["delimiter"]),
        ("sparse", [{"vocabulary": {"oov_buckets": 0}}], ["oov_buckets"]),
        ("sparse", [{"vocabulary": {"missing": "mean"}}], ["missing", "most_frequent"]),
        ("sequence", [{"vocabulary": {"min_cout": 2}}], ["`min_count`", "features.sequence.1.ops.0"]),
    ],
)
def test_wrong_ops_are_named_with_their_place(kind: str, ops: list[Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        check_ops(run_with(kind, *ops))
    assert [word for word in words if word not in str(error.value)] == []


def test_a_cross_is_read_as_tokens_whatever_follows() -> None:
    check_ops(run_with("sparse", "lower", "vocabulary", cross=["x", "y"], name="xy"))
    ops = [OpConfig.model_validate(op) for op in ("lower", {"hash": 9})]
    resolved = resolve_ops(
        ops, "sparse", "features.sparse.0", FittedOp(name="cross", params={"columns": ["x", "y"]})
    )
    assert resolved[0] == FittedOp(name="cross", params={"columns": ["x", "y"]})
    assert first_value(resolved, "sparse") == "token"
    assert [op.name for op, _ in entries(resolved, "sparse")] == ["lower", "hash"]


@pytest.mark.parametrize(
    ("kind", "ops", "group", "words"),
    [
        (
            "sparse",
            ["hour", "vocabulary"],
            {"cross": ["x", "y"], "name": "xy"},
            ["behind an op that gives tokens"],
        ),
        ("sparse", ["vocabulary"], {"cross": ["x", "y"]}, ["a `cross` needs a `name`"]),
        ("sparse", ["vocabulary"], {"cross": ["x"], "name": "xy"}, ["cross", "at least 2"]),
        ("sparse", ["vocabulary"], {"cross": ["x", "x"], "name": "xy"}, ["different columns"]),
        ("sparse", ["vocabulary"], {"cross": ["x", "y"], "columns": "x", "name": "xy"}, ["exactly one of"]),
    ],
)
def test_wrong_crosses_are_refused(
    kind: str, ops: list[Any], group: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        check_ops(run_with(kind, *ops, **group))
    assert [word for word in words if word not in str(error.value)] == []


def test_lists_of_numbers_take_the_ops_of_numbers() -> None:
    group = FeatureGroup.model_validate({"columns": "b", "dim": 3, "ops": [{"fill": 0}, "log1p"]})
    resolved = resolve_ops(group.ops, "dense", "features.dense.0", column_op(group))
    assert resolved[0] == FittedOp(name="numbers", params={"dim": 3, "delimiter": None})
    assert [op.name for op, _ in entries(resolved, "dense")] == ["fill", "log1p"]
    assert numbers_per_row(resolved) == 3
    assert numbers_per_row(resolved[1:]) is None


@pytest.mark.parametrize(
    ("ops", "group", "words"),
    [
        (["hour"], {"dim": 3}, ["behind an op that gives numbers", "features.dense.1.ops.0"]),
        (["standardise"], {"dim": 3}, ["`standardise` fits one number", "features.dense.1.ops.0"]),
        ([{"fill": "mean"}], {"dim": 3}, ["`fill` fits one number"]),
        ([{"bucketise": {"quantiles": 4}}], {"dim": 3}, ["`bucketise` fits one number"]),
        ([], {"dim": 0}, ["dim", "greater than or equal to 1"]),
        ([], {"delimiter": ","}, ["`delimiter` needs `dim`"]),
        ([], {"dim": 3, "delimiter": ""}, ["delimiter", "at least 1"]),
        ([], {"dim": 3, "columns": None, "name": "n", "target_encoding": {"by": "u"}}, ["`columns` holds"]),
    ],
)
def test_wrong_lists_of_numbers_are_refused(ops: list[Any], group: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        check_ops(run_with("dense", *ops, **group))
    assert [word for word in words if word not in str(error.value)] == [], str(error.value)


def test_bare_value_fills_the_first_parameter() -> None:
    assert chain("sparse", {"hash": 7})[0].params == {"num_buckets": 7, "seed": 0}
    assert chain("sparse", {"hash": "unbounded"})[0].params == {"num_buckets": 2**62, "seed": 0}


def test_dates_that_yaml_has_read_become_text() -> None:
    text = "features: {dense: [{columns: b, ops: [holiday: [2024-12-25]]}]}"
    ops = yaml.safe_load(text)["features"]["dense"][0]["ops"]
    assert chain("dense", *ops)[0].params["dates"] == ["2024-12-25"]
    moment = yaml.safe_load("age: 2024-03-01T01:00:00+01:00")
    assert chain("dense", moment)[0].params["at"] == "2024-03-01T01:00:00+01:00"


def test_every_op_is_documented_by_its_function_and_examples() -> None:
    assert len(OPS) >= 20
    for op in OPS.values():
        assert op.summary.endswith("."), op.name
        assert op.examples, op.name
        names = list(inspect.signature(op.function).parameters)[1:]
        assert set(names) == {*op.section.model_fields, *op.from_train}, op.name
        for example in op.examples:
            rows = example.train if example.rows is None else example.rows
            assert len(rows) == len(example.gives), op.name


def test_schemas_cover_every_op_and_merge_those_of_one_name() -> None:
    schemas = op_schemas()
    assert set(schemas) == {name for _, name in OPS}
    assert set(schemas) == {*feature_ops("number"), *feature_ops("token"), *feature_ops("time")}
    options = schemas["fill"]["properties"]["value"]["anyOf"]
    kinds = [{kind["type"] for kind in option["anyOf"]} for option in options]
    assert kinds == [{"number", "string"}, {"string", "integer"}]
