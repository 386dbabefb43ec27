"""Writes what comes from the code: pages of reference, pictures of sharding types, plans of what-if configs.

    python docs/generate.py            write them
    python docs/generate.py --check    exit 1 and show the difference when one of them is out of date

Keys, types, defaults, limits, meanings and papers are read from the pydantic sections and the registries of
ops, models and hardware, so a page is mended by mending the docstring in the code.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from hardware_page import cell, hardware_page
from introductions import CONFIG_INTRO, MADE_INTRO, MODELS_INTRO, OPS_INTRO
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from sharding_pictures import picture
from what_if_page import what_if_page

from sharding.sharders import SHARDING_TYPES
from trainer.config import FeatureGroup, ModelConfig, OpConfig, RunConfig
from trainer.features.made_examples import EVENTS, MADE_EXAMPLES, MadeExample
from trainer.features.ops import feature_ops
from trainer.features.registry import Example, FeatureOp, Takes
from trainer.registry import ModelSection, RegisteredModel, models

DOCS = Path(__file__).resolve().parent
CONFIGS = DOCS.parent / "jobs" / "configs"
NOTICE = "<!-- Made by docs/generate.py from the code; edit the docstrings there and run `make docs`. -->\n"
SIMPLE_TYPES = {str: "text", int: "integer", float: "number", bool: "`true` or `false`", Any: "any value"}
KeyPaths = Mapping[type[BaseModel], list[str]]
LIMITS = {"ge": ">= {}", "gt": "> {}", "le": "<= {}", "lt": "< {}"}


OP_KINDS: dict[Takes, str] = {
    "number": """## Numbers

