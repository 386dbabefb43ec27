"""Every example on a page runs, in page order, in a folder of the page's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, SHELL, Block, blocks, pages


def _examples() -> list[pytest.param]:
    """Return two cases per page: its quick blocks, and in the slow lane all blocks where some are slow."""
    cases = []
    for page in pages():
        runnable = [block for block in blocks(page) if block.runs]
        quick = [block for block in runnable if "slow" not in block.mark]
        name = str(page.relative_to(ROOT))
        if quick:
            cases.append(pytest.param(quick, id=name))
        if len(quick) < len(runnable):
            # A page with long runs may take longer than a single test is given by default.
            marks = [pytest.mark.slow, pytest.mark.timeout(1800)]
            cases.append(pytest.param(runnable, id=f"{name}-all", marks=marks))
    return cases


@pytest.mark.parametrize("examples", _examples())
def test_examples_of_a_page_run_in_order(examples: list[Block], tmp_path: Path) -> None:
    # Pages name shipped configs as seen from the top of a checkout.
    (tmp_path / "jobs").symlink_to(ROOT / "jobs", target_is_directory=True)
    tools = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    for block in examples:
        done = subprocess.run(
            _command(block, tmp_path),
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
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
