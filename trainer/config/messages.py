"""Turns pydantic's findings into one error with the full key path and a did-you-mean."""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from trainer.config.yaml_text import flow_yaml, parse_yaml
from trainer.errors import ConfigError

_SHOWN_FINDINGS = 8
_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number with a fraction",
    str: "text",
    type(None): "nothing",
}
_TYPES: dict[str, tuple[type, ...]] = {"int_type": (int,), "float_type": (int, float), "bool_type": (bool,)}


@dataclass(frozen=True)
class _Finding:
    what: str
    key: str
    got: object = None
    allowed: object = None
    fixes: tuple[str, ...] = ()

    def line(self) -> str:
        return f"{self.what} (`{self.key}`)" + (f": {self.fixes[0]}" if self.fixes else "")


def config_error(
    error: ValidationError, root: type[BaseModel], where: str | Callable[[str], str], section: str = ""
) -> ConfigError:
    """Return one `ConfigError` for all findings: the first in full, the others as one line each.

    Args:
        error: what pydantic found.
        root: the section that was validated.
        where: the file or flag that the input came from, or what returns the place of a key path.
        section: key path of the section inside the config.
    """
    items = [(item, _keys(item, root)) for item in error.errors(include_url=False)]
    found = [_finding(item, keys, root, section) for item, keys in _without_other_branches(items)]
    # Each value that a list lacks is a finding of its own to pydantic.
    first, *others = {(finding.key, finding.what): finding for finding in found}.values()
    also = [finding.line() for finding in others[: _SHOWN_FINDINGS - 1]]
    if len(others) > len(also):
        also.append(f"{len(others) - len(also)} more")
    return ConfigError(
        first.what,
        where=where(first.key) if callable(where) else placed(where, first.key),
        got=first.got,
        allowed=first.allowed,
        fixes=first.fixes,
        also=also,
    )


def placed(where: str, key: str) -> str:
    """Return the place of a key in a file or flag."""
    return f"{where}: {key}" if key else where


def did_you_mean(word: str, choices: typing.Iterable[str]) -> str | None:
    """Return `did you mean ...?` for the nearest choice, or None when none is near."""
    lowered = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f"did you mean `{lowered[near[0]]}`?" if near else None


