"""Config files: YAML that holds a mapping, and run configs that extend one another."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainer.config.messages import did_you_mean, placed
from trainer.config.yaml_text import DuplicateKeyError, parse_yaml
from trainer.errors import ConfigError

EXTENDS = "extends"
"""Key of a run config file that names the file whose keys it takes over."""


@dataclass(frozen=True)
class ReadConfig:
    """Values of a config that are not checked yet, and where they came from.

    Attributes:
        values: what all parts say together.
        parts: place and own values of each part; one that extends another stands before it.
    """

    values: dict[str, Any]
    parts: tuple[tuple[str, dict[str, Any]], ...]

    def place(self, key: str) -> str:
        """Return the place of a key path, for an error; of one that is nowhere, in the first part."""
        for where, values in self.parts:
            if _decides(values, key.split(".")):
                return placed(where, key)
        return placed(self.parts[0][0], key)


def read_config(path: Path) -> ReadConfig:
    """Read a run config and the files that it extends.

    Mappings are merged key by key; a list or a single value takes the place of the extended file's. A `model`
    of another name takes nothing over from that of the extended file, which has keys of its own.

    Args:
        path: the YAML file; `extends` in it is a path that starts from its folder.

    Raises:
        ConfigError: a file cannot be read or is no mapping, or files extend one another in a circle.
    """
    parts: list[tuple[str, dict[str, Any]]] = []
    seen: list[Path] = []
    while True:
        values = read_mapping(path, "the config", _near)
        parts.append((str(path), {key: value for key, value in values.items() if key != EXTENDS}))
        if EXTENDS not in values:
            break
        seen.append(path.resolve())
        path = _extended(path, values[EXTENDS], seen)
    merged = parts[-1][1]
    for _, values in reversed(parts[:-1]):
        below = {**merged, "model": None} if _other_model(merged, values) else merged
        merged = _merged(below, values)
    return ReadConfig(merged, tuple(parts))


def read_mapping(path: Path, what: str, fixes: Callable[[Path], list[str]] = lambda _: []) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path: the file.
        what: it is, for messages.
        fixes: what to do where there is no such file.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{what} cannot be read: {error.strerror}", where=str(path), fixes=fixes(path)
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} is not UTF-8 text: {error}", where=str(path)) from error
    raw = parsed(text, str(path), what)
    if not isinstance(raw, dict):
        raise ConfigError(f"{what} must be a mapping of keys", where=str(path), got=type(raw).__name__)
    return raw


def parsed(text: str, where: str, what: str) -> Any:
    """Return the value of a YAML text.

    Args:
        text: the YAML.
        where: it came from, for messages.
        what: it is, for messages.

    Raises:
        ConfigError: the text is not YAML, or a key stands twice in it.
    """
    try:
        return parse_yaml(text)
    except DuplicateKeyError as error:
        raise ConfigError(
            "a key stands twice",
            where=f"{where}:{error.line}: {error.key}",
            got=f"lines {error.first_line} and {error.line}",
            fixes=["remove one of the two"],
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{what} is not valid YAML: {error}", where=where) from error


def _extended(path: Path, name: Any, seen: list[Path]) -> Path:
    """Return the file that another one extends."""
    where = placed(str(path), EXTENDS)
    if not isinstance(name, str) or not name:
        raise ConfigError("`extends` must be the path of one file", where=where, got=name)
    found = path.parent / name
    if not found.is_file():
        near = did_you_mean(name, (file.name for file in found.parent.glob("*.y*ml") if file != path))
        raise ConfigError(
            "the config that this one extends is not there",
            where=where,
            got=name,
            fixes=[near] if near else [f"name a file as seen from {path.parent}"],
        )
    if found.resolve() in seen:
        circle = [*seen[seen.index(found.resolve()) :], found]
        raise ConfigError(
            "configs extend one another in a circle",
            where=where,
            got=" -> ".join(file.name for file in circle),
            fixes=["remove `extends` from one of them"],
        )
    return found


def _other_model(below: dict[str, Any], above: dict[str, Any]) -> bool:
    """Return whether both name a model, and not the same."""
    models = (below.get("model"), above.get("model"))
    names = [model.get("name") for model in models if isinstance(model, dict)]
    return len(names) == 2 and None not in names and names[0] != names[1]


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of both, those of the second winning."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _merged(below[key], value) if both else value
    return merged


def _decides(values: Any, keys: list[str]) -> bool:
    """Return whether a part holds a key path, or what stands in the place of a mapping on its way."""
    for key in keys:
        if not isinstance(values, dict):
            return True
        if key not in values:
            return False
        values = values[key]
    return True


def _near(path: Path) -> list[str]:
    """Name the configs like a missing one, beside it and among those that come along; else all of them."""
    shipped = Path(__file__).parents[2] / "jobs" / "configs"
    found = [p for folder in (path.parent, shipped) for p in sorted(folder.glob("*.y*ml"))]
    shown: dict[Path, str] = {}
    for file in found:  # The same file may be found by two paths.
        shown.setdefault(file.resolve(), min(str(file), os.path.relpath(file), key=len))
    like = difflib.get_close_matches(path.stem, {file.stem for file in shown}, n=3)
    near = [text for stem in like for file, text in shown.items() if file.stem == stem]
    if near:
        return [f"did you mean `{text}`?" for text in near]
    return [f"choose one of: {', '.join(shown.values())}"] if shown else []