Integers, fractions, decimals, booleans (0 or 1), and text that reads as a number. Null, NaN and blank text
are missing; a dense feature that has missing values needs `fill`. Each number of a list (`dim`) goes through
the ops; those that fit something are refused ([lists in the rows](vectors.md#lists-in-the-rows)).
""",
    "time": """## Times

Timestamps, dates, numbers (seconds since 1970), and text such as `2024-12-31` or `2024-12-31 23:00:00+01:00`;
one that names no zone is in UTC. `data.time_formats` tells the form of others, such as `20241231`.
""",
    "token": """## Ids

Text, numbers, booleans, dates, timestamps, and lists of them. Null, NaN and empty text are missing; in a list
they are left out. Whole fractions and decimals count as integers (`7.0` and `7.0000` are `7`), and
timestamps are written in UTC.
""",
}


def config_page() -> str:
    """Return docs/config.md."""
    found = key_paths(RunConfig, "")
    return "\n".join([NOTICE, CONFIG_INTRO, *(section_text(section, found) for section in found)])


def ops_page() -> str:
    """Return docs/feature-ops.md."""
    parts = [NOTICE, OPS_INTRO]
    for takes, intro in OP_KINDS.items():
        parts += [intro, *map(op_text, feature_ops(takes).values())]
    parts += [MADE_INTRO, columns_table(EVENTS)]
    return "\n".join([*parts, *(made_text(key, examples) for key, examples in MADE_EXAMPLES.items())])


def made_text(key: str, examples: tuple[MadeExample, ...]) -> str:
    """Return what a key of a feature group makes of several columns or rows, with its examples."""
    field = FeatureGroup.model_fields[key]
    text = " ".join((field.description or "").split())
    if list(inner_sections(field.annotation)):
        text += f" Its keys are in the [config reference](config.md#{slug(f'features.dense[].{key}')})."
    return f"### `{key}`\n\n{text}\n" + "".join(f"\n{made_example_text(example)}" for example in examples)


def made_example_text(example: MadeExample) -> str:
    """Return an example as YAML under its section, and what the feature holds for each row."""
    shown = yaml.safe_dump(dict(example.group), default_flow_style=True, sort_keys=False, width=200)
    fitted = "For rows to be scored:\n\n" if example.scored else ""
    table = columns_table({**example.rows, "prepared": example.gives})
    return f"```yaml\n{example.kind}:\n  - {shown}```\n\n{fitted}{table}"


def columns_table(columns: Mapping[str, list[Any]]) -> str:
    """Return a table with a line for each column, and the values of the rows side by side."""
    lines = [f"| {name} | {' | '.join(map(value_code, values))} |" for name, values in columns.items()]
    width = len(next(iter(columns.values()))) + 1
    return "\n".join([lines[0], f"|{' --- |' * width}", *lines[1:]]) + "\n"


def op_text(op: FeatureOp) -> str:
    """Return one op: what it does, its parameters, what it fits, its examples."""
    text = f"### `{op.name}`\n\n{' '.join((op.function.__doc__ or '').split())}\n"
    if op.from_train:
        text += f"\nFitted on the training rows: {', '.join(f'`{name}`' for name in op.from_train)}.\n"
    if op.section.model_fields:
        text += "\n" + section_table(op.section, {}).replace("| key |", "| parameter |", 1)
    return text + "".join(f"\n{example_text(example)}" for example in op.examples)


def example_text(example: Example) -> str:
    """Return the ops of an example as YAML, and a table of raw and prepared values."""
    ops = example.op if isinstance(example.op, list) else [example.op]
    shown = yaml.safe_dump(ops, default_flow_style=True, sort_keys=False, width=200)
    rows = example.train if example.rows is None else example.rows
    fitted = "" if example.rows is None else f"With training rows {values_text(example.train)}:\n\n"
    raw = " | ".join(value_code(value) for value in rows)
    prepared = " | ".join(value_code(value) for value in example.gives)
    lines = f"| raw | {raw} |\n|{' --- |' * (len(rows) + 1)}\n| prepared | {prepared} |\n"
    return f"```yaml\nops: {shown}```\n\n{fitted}{lines}"


def values_text(values: list[Any]) -> str:
    """Return raw values one after another."""
    return ", ".join(value_code(value) for value in values)


def value_code(value: Any) -> str:
    """Return a value as code; a missing one as a word."""
    return "missing" if value is None else f"`{cell(str(value))}`"


def models_page() -> str:
    """Return docs/models.md."""
    rows = [
        f"| [`{m.name}`](models/{m.name}.md) | {m.task} | {cell(m.needs)} | {cell(m.summary)} |"
        for m in models().values()
    ]
    heads = ["| name | task | needs | what it does |", "|---|---|---|---|"]
    return "\n".join([NOTICE, MODELS_INTRO, *heads, *rows, ""])


def model_page(entry: RegisteredModel) -> str:
    """Return a page of one model: what its docstring says, paper, keys, and its section with all defaults."""
    found = key_paths(entry.config, "model")
    defaults = entry.config(name=entry.name).model_dump(mode="json", exclude_none=True)
    shown = yaml.safe_dump({"model": defaults}, sort_keys=False, default_flow_style=None)
    own, *inner = found
    described = inspect.cleandoc(entry.build.__doc__ or "").partition("\nArgs:\n")[0].strip()
    configs = sorted(file.name for file in CONFIGS.glob("*.yaml") if entry.name == model_of(file))
    return "\n".join(
        [
            NOTICE,
            f"# `{entry.name}`\n\n{described}\n",
            f"Task: {entry.task}, {'any number of labels' if entry.several_tasks else 'one label'}. "
            f"Needs {entry.needs}. "
            f"Source: {link_papers(entry.source)}.\n",
            f"Configs: {', '.join(f'`jobs/configs/{name}`' for name in configs)}.\n",
            f"## Keys of `model`\n\n{section_table(own, found)}",
            *(section_text(section, found) for section in inner),
            f"## With all defaults\n\n```yaml\n{shown}```\n",
        ]
    )


def model_of(config: Path) -> str:
    """Return the model of a shipped config."""
    return RunConfig.load(config).model.name if "_base" not in config.stem else ""


def key_paths(root: type[BaseModel], path: str) -> KeyPaths:
    """Return a section and those inside it, in the order of their keys, with every key path of each."""
    found: dict[type[BaseModel], list[str]] = {}

    def visit(section: type[BaseModel], path: str) -> None:
        found.setdefault(section, []).append(path)
        if len(found[section]) > 1:
            return
        for name, field in section.model_fields.items():
            for inner, suffix in inner_sections(field.annotation):
                # Ops and models have pages of their own.
                if inner not in (ModelConfig, OpConfig):
                    visit(inner, f"{path}.{name}{suffix}".lstrip("."))

    visit(root, path)
    return found


def inner_sections(annotation: Any, suffix: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    """Yield the section classes inside an annotation, with `[]` for lists and `.<glob>` for mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, suffix
        return
    origin = typing.get_origin(annotation)
    mark = "[]" if origin is list else ".<glob>" if origin is dict else ""
    for argument in typing.get_args(annotation):
        yield from inner_sections(argument, suffix + mark)


def section_text(section: type[BaseModel], found: KeyPaths, level: int = 2) -> str:
    """Return heading, purpose and key table of one section."""
    path, *others = found[section]
    heading = f"`{path}`" if path else "Top level"
    also = f" The same keys under {', '.join(f'`{other}`' for other in others)}." if others else ""
    return f"{'#' * level} {heading}\n\n{doc_line(section)}{also}\n\n{section_table(section, found)}"


def section_table(section: type[BaseModel], found: KeyPaths) -> str:
    """Return one row per key: name, type and limits, default, meaning."""
    rows = []
    for name, field in section.model_fields.items():
        if name == "name" and issubclass(section, ModelSection):
            continue
        kinds = [kind for kind, _ in inner_sections(field.annotation)]
        # A key without a text of its own is explained by the section that it holds.
        meaning = field.description or (doc_line(kinds[0]) if kinds else "")
        value = value_text(field.annotation, found) + limits_text(field)
        rows.append([f"`{name}`", value, default_text(field), cell(meaning)])
    width = 4 if any(row[3] for row in rows) else 3
    rows = [["key", "value", "default", "meaning"], ["---"] * 4, *rows]
    return "\n".join(f"| {' | '.join(row[:width])} |" for row in rows) + "\n"


def value_text(annotation: Any, found: KeyPaths) -> str:
    """Return what a key may hold, in words."""
    if annotation in SIMPLE_TYPES:
        return SIMPLE_TYPES[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return section_link(annotation, found)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin is typing.Annotated:
        limits = [text for item in arguments[1:] for text in limit_items(item)]
        return value_text(arguments[0], found) + "".join(f" {text}" for text in limits)
    if origin in (typing.Union, types.UnionType):
        kinds = [value_text(kind, found) for kind in arguments if kind is not type(None)]
        return " or ".join(kinds)
    if origin is list:
        return f"list of {value_text(arguments[0], found)}"
    if origin is tuple:
        return f"{len(arguments)} x {value_text(arguments[0], found)}"
    if origin is dict:
        return f"mapping of {value_text(arguments[0], found)} to {value_text(arguments[1], found)}"
    raise TypeError(f"docs/generate.py does not know how to write the type {annotation!r}")


def section_link(section: type[BaseModel], found: KeyPaths) -> str:
    """Return a link to the place that explains a section."""
    if section is ModelConfig:
        return "[model](models.md)"
    if section is OpConfig:
        return "[feature op](feature-ops.md)"
    path = found[section][0]
    return f"[`{path}`](#{slug(path)})"


def limits_text(field: FieldInfo) -> str:
    """Return the limits of a key, such as `, >= 1`."""
    found = [text for item in field.metadata for text in limit_items(item)]
    return "".join(f", {text}" for text in found)


def limit_items(item: Any) -> Iterator[str]:
    """Yield the limits that one piece of pydantic metadata sets."""
    for attribute, form in LIMITS.items():
        value = getattr(item, attribute, None)
        if value is not None:
            yield form.format(value)
    length = getattr(item, "min_length", None)
    if length is not None:
        yield "not empty" if length == 1 else f"at least {length} long"
    if getattr(item, "pattern", None) is not None:
        yield f"of the form `{item.pattern}`"


def default_text(field: FieldInfo) -> str:
    """Return the default as YAML, or `required`."""
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "its defaults"
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text.strip(chr(34))}`" if isinstance(value, str) else f"`{text}`"


def doc_line(section: type[BaseModel]) -> str:
    """Return the first paragraph of a section's docstring on one line."""
    return " ".join((section.__doc__ or "").strip().split("\n\n")[0].split())


def slug(path: str) -> str:
    """Return the anchor that Markdown gives a heading."""
    return re.sub(r"[^\w\- ]", "", path).strip().lower().replace(" ", "-")


def link_papers(source: str) -> str:
    """Turn arXiv numbers into links."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", source)


PAGES = {
    "config.md": config_page,
    "feature-ops.md": ops_page,
    "models.md": models_page,
    **{f"models/{entry.name}.md": partial(model_page, entry) for entry in models().values()},
    "hardware.md": lambda: f"{NOTICE}\n{hardware_page()}",
    "what-if.md": lambda: f"{NOTICE}\n{what_if_page()}",
    **{f"assets/sharding/{kind}.svg": partial(picture, kind) for kind in SHARDING_TYPES},
}


def out_of_date() -> list[str]:
    """Return the difference of each page that is not what the code says."""
    found = []
    for name, make in PAGES.items():
        path = DOCS / name
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        new = make()
        if old != new:
            lines = difflib.unified_diff(
                old.splitlines(), new.splitlines(), f"docs/{name}", "generated", lineterm="", n=1
            )
            found.append("\n".join(lines))
    return found


def main() -> int:
    """Write the pages, or check them with `--check`."""
    parser = argparse.ArgumentParser(description="write the generated reference pages")
    parser.add_argument("--check", action="store_true", help="only report pages that are out of date")
    if parser.parse_args().check:
        differences = out_of_date()
        for text in differences:
            print(f"{text}\ndocs/generate.py: this page is out of date: run `make docs`", file=sys.stderr)
        return 1 if differences else 0
    for name, make in PAGES.items():
        (DOCS / name).parent.mkdir(exist_ok=True)
        (DOCS / name).write_text(make(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