def _finding(item: Any, keys: list[Any], root: type[BaseModel], section: str) -> _Finding:
    key = ".".join(str(part) for part in ([section] if section else []) + keys)
    if item["type"] == "extra_forbidden":
        names = _fields(_annotation(root, keys[:-1]))
        return _Finding("unknown key", key, None, names or None, _only(did_you_mean(str(keys[-1]), names)))
    example = _only(_example(root, keys)) if item["type"] != "value_error" else ()
    short = typing.get_origin(_annotation(root, keys[:-1])) is tuple
    if item["type"] == "missing" and short:
        return _wrong_length(item, key.rpartition(".")[0], root, keys[:-1])
    if item["type"] == "missing":
        return _Finding("a required key is missing", key, None, None, example)
    if item["type"] == "too_long" and typing.get_origin(_annotation(root, keys)) is tuple:
        return _wrong_length(item, key, root, keys)
    if item["type"] == "model_type":
        names = _fields(_annotation(root, keys))
        return _Finding("this must be a section of keys", key, _with_kind(item["input"]), names, example)
    message = str(item["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    context = item.get("ctx", {})
    if "fixes" in context:  # a rule of ours that knows more than what is wrong
        return _Finding(message, key, context["got"], context.get("allowed"), tuple(context["fixes"]))
    got, expected = item.get("input"), context.get("expected")
    if item["type"].endswith("_type"):
        message = message.replace("tuple", "list")  # YAML has no other word
        fixes = _only(_as_expected(item["type"], got)) or example
        return _Finding(message, key, _with_kind(got), expected, fixes)
    # Of a whole section the message says what is wrong in it.
    shown = got if isinstance(got, (*_KINDS, list)) else None if isinstance(got, dict) else type(got).__name__
    fix = None
    if expected is not None and isinstance(got, str):
        fix = did_you_mean(got, [choice.strip(" '") for choice in expected.replace(" or ", ",").split(",")])
    return _Finding(message, key, shown, expected, _only(fix) or example)


def _wrong_length(item: Any, key: str, root: type[BaseModel], keys: list[Any]) -> _Finding:
    """Return the finding of a list that must have a certain number of values."""
    given, field = list(item["input"]), _field(root, keys)
    what = (
        f"this must be a list of {len(typing.get_args(_annotation(root, keys)))} values, not of {len(given)}"
    )
    meaning = " ".join((field.description or "").split()).partition(". ")[0] if field is not None else ""
    return _Finding(what, key, flow_yaml(given), meaning or None, _only(_example(root, keys)))


def _example(root: type[BaseModel], keys: list[Any]) -> str | None:
    """Return how to write the nearest key at or above a path that has an example."""
    for end in range(len(keys), 0, -1):
        field = _field(root, keys[:end])
        if field is not None and field.examples:
            return f"for instance `{keys[end - 1]}: {flow_yaml(field.examples[0])}`"
    return None


def _field(root: type[BaseModel], keys: list[Any]) -> FieldInfo | None:
    """Return the field of a section that a path of keys leads to, None for items and mappings' keys."""
    sections = [kind for kind in _branches(_annotation(root, keys[:-1])) if _is_section(kind)]
    found = [section.model_fields.get(str(keys[-1])) for section in sections]
    return next((field for field in found if field is not None), None)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _only(fix: str | None) -> tuple[str, ...]:
    return () if fix is None else (fix,)


def _with_kind(got: Any) -> str:
    """Return a value of the wrong type with its type, to tell `"10"` from `10`."""
    if type(got) in _KINDS:
        return f"{json.dumps(got, ensure_ascii=False)} ({_KINDS[type(got)]})"
    return "a mapping" if isinstance(got, dict) else "a list" if isinstance(got, list) else type(got).__name__


def _as_expected(expected: str, got: Any) -> str | None:
    """Return how to write a value whose type alone is wrong."""
    if expected == "int_type" and isinstance(got, float) and got.is_integer():
        return f"write {int(got)}"
    if expected == "string_type" and isinstance(got, (bool, int, float)):
        return f'write it in quotes: "{json.dumps(got)}"'
    if isinstance(got, str) and type(_unquoted(got)) in _TYPES.get(expected, ()):
        return f"write {got} without quotes"
    return None


def _unquoted(text: str) -> Any:
    """Return what YAML would read without the quotes."""
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return None


def _keys(item: Any, root: type[BaseModel]) -> list[Any]:
    """Return the path of a finding without what pydantic adds to it: names of union branches, `[key]`."""
    annotation: Any = root
    keys: list[Any] = []
    for part in item["loc"]:
        branches = _branches(annotation)
        if len(branches) > 1:
            annotation = next((kind for kind in branches if _names(part, kind)), None)
            continue
        keys.append(part)
        annotation = _inside(branches[0], part)
    if keys and keys[-1] == "[key]" and item["type"] != "extra_forbidden":
        keys.pop()
    return keys


def _without_other_branches(items: list[tuple[Any, list[Any]]]) -> list[tuple[Any, list[Any]]]:
    """Drop "no list" and the like where another branch of the union took the value and found more."""

    def further(other: Any, keys: list[Any], path: list[Any]) -> bool:
        if path == keys:
            return not other["type"].endswith("_type")
        return path[: len(keys)] == keys

    return [
        (item, keys)
        for item, keys in items
        if not item["type"].endswith("_type") or not any(further(other, keys, path) for other, path in items)
    ]


def _annotation(root: type[BaseModel], keys: list[Any]) -> Any:
    """Return the annotation at a path of keys; of a union, the branch that has such keys."""
    annotation: Any = root
    for key in keys:
        found = [_inside(branch, key) for branch in _branches(annotation)]
        annotation = next((kind for kind in found if kind is not None), None)
    return annotation


def _inside(annotation: Any, key: Any) -> Any:
    """Return the annotation of a section's field, a list's item or a mapping's value."""
    if _is_section(annotation):
        field = annotation.model_fields.get(str(key))
        return None if field is None else field.annotation
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple:
        return arguments[key] if isinstance(key, int) and key < len(arguments) else None
    return arguments[-1] if typing.get_origin(annotation) in (list, dict) else None


def _branches(annotation: Any) -> list[Any]:
    """Return the kinds of a union without None, in which pydantic adds a part to the path; else one."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _branches(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        return [branch for kind in kinds for branch in _branches(kind)]
    return [annotation]


def _names(part: Any, kind: Any) -> bool:
    """Return whether pydantic calls a branch so: `str`, `list[str]`, `MySection`."""
    name = getattr(typing.get_origin(kind) or kind, "__name__", "")
    return str(part).split("[")[0].lower() == name.lower()


def _fields(annotation: Any) -> list[str]:
    """Return the keys allowed in a section, sorted."""
    sections = [kind for kind in _branches(annotation) if _is_section(kind)]
    return sorted({name for section in sections for name in section.model_fields})
