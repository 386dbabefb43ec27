"""What `shardrec plan` does with its options together."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest

from jobs.cli import build_parser
from jobs.commands.planning import _plan_here
from sharding.plan import Plan
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


@pytest.mark.parametrize(
    "options",
    [("--html", "new.html"), ("--cluster", "1x8xh100"), ("--smallest",), ("--set", "seed=2"), ("--out", "p")],
    ids=" ".join,
)
def test_options_of_a_new_plan_are_refused_beside_two_plan_files(
    config: str, options: tuple[str, ...]
) -> None:
    _plan_here(parsed(config, "--out", "old.json"))
    with pytest.raises(UserError, match="two plan files make none") as error:
        _plan_here(parsed("--compare", "old.json", "old.json", *options))
    assert error.value.where == options[0]


def test_a_largest_cluster_without_a_search_for_the_smallest_is_refused(config: str) -> None:
    with pytest.raises(UserError, match="--max-nodes belongs to --smallest"):
        _plan_here(parsed(config, "--cluster", "1x8xh100", "--max-nodes", "4"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--smallest", "--max-nodes", "10001"), "looks at every number of nodes"),
        (("--out", "plan.json", "--html", "plan.json"), "a file each"),
        (("--set", "plan.tables={'': {num_embeddings: 10}}"), "torch cannot hold a table of this name"),
        (("--set", "plan.tables={t: {num_embeddings: 10, pooling_factor: 1e9}}"), "less than or equal"),
        (("--set", "plan.hardware.gpus={h100: {like: cpu}}", "--cluster", "1x8xh100"), "h100 is no CPU"),
        (("--set", "plan.hardware.gpus={cpu: {like: h100}}", "--ranks", "1"), "cpu is no GPU"),
    ],
)
def test_what_makes_no_sense_is_refused(config: str, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _plan_here(parsed(config, *options))


def test_an_empty_cluster_is_not_this_machine(config: str) -> None:
    with pytest.raises(UserError, match="a cluster is written"):
        _plan_here(parsed(config, "--cluster", ""))


def test_a_plan_is_compared_with_the_one_whose_place_it_takes(config: str) -> None:
    _plan_here(parsed(config, "--cluster", "1x8xh100", "--out", "plan.json"))
    again = parsed(config, "--cluster", "2x8xh100", "--out", "plan.json", "--compare", "plan.json")
    assert "cluster: 1x8xh100 -> 2x8xh100" in _plan_here(again).value["differences"]
    assert str(Plan.load("plan.json").cluster) == "2x8xh100"


def test_a_plan_that_cannot_be_compared_is_told_before_another_takes_its_place(config: str) -> None:
    Path("plan.json").write_text("{}")
    with pytest.raises(UserError, match="this is no plan"):
        _plan_here(parsed(config, "--cluster", "1x8xh100", "--out", "plan.json", "--compare", "plan.json"))
    assert Path("plan.json").read_text() == "{}"
