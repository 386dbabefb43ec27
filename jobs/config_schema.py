"""The JSON schema of a run config, for editors: sections, models with their own keys, feature ops."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from jobs.preparation.feature_ops import op_schemas
from trainer.config import RunConfig
from trainer.registry import models


def run_config_schema() -> dict[str, Any]:
    """Return a draft 2020-12 JSON schema in which `model.name` and each op decide their other keys."""
    schema = RunConfig.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "shardrec run config"
    definitions: dict[str, Any] = schema["$defs"]
    definitions["ModelConfig"] = {"oneOf": [_model(name, definitions) for name in models()]}
    definitions["OpConfig"] = {"oneOf": [form for op in op_schemas().items() for form in _op(*op)]}
    return schema


def _model(name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    section = TypeAdapter(models()[name].config).json_schema(ref_template="#/$defs/{model}")
    definitions.update(section.pop("$defs", {}))
    section["properties"]["name"] = {"const": name}
    return section


def _op(name: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the forms `name`, `{name: value}` and `{name: {parameters}}` of an op."""
    values = list(parameters.get("properties", {}).values())
    inner = [parameters, *values[:1]]
    pair = {
        "type": "object",
        "properties": {name: {"anyOf": inner}},
        "required": [name],
        "additionalProperties": False,
    }
    return [{"const": name}, pair]
