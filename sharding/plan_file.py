"""`plan.json`: one line for each table and rank, so that people read it and `diff` shows what moved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sharding.errors import PlanError
from sharding.files import write_atomically

FORMAT_VERSION = 2
_FIX = "make the plan again: shardrec plan CONFIG"


def write(document: dict[str, Any], path: Path) -> Path:
    """Write a plan atomically: a reader sees the old file or the new one.

    Raises:
        PlanError: the file cannot be written.
    """
    parts = [
        f"{json.dumps(key)}: {_lines(value)}"
        for key, value in {"format_version": FORMAT_VERSION, **document}.items()
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, "{\n" + ",\n".join(parts) + "\n}\n")
    except OSError as error:
        raise PlanError(f"the plan cannot be written: {error.strerror}", where=str(path)) from error
    return path


def _lines(value: Any) -> str:
    """Write a list one item a line, anything else on one line."""
    if not isinstance(value, list) or not value:
        return json.dumps(value, ensure_ascii=False)
    return "[\n  " + ",\n  ".join(json.dumps(item, ensure_ascii=False) for item in value) + "\n]"


def read(path: Path) -> dict[str, Any]:
    """Read the document that `write` wrote.

    Raises:
        PlanError: no such file, not JSON, or another format version.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(
            f"the plan cannot be read: {error.strerror}", where=str(path), fixes=[_FIX]
        ) from error
    except ValueError as error:
        raise damaged(path, str(error)) from error
    if not isinstance(raw, dict) or "format_version" not in raw:
        raise PlanError(
            "this is no plan: it has no `format_version`",
            where=str(path),
            allowed=FORMAT_VERSION,
            fixes=[_FIX],
        )
    version = raw["format_version"]
    if version != FORMAT_VERSION:
        raise PlanError(
            "the plan has another format version",
            where=str(path),
            got=version,
            allowed=FORMAT_VERSION,
            fixes=[_FIX],
        )
    return dict(raw)


def within(path: Path, error: PlanError) -> PlanError:
    """Return the error for a place in the file."""
    place = f"{path}: {error.where}" if error.where else str(path)
    return PlanError(
        error.what, where=place, got=error.got, allowed=error.allowed, fixes=[*error.fixes, _FIX]
    )


def damaged(path: Path, reason: str) -> PlanError:
    """Return the error for a file that is no valid plan."""
    return PlanError(f"the plan is damaged: {reason}", where=str(path), fixes=[_FIX])
