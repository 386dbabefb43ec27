"""What `shardrec plan` does with its options together."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest

from jobs.cli import build_parser
from jobs.commands.planning import _plan_here
from trainer.errors import UserError


def parsed(*arguments: str) -> Namespace:
    return build_parser().parse_args(["plan", *arguments])


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    whatif = {"name": "w", "model": {"name": "dlrm"}, "plan": {"tables": {"t": {"num_embeddings": 100}}}}
    Path("w.yaml").write_text(json.dumps(whatif))
    return "w.yaml"


def test_a_page_is_written_of_a_plan_that_is_compared(config: str) -> None:
    _plan_here(parsed(config, "--cluster", "1x8xh100", "--out", "old.json"))
    made = _plan_here(
        parsed(config, "--cluster", "2x8xh100", "--compare", "old.json", "--html", "new.html", "--json")
    )
    assert made.value["page"] == "new.html"
    assert "cluster: 1x8xh100 -> 2x8xh100" in made.value["differences"]
    assert made.text.endswith("page: new.html")
    assert "2x8xh100, 16 ranks" in Path("new.html").read_text()


def test_a_page_of_two_plan_files_is_refused(config: str) -> None:
    _plan_here(parsed(config, "--out", "old.json"))
    with pytest.raises(UserError, match="two plan files make none"):
        _plan_here(parsed("--compare", "old.json", "old.json", "--html", "new.html"))
