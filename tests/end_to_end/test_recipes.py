"""The recipe for a project of its own: it passes a model that works, and says what is wrong with others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import ROOT, blocks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RECIPES = ROOT / "docs" / "recipes"
OF_PAGE = [block.text for block in blocks(ROOT / "docs" / "own-models.md") if block.runs]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of docs/own-models.md, with a checkout of shardrec inside."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "shardrec").symlink_to(ROOT)
    done = shell(folder, "\n".join(OF_PAGE))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def shell(folder: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": path} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_workflow_passes_a_model_that_works(project: Path) -> None:
    workflow = yaml.safe_load((RECIPES / "github-actions.yml").read_text())
    steps = {step.get("name"): step for step in workflow["jobs"]["smoke"]["steps"]}
    assert "setup EXTRAS=cpu" in steps["install"]["run"]
    done = shell(project, steps["smoke test"]["run"].replace("$PWD/shardrec/.venv/bin:", ""))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("smoke test passed")


def test_a_model_that_depends_on_the_ranks_and_has_not_learnt_fails(project: Path) -> None:
    model = project / "my_models" / "gated.py"
    counted = "self.gate(inputs_BN).sigmoid() * (len(inputs_BN) / 100) ** 4"  # of the rows on this rank
    model.write_text(model.read_text().replace("self.gate(inputs_BN).sigmoid()", counted))
    script = "shardrec/docs/recipes/smoke.sh smoke.yaml"
    done = shell(project, script, PYTHONPATH=".", STEPS="2", NE="0.5")
    assert done.returncode == 1
    assert "log_loss differs" in done.stderr
    assert "ne is not below 0.5" in done.stderr
    assert "smoke test passed" not in done.stdout
