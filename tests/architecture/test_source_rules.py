"""Names, sizes and docstrings of the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

import jobs
from tests.architecture.source import PACKAGES, modules

VERBS = {"prepare", "plan", "train", "evaluate", "recommend", "score", "export"}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base_utils"}
MODULES = modules()
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80
Function = ast.FunctionDef | ast.AsyncFunctionDef


def test_no_module_of_jobs_bears_the_name_of_what_jobs_exports() -> None:
    # `from jobs import prepare` must give the function: a submodule of that name takes its place once loaded.
    exported = VERBS | set(jobs.__all__)
    names = {module.name.split(".")[1] for module in MODULES if module.name.startswith("jobs.")}
    assert names & exported == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_names_of_modules_say_what_is_inside(package: str) -> None:
    words = {part for module in MODULES for part in module.name.split(".") if module.name.startswith(package)}
    assert words & VAGUE_NAMES == set()


def test_files_stay_short() -> None:
    lines = {module.where: len(module.text.splitlines()) for module in MODULES}
    assert {where: count for where, count in lines.items() if count > MAX_FILE_LINES} == {}


def test_functions_stay_short() -> None:
    lines = {
        f"{module.where}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module in MODULES
        for node in ast.walk(module.tree)
        if isinstance(node, Function)
    }
    assert len(lines) > 100
    assert {where: count for where, count in lines.items() if count > MAX_FUNCTION_LINES} == {}


def test_everything_public_is_documented() -> None:
    undocumented = [module.where for module in MODULES if not ast.get_docstring(module.tree)]
    for module in MODULES:
        undocumented += [
            f"{module.where} {name}" for name, node in _public(module.tree) if not ast.get_docstring(node)
        ]
    assert undocumented == []


def _public(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Yield public functions and classes, and the public methods of public classes."""
    for node in getattr(tree, "body", []):
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _public(node, f"{node.name}.")
