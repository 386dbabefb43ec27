"""The JSON schema of a run config, for editors: sections, models with their own keys, feature ops."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from trainer.config import RunConfig
from trainer.features.ops import op_schemas
from trainer.registry import models


def run_config_schema() -> dict[str, Any]:
    """Return a draft 2020-12 JSON schema in which `model.name` and each op decide their other keys."""
    schema = RunConfig.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "shardrec run config"
    # `plan.tables` stand for the sections about rows, and for the label where `data.num_lanes` is set.
    rows = [key for key in schema["required"] if key in ("data", "features")]
    schema["required"] = [key for key in schema["required"] if key not in rows]
    declared = {"plan": {"type": "object", "required": ["tables"]}}
    definitions: dict[str, Any] = schema["$defs"]
    data = {"data": {"type": "object", "required": definitions["DataConfig"].pop("required")}}
    prepared = {"required": rows, "properties": data}
    schema["anyOf"] = [prepared, {"required": ["plan"], "properties": declared}]
    definitions["ModelConfig"] = {"oneOf": [_model(name, definitions) for name in models()]}
    definitions["OpConfig"] = {"oneOf": [form for op in op_schemas().items() for form in _op(*op)]}
    group = definitions["FeatureGroup"]["properties"]
    group["ops"] = _one_or_many(group["ops"])
    return schema


def _model(name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    section = TypeAdapter(models()[name].config).json_schema(ref_template="#/$defs/{model}")
    definitions.update(section.pop("$defs", {}))
    section["properties"]["name"] = {"const": name}
    return section


def _op(name: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the forms `name`, `{name: value}` or `{name: {parameters}}`, and the long one of an op."""
    values = list(parameters.get("properties", {}).values())
    inner = [parameters, *values[:1]]
    bare = not parameters.get("required")
    if bare:
        inner.append({"type": "null"})
    pair = _object({name: {"anyOf": inner}}, [name])
    long = _object({"name": {"const": name}, "params": {"type": "object"}, "value": {}}, ["name"])
    return [{"const": name}, pair, long] if bare else [pair, long]


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _one_or_many(array: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a list whose only item may stand for it."""
    said: dict[str, Any] = {key: array.pop(key) for key in ("default", "description") if key in array}
    return {"anyOf": [array, array["items"]], **said}
