"""The Databricks notebooks, top to bottom: without Databricks, and with its widgets and its `display`."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.movielens import unpack_movielens_100k
from tests.end_to_end.conftest import ROOT
from trainer.run_folder import RunFolder

NOTEBOOKS = sorted((ROOT / "databricks" / "notebooks").glob("*.py"))
HEADER = "# Databricks notebook source"
CELL = "\n\n# COMMAND ----------\n\n"


class Widgets:
    """Text widgets as a notebook sees them: a job's parameters are there before it asks for any."""

    def __init__(self, **parameters: str) -> None:
        self.values = parameters

    def text(self, name: str, default: str) -> None:
        self.values.setdefault(name, default)

    def get(self, name: str) -> str:
        return self.values[name]


class Utilities:
    def __init__(self, **parameters: str) -> None:
        self.widgets = Widgets(**parameters)


def test_there_are_six() -> None:
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert numbers == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_text_or_python(path: Path) -> None:
    text = path.read_text()
    assert text.startswith(f"{HEADER}\n# MAGIC %md\n# MAGIC # ")
    for cell in text.removeprefix(HEADER + "\n").split(CELL):
        lines = cell.strip().splitlines()
        assert lines
        magic = [line.startswith("# MAGIC") for line in lines]
        assert all(magic) or not any(magic), cell
        if not any(magic):
            compile(cell, str(path), "exec")
    # What is imported is public: no notebook reaches behind the verbs.
    assert not re.findall(r"import _|\._[a-z]", text)


@pytest.mark.slow
def test_all_run_in_order_without_databricks(tmp_path: Path) -> None:
    unpack_movielens_100k(tmp_path / "data" / "ml-100k")
    variables = {
        "SHARDREC_OVERRIDES": "train.epochs=1 train.max_steps=30",
        "SHARDREC_CLUSTERS": "16xp5.48xlarge",
    }
    said = {}
    for path in NOTEBOOKS:
        own = (
            variables if path.stem != "06_what_if" else {"SHARDREC_CLUSTERS": variables["SHARDREC_CLUSTERS"]}
        )
        done = subprocess.run(
            [sys.executable, path],
            cwd=tmp_path,
            env=os.environ | own,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, f"{path.name}: {done.stderr[-2000:]}"
        said[path.stem] = done.stdout
    rows = re.findall(r"^(?:train|valid|test) +([0-9,]+) ", said["01_prepare"], re.MULTILINE)[:3]
    assert sum(int(text.replace(",", "")) for text in rows) == 100_000
    assert ": 2 ranks" in said["02_plan"].splitlines()[0]
    assert RunFolder(tmp_path / "runs" / "movielens").result_file.exists()
    metrics = dict(
        line.split()[:2] for line in said["04_evaluate"].splitlines() if line.startswith(("auc", "ne "))
    )
    assert 0.5 < float(metrics["auc"]) < 1
    assert Path(said["04_evaluate"].split()[-1]).name == "report.html"
    assert [
        len(re.findall(rf"^\|{user} +\|", said["05_recommend"], re.MULTILINE)) for user in (1, 42, 405)
    ] == [10] * 3
    assert said["06_what_if"].startswith("plan for 16xp5.48xlarge: 128 ranks")


@pytest.mark.slow
def test_widgets_and_display_of_databricks_are_used(
    tmp_path: Path, spark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # every path is a parameter
    raw = unpack_movielens_100k(tmp_path / "raw")
    shown: list[Any] = []
    pages: list[str] = []
    parameters = {
        "overrides": "train.max_steps=20",
        "raw": str(raw),
        "out": str(tmp_path / "volume" / "prepared"),
        "data": str(tmp_path / "volume" / "prepared"),
        "plan": str(tmp_path / "volume" / "plan.json"),
        "run_folder": str(tmp_path / "volume" / "run"),
        "on": "process",
        "ranks": "1",
        "users": "7 9",
        "k": "3",
        "table": "recommendations_of_notebooks",
    }
    for path in NOTEBOOKS[:5]:
        given: dict[str, Callable[..., Any] | Any] = {
            "dbutils": Utilities(**parameters),
            "spark": spark,
            "display": shown.append,
            "displayHTML": pages.append,
        }
        runpy.run_path(str(path), init_globals=given)
    nobody = {"dbutils": Utilities(**parameters | {"users": ""}), "display": shown.append}
    runpy.run_path(str(NOTEBOOKS[4]), init_globals=nobody)
    [frame] = shown
    assert frame.count() == 6
    assert spark.table("recommendations_of_notebooks").count() == 6
    spark.sql("DROP TABLE recommendations_of_notebooks")
    assert "<html" in pages[0]
    assert sorted(path.name for path in (tmp_path / "volume").iterdir()) == ["plan.json", "prepared", "run"]
    assert "auc" in capsys.readouterr().out
