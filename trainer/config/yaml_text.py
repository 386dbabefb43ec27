"""YAML as people expect it (YAML 1.2's core rules): `on`, `12:30` and `2024-01-31` are words, `010` is ten.

Merge keys (`<<`) work as well. A key that stands twice in one mapping is an error.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
_CORE = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+|\.[0-9]+|[0-9]+\.[0-9]*"
        r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("merge", r"<<", ["<"]),
)
_KNOWN_TAGS = {_TAG + name for name in ("null", "bool", "int", "float", "merge", "str", "seq", "map")}


class DuplicateKeyError(yaml.MarkedYAMLError):
    """A key stands twice in one mapping.

    Attributes:
        key: its path, such as `train.epochs`.
        line: of the second one, from 1.
        first_line: of the first one.
    """

    def __init__(self, key: str, first: yaml.Mark, second: yaml.Mark) -> None:
        super().__init__(problem=f"the key `{key}` stands twice", problem_mark=second)
        self.key = key
        self.line = second.line + 1
        self.first_line = first.line + 1


class _CoreLoader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own form


class _CoreDumper(yaml.SafeDumper):
    """SafeDumper that quotes what either version of YAML would not read as text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own form
        first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


def _whole_number(loader: _CoreLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text[2:] if base != 10 else text, base)


for _name, _pattern, _first in _CORE:
    for _kind in (_CoreLoader, _CoreDumper):
        _kind.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), _first)
_CoreLoader.add_constructor(_TAG + "int", _whole_number)


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        DuplicateKeyError: a key stands twice in one mapping.
        yaml.YAMLError: the text is not YAML.
    """
    loader = _CoreLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_node(node, (), ())
        return loader.construct_document(node)
    except (KeyError, ValueError) as error:  # a tag that its text does not fit, such as `!!int x`
        raise yaml.YAMLError(f"a value does not fit its tag: {error}") from error
    finally:
        loader.dispose()


def dump_yaml(value: Any) -> str:
    """Return plain values as YAML that `parse_yaml` reads back the same."""
    return str(yaml.dump(value, Dumper=_CoreDumper, sort_keys=False, allow_unicode=True))


def flow_yaml(value: Any) -> str:
    """Return plain values as YAML of one line: `{method: time, column: day}`."""
    made = yaml.dump(
        value, Dumper=_CoreDumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=10**6
    )
    return str(made).removesuffix("...\n").strip()  # which ends a value that is no list or mapping


def _check_node(node: yaml.Node, path: tuple[str, ...], above: tuple[yaml.Node, ...]) -> None:
    """Refuse tags for other than plain values, a node that holds itself, and repeated keys."""
    if node.tag not in _KNOWN_TAGS:
        raise yaml.MarkedYAMLError(problem=f"unknown tag {node.tag!r}", problem_mark=node.start_mark)
    if any(node is other for other in above):
        raise yaml.MarkedYAMLError(
            problem="an alias stands inside its own anchor", problem_mark=node.start_mark
        )
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _check_node(item, (*path, str(number)), (*above, node))
    elif isinstance(node, yaml.MappingNode):
        seen: dict[tuple[str, str], yaml.Mark] = {}
        for key, value in node.value:
            inner = (*path, str(key.value))
            if isinstance(key, yaml.ScalarNode):
                first = seen.setdefault((key.tag, key.value), key.start_mark)
                if first is not key.start_mark:
                    raise DuplicateKeyError(".".join(inner), first, key.start_mark)
            _check_node(value, inner, (*above, node))
