"""Examples run: the quick ones page by page; in the slow lane pages with slow ones, all in one folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, SHELL, Block, blocks, in_reading_order, pages


def _runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.runs]


def _has_slow(page: Path) -> bool:
    return any("slow" in block.mark for block in _runnable(page))


def _examples() -> list[pytest.param]:
    """Return the quick blocks of each page that has some; the README's are in the default lane."""
    cases = []
    for page in pages():
        quick = [block for block in _runnable(page) if "slow" not in block.mark]
        if quick:
            marks = [] if page.name == "README.md" else [pytest.mark.thorough]
            cases.append(pytest.param(quick, id=str(page.relative_to(ROOT)), marks=marks))
    return cases


@pytest.mark.parametrize("examples", _examples())
def test_quick_examples_of_a_page_run_in_order(examples: list[Block], tmp_path: Path) -> None:
    _run(examples, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(2700)  # Long runs take longer than a single test is given by default.
def test_pages_with_slow_examples_run_one_after_another_in_one_folder(tmp_path: Path) -> None:
    # What the README leaves in the folder, a person who goes on reading has there.
    chosen = [page for page in in_reading_order() if page.name == "README.md" or _has_slow(page)]
    _run([block for page in chosen for block in _runnable(page)], tmp_path)


def test_the_readers_order_leaves_out_no_page_with_examples() -> None:
    with_examples = {page for page in pages() if _runnable(page)}
    assert with_examples <= set(in_reading_order())


def _run(examples: list[Block], folder: Path) -> None:
    # Pages name shipped configs as seen from the top of a checkout.
    (folder / "jobs").symlink_to(ROOT / "jobs", target_is_directory=True)
    tools = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    for block in examples:
        done = subprocess.run(
            _command(block, folder),
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{block.where}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def _command(block: Block, folder: Path) -> list[str]:
    if block.language in SHELL:
        return ["bash", "-euo", "pipefail", "-c", block.text]
    script = folder / f"example_line_{block.line}.py"
    # Blank lines in front: a traceback names the line of the page.
    script.write_text("\n" * (block.line - 1) + block.text + "\n", encoding="utf-8")
    return [sys.executable, str(script)]
