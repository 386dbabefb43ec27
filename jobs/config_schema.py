"""The JSON schema of a run config, for editors: sections, models with their own keys, feature ops."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from trainer.config import RunConfig
from trainer.config.files import EXTENDS
from trainer.features.ops import op_schemas
from trainer.registry import models

# Lists whose only item may stand for them.
_ONE_OR_MANY = (
    ("FeatureGroup", "ops"),
    ("EarlierConfig", "by"),
    ("TargetEncodingConfig", "by"),
    ("UserRowsConfig", "order_by"),
)
# Of a module of the user's, whose keys are not known here.
_OWN_MODEL = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "module": {"type": "string"}},
    "required": ["name", "module"],
}


def run_config_schema() -> dict[str, Any]:
    """Return a draft 2020-12 JSON schema in which `model.name` and each op decide their other keys.

    A file that extends another one may leave out whatever that one may say.
    """
    schema = RunConfig.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "shardrec run config"
    # `plan.tables` stand for the sections about rows, and for the label where `data.num_lanes` is set.
    rows = [key for key in schema["required"] if key in ("data", "features")]
    schema["required"] = [key for key in schema["required"] if key not in rows]
    declared = {"plan": {"type": "object", "required": ["tables"]}}
    definitions: dict[str, Any] = schema["$defs"]
    labels = [{"required": ["label"]}, {"required": ["labels"]}]
    data = {"data": {"type": "object", "anyOf": labels}}
    prepared = {"required": rows, "properties": data}
    schema["anyOf"] = [prepared, {"required": ["plan"], "properties": declared}]
    shipped = [_model(name, definitions) for name in models()]
    definitions["ModelConfig"] = {"oneOf": [*shipped, _OWN_MODEL]}
    definitions["OpConfig"] = {"oneOf": [form for op in op_schemas().items() for form in _op(*op)]}
    for section, key in _ONE_OR_MANY:
        properties = definitions[section]["properties"]
        properties[key] = _one_or_many(properties[key])
    extending = _extending(schema["properties"], definitions)
    whole = {key: schema.pop(key) for key in list(schema) if not key.startswith("$") and key != "title"}
    definitions |= {"WholeConfig": whole, "ExtendingConfig": extending}
    schema["anyOf"] = [{"$ref": f"#/$defs/{name}"} for name in ("WholeConfig", "ExtendingConfig")]
    return schema


def _extending(properties: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a file that extends another one, in which nothing else is required."""
    keys = {key: _part(value, definitions) for key, value in properties.items()}
    keys[EXTENDS] = {
        "type": "string",
        "minLength": 1,
        "description": "File whose keys this one takes over.",
    }
    return _object(keys, [EXTENDS])


def _part(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without what it requires of mappings; lists are not merged, and stay as they are."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        if name == "ModelConfig":  # Without a name the keys are those of the model that the other file names.
            return {"anyOf": [schema, {"type": "object", "not": {"required": ["name"]}}]}
        part = f"{name}Part"
        if part not in definitions:
            definitions[part] = _part(definitions[name], definitions)
        return {**schema, "$ref": f"#/$defs/{part}"}
    made = {key: value for key, value in schema.items() if key != "required"}
    if "anyOf" in made:
        made["anyOf"] = [_part(one, definitions) for one in made["anyOf"]]
    if "properties" in made:
        made["properties"] = {key: _part(value, definitions) for key, value in made["properties"].items()}
    if isinstance(made.get("additionalProperties"), dict):
        made["additionalProperties"] = _part(made["additionalProperties"], definitions)
    return made


def _model(name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    section = TypeAdapter(models()[name].config).json_schema(ref_template="#/$defs/{model}")
    definitions.update(section.pop("$defs", {}))
    section["properties"] |= {"name": {"const": name}, "module": {"type": "null"}}
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
    """Return the schema of such a list."""
    said: dict[str, Any] = {key: array.pop(key) for key in ("default", "description") if key in array}
    return {"anyOf": [array, array["items"]], **said}
