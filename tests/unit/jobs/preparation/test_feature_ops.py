"""Ops of a config are checked by their signatures, without Spark running."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.preparation.feature_ops import check_ops, feature_ops, op_schemas, resolve_op
from trainer.config import OpConfig, RunConfig
from trainer.errors import ConfigError


def run_with(kind: str, *ops: Any) -> RunConfig:
    return RunConfig.from_dict(
        {
            "name": "ops",
            "data": {"label": {"column": "label"}},
            "features": {kind: [{"columns": "a"}, {"columns": "b", "ops": list(ops)}]},
            "model": {"name": "dlrm"},
        }
    )


@pytest.mark.parametrize(
    ("kind", "ops"),
    [
        ("dense", [{"fill": 0}, {"clip": {"min": 0, "max": 1.5}}, "log1p", "standardise"]),
        ("dense", [{"fill": "median"}]),
        ("sparse", [{"fill": "none"}, {"split": "|"}, {"vocabulary": {"min_count": 2, "max_size": 10}}]),
        ("sparse", [{"hash": 100}]),
        ("sequence", [{"split": ","}, {"hash": {"num_buckets": 100, "seed": 4}}]),
    ],
)
def test_good_ops_pass_without_a_spark_session(kind: str, ops: list[Any]) -> None:
    before = SparkSession.getActiveSession()
    check_ops(run_with(kind, *ops))
    assert SparkSession.getActiveSession() is before


@pytest.mark.parametrize(
    ("kind", "ops", "words"),
    [
        ("dense", ["logp1"], ["logp1", "`log1p`", "features.dense.1.ops.0"]),
        ("dense", ["log1p", {"clip": {"mni": 0}}], ["mni", "`min`", "features.dense.1.ops.1"]),
        ("dense", [{"clip": {}}], ["`min`, `max` or both", "features.dense.1.ops.0"]),
        ("dense", [{"clip": {"min": 2, "max": 1}}], ["min < max"]),
        ("dense", [{"fill": "average"}], ["features.dense.1.ops.0"]),
        ("dense", [{"log1p": 3}], ["takes no parameter"]),
        ("dense", [{"standardise": {"mean": 1.0}}], ["unknown key", "mean"]),
        ("dense", [{"hash": 10}], ["no such op for dense features", "hash"]),
        ("sparse", ["standardise"], ["no such op for sparse features"]),
        ("sparse", ["hash"], ["num_buckets", "required"]),
        ("sparse", [{"hash": 0}], ["num_buckets"]),
        ("sparse", [{"hash": "many"}], ["num_buckets"]),
        ("sparse", ["vocabulary", {"split": "|"}], ["must be the last op", "features.sparse.1.ops.1"]),
        ("sequence", [{"vocabulary": {"min_cout": 2}}], ["`min_count`", "features.sequence.1.ops.0"]),
    ],
)
def test_wrong_ops_are_named_with_their_place(kind: str, ops: list[Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        check_ops(run_with(kind, *ops))
    assert [word for word in words if word not in str(error.value)] == []


def test_bare_value_fills_the_first_parameter() -> None:
    op = resolve_op(OpConfig.model_validate({"hash": 7}), "sparse", "features.sparse.0.ops.0")
    assert op.params == {"num_buckets": 7, "seed": 0}


def test_every_op_is_documented_by_its_function() -> None:
    ops = [*feature_ops("dense").values(), *feature_ops("sparse").values()]
    assert len(ops) >= 8
    for op in ops:
        assert op.summary.endswith(".")
        names = list(inspect.signature(op.function).parameters)[1:]
        assert sorted([*op.section.model_fields, *op.from_train]) == sorted(names)


def test_schemas_cover_every_op_and_merge_those_of_one_name() -> None:
    schemas = op_schemas()
    assert set(schemas) == set(feature_ops("dense")) | set(feature_ops("sparse"))
    options = schemas["fill"]["properties"]["value"]["anyOf"]
    kinds = [{kind["type"] for kind in option["anyOf"]} for option in options]
    assert kinds == [{"number", "string"}, {"string", "integer"}]
