"""The JSON schema accepts what the loader accepts: every shipped config, as written and resolved."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.config_schema import run_config_schema
from trainer.config import RunConfig
from trainer.config.yaml_text import parse_yaml
from trainer.features.ops import check_ops

SCHEMA = run_config_schema()
CONFIGS = Path(__file__).parents[3] / "jobs" / "configs"
SHIPPED = [path for path in sorted(CONFIGS.glob("*.yaml")) if not path.stem.endswith("_base")]
KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}
SAID = {"title", "description", "examples", "default", "$defs", "$schema", "discriminator"}


def is_a(value: Any, kind: str) -> bool:
    return isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))


def same(value: Any, other: Any) -> bool:
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def accepts(schema: Any, value: Any) -> bool:
    """Return whether a value keeps the rules of a JSON schema; an unknown rule is an error of the test."""
    if isinstance(schema, bool):
        return schema
    return all(keeps(rule, schema[rule], value, schema) for rule in schema if rule not in SAID)


def keeps(rule: str, want: Any, value: Any, schema: dict[str, Any]) -> bool:
    number, text = is_a(value, "number"), isinstance(value, str)
    mapping, many = isinstance(value, dict), isinstance(value, list)
    known = schema.get("properties", {})
    first = len(schema.get("prefixItems", []))
    rules: dict[str, Any] = {
        "$ref": lambda: accepts(SCHEMA["$defs"][want.rsplit("/", 1)[1]], value),
        "anyOf": lambda: any(accepts(one, value) for one in want),
        "oneOf": lambda: sum(accepts(one, value) for one in want) == 1,
        "not": lambda: not accepts(want, value),
        "allOf": lambda: all(accepts(one, value) for one in want),
        "const": lambda: same(want, value),
        "enum": lambda: any(same(one, value) for one in want),
        "type": lambda: is_a(value, want),
        "properties": lambda: not mapping or all(accepts(s, value[k]) for k, s in want.items() if k in value),
        "patternProperties": lambda: (
            not mapping
            or all(accepts(s, v) for form, s in want.items() for k, v in value.items() if re.search(form, k))
        ),
        "required": lambda: not mapping or set(want) <= value.keys(),
        "additionalProperties": lambda: (
            not mapping or all(accepts(want, inner) for key, inner in value.items() if key not in known)
        ),
        "items": lambda: not many or all(accepts(want, item) for item in value[first:]),
        "prefixItems": lambda: not many or all(map(accepts, want, value)),
        "minProperties": lambda: not mapping or len(value) >= want,
        "minItems": lambda: not many or len(value) >= want,
        "maxItems": lambda: not many or len(value) <= want,
        "minLength": lambda: not text or len(value) >= want,
        "pattern": lambda: not text or re.search(want, value) is not None,
        "minimum": lambda: not number or value >= want,
        "maximum": lambda: not number or value <= want,
        "exclusiveMinimum": lambda: not number or value > want,
        "exclusiveMaximum": lambda: not number or value < want,
    }
    return bool(rules[rule]())


def with_ops(ops: Any, kind: str = "sparse") -> dict[str, Any]:
    return {
        "name": "x",
        "data": {"label": {"column": "y"}},
        "features": {kind: [{"columns": "C1", "ops": ops}]},
        "model": {"name": "dlrm"},
    }


def loads(raw: dict[str, Any]) -> bool:
    try:
        check_ops(RunConfig.from_dict(raw))
    except ValueError as error:
        raise AssertionError("not an error of ours") from error
    except Exception:
        return False
    return True


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_is_valid_as_written_and_resolved(path: Path) -> None:
    assert accepts(SCHEMA, parse_yaml(path.read_text()))
    run = RunConfig.load(path)
    assert accepts(SCHEMA, run.as_dict())
    assert accepts(SCHEMA, parse_yaml(run.to_yaml()))


@pytest.mark.parametrize(
    "ops",
    [
        "vocabulary",
        ["vocabulary"],
        {"hash": 100},
        {"hash": "unbounded"},
        [{"hash": 100}],
        [{"hash": {"num_buckets": 100, "seed": 2}}],
        [{"vocabulary": None}],
        [{"vocabulary": {"min_count": 2}}],
        {"vocabulary": None},
        [{"name": "vocabulary", "params": {"min_count": 2}, "value": None}],
        [],
    ],
)
def test_every_spelling_of_ops_is_valid_as_written_and_resolved(ops: Any) -> None:
    raw = with_ops(ops)
    assert loads(raw)
    assert accepts(SCHEMA, raw)
    assert accepts(SCHEMA, RunConfig.from_dict(raw).as_dict())


@pytest.mark.parametrize(
    "ops",
    [
        "vocabular",
        [{"hsh": 100}],
        [{"hash": "many"}],
        [{"hash": {"buckets": 3}}],
        [{"hash": None}],
        ["hash"],
        [{"hash": 100, "vocabulary": None}],
        [7],
        7,
    ],
)
def test_wrong_ops_are_refused_by_the_schema_as_by_the_loader(ops: Any) -> None:
    assert not loads(with_ops(ops))
    assert not accepts(SCHEMA, with_ops(ops))


def test_a_label_may_be_missing_only_beside_declared_tables() -> None:
    raw = {**with_ops([]), "data": {"num_lanes": 8}, "train": {"global_batch_size": 64}}
    assert not loads(raw)
    assert not accepts(SCHEMA, raw)
    declared = {**raw, "plan": {"tables": {"t": {"num_embeddings": 9}}}}
    assert loads(declared)
    assert accepts(SCHEMA, declared)


def test_labels_of_several_tasks_stand_in_for_the_label() -> None:
    raw = {
        **with_ops([]),
        "data": {"labels": {"click": {"column": "y"}, "stars": {"column": "z", "kind": "rating"}}},
    }
    assert loads(raw)
    assert accepts(SCHEMA, raw)
    assert accepts(SCHEMA, RunConfig.from_dict(raw).as_dict())
    wrong = {**raw, "data": {"labels": {"click": {"column": "y", "kind": "grade"}}}}
    assert not loads(wrong)
    assert not accepts(SCHEMA, wrong)


def test_a_misspelt_key_is_refused_by_the_schema() -> None:
    raw = yaml.safe_load(json.dumps(with_ops([])))
    assert accepts(SCHEMA, raw)
    assert not accepts(SCHEMA, {**raw, "trian": {}})
    assert not accepts(SCHEMA, {**raw, "model": {"name": "dlmr"}})
    assert not accepts(SCHEMA, {**raw, "model": {"name": "dlrm", "dropot": 0.1}})


def test_a_file_that_extends_another_may_leave_out_keys_but_not_misspell_them() -> None:
    part = {
        "extends": "base.yaml",
        "data": {"root": "elsewhere", "source": {"path": "a.csv"}},
        "model": {"dropout": 0.1},
        "tables": {"C*": {"ids": {"evict": "lru"}}},
        "recommend": {"title": "t"},
    }
    assert accepts(SCHEMA, part)
    assert accepts(SCHEMA, {"extends": "base.yaml"})
    assert not accepts(SCHEMA, {key: value for key, value in part.items() if key != "extends"})
    for wrong in (
        {"data": {"rot": "elsewhere"}},
        {"data": {"joins": [{"on": ["a"]}]}},
        {"tables": {"C*": {"ids": {"evct": "lru"}}}},
        {"recommend": {"titel": "t"}},
        {"model": {"name": "dlrm", "dropot": 0.1}},
        {"extends": ""},
    ):
        assert not accepts(SCHEMA, {**part, **wrong}), wrong
