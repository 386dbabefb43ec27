"""A plan that is given to training: whether it belongs to the run, and planning again."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs import Cluster, Dataset, Plan, RunConfig, plan, train, verbs
from jobs.cli import build_parser
from jobs.commands.training import _given_plan
from jobs.given_plan import layout_of, reckoning_warnings
from sharding.errors import PlanError
from sharding.topology import Cluster as Shape
from trainer.errors import UserError

TWO = Cluster(ranks_per_node=2, on="local")


@pytest.fixture
def no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """End a training where it would launch its ranks."""

    def launch(*_: Any) -> None:
        raise InterruptedError

    monkeypatch.setattr(verbs, "_launch_with_restarts", launch)


def test_a_plan_reckoned_with_another_dense_part_or_batch_size_is_told(run: RunConfig, data: Dataset) -> None:
    cluster = Cluster(ranks_per_node=2, on="local")
    layout = plan(run.override("train.dense_parallel=fsdp"), data, cluster, batch_size_per_rank=16)
    (warning,) = reckoning_warnings(layout, run, cluster)
    assert "dense_parallel fsdp (run: ddp)" in warning
    assert "dense_shard_group_size 2 (run: 1)" in warning
    assert "batch_size_per_rank 16 (run: 32)" in warning
    other = run.override("train.dense_optimizer.name=sgd")
    (warning,) = reckoning_warnings(plan(run, data, cluster), other, cluster)
    assert "dense_optimizer adam (run: sgd)" in warning
    assert reckoning_warnings(plan(run, data, cluster), run, cluster) == []


@pytest.mark.usefixtures("no_launch")
def test_training_says_that_its_plan_was_reckoned_otherwise(
    run: RunConfig, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = plan(run, data, batch_size_per_rank=16)
    with pytest.raises(InterruptedError):
        train(run, data, Cluster.local(), layout, out=tmp_path / "run")
    assert "train: the plan reckoned with batch_size_per_rank 16 (run: 64)" in capsys.readouterr().err


def test_a_plan_for_more_memory_than_a_rank_has_is_told(run: RunConfig, data: Dataset) -> None:
    here = Cluster.local(2, device="cpu")
    layout = plan(run, data, here)
    assert reckoning_warnings(layout, run, here) == []
    least = max(rank.memory_used for rank in layout.memory) / 2**30
    small = replace(here, hardware=replace(here.rank_hardware, host_memory_gib=1.1 * least))
    (warning,) = reckoning_warnings(layout, run, small)
    assert "GiB on its fullest rank" in warning
    enough = replace(here, hardware=replace(here.rank_hardware, host_memory_gib=1.2 * least))
    assert reckoning_warnings(layout, run, enough) == []


def test_a_plan_for_a_gpu_or_hosts_that_the_run_has_not_is_told(run: RunConfig, data: Dataset) -> None:
    layout = plan(run, data, Shape.parse("1x2xh100"), batch_size_per_rank=32)
    other = Cluster(nodes=2, gpus_per_node=1, gpu="a100-80")
    (warning,) = reckoning_warnings(layout, run, other)
    assert "gpu h100 (run: a100-80)" in warning
    assert "ranks on a host 2 (run: 1)" in warning


def test_a_plan_that_places_tables_otherwise_than_the_config_allows_is_told(
    run: RunConfig, data: Dataset
) -> None:
    layout = plan(run.override("tables={s0: {sharding_types: [row_wise]}}"), data, TWO)
    told = layout_of(run.override("tables={s0: {sharding_types: [table_wise]}}"), data, TWO, layout)[1]
    assert told == [
        "the plan places tables otherwise than the config allows: "
        "table s0: sharding_type row_wise (allowed: table_wise)"
    ]
    told = layout_of(run.override("tables={s0: {ranks: [1]}}"), data, TWO, layout)[1]
    assert "table s0: ranks 0..1 (allowed: 1)" in told[0]


def test_a_plan_of_this_run_is_kept_whatever_replan_says(run: RunConfig, data: Dataset) -> None:
    layout = replace(plan(run, data, TWO), seconds=12345.0)
    for replan in (False, True):
        assert layout_of(run, data, TWO, layout, replan=replan) == (layout, [])


@pytest.mark.parametrize(
    ("planned_as", "cluster", "words"),
    [
        ([], Cluster(), ["made for another run", "ranks: plan 1, run 2"]),
        (
            ["model.embedding_dim=4"],
            TWO,
            ["made for another run", "table s0: embedding_dim: plan 4, model 8"],
        ),
        (["train.embedding_optimizer.name=sgd"], TWO, ["another embedding optimizer"]),
        (["train.global_batch_size=32"], TWO, ["batch_size_per_rank 16 (run: 32)"]),
        (["tables={s0: {ranks: [1]}}"], TWO, []),
    ],
)
def test_replan_makes_the_plan_that_a_run_without_one_gets(
    run: RunConfig, data: Dataset, planned_as: list[str], cluster: Cluster, words: list[str]
) -> None:
    given = plan(run.override(*planned_as), data, cluster)
    layout, told = layout_of(run, data, TWO, given, replan=True)
    if not words:  # Tighter constraints than the run's: the plan is one for the run.
        assert (layout, told) == (given, [])
        return
    assert replace(layout, seconds=0) == replace(plan(run, data, TWO), seconds=0)
    (line,) = told
    for word in ["planned again for 1x2xcpu", *words]:
        assert word in line


@pytest.mark.usefixtures("no_launch")
def test_replan_saves_the_new_plan_in_the_run_folder_and_leaves_the_old_file_alone(
    run: RunConfig, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = plan(run, data, Cluster()).save(tmp_path / "old.json")
    before = old.read_text()
    with pytest.raises(PlanError, match="another run") as error:
        train(run, data, TWO, Plan.load(old), out=tmp_path / "run")
    assert any("--replan" in fix for fix in error.value.fixes)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InterruptedError):
        train(run, data, TWO, Plan.load(old), out=tmp_path / "run", replan=True)
    assert old.read_text() == before
    assert Plan.load(tmp_path / "run" / "plan.json").cluster.world_size == 2
    assert (
        "train: planned again for 1x2xcpu, see plan.json of the run: the plan was made for"
        in capsys.readouterr().err
    )


def parsed(*arguments: object) -> Namespace:
    return build_parser().parse_args(["train", "run.yaml", *map(str, arguments)])


def test_a_plan_file_of_another_version_is_left_out_under_replan(
    run: RunConfig, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = plan(run, data).save(tmp_path / "plan.json")
    file.write_text(json.dumps({"format_version": 1}))
    with pytest.raises(PlanError, match="another format version"):
        _given_plan(parsed("--plan", file))
    assert _given_plan(parsed("--plan", file, "--replan")) is None
    assert "a new plan made: the plan has another format version" in capsys.readouterr().err
    with pytest.raises(PlanError, match="cannot be read"):
        _given_plan(parsed("--plan", tmp_path / "none.json", "--replan"))
    with pytest.raises(UserError, match="belongs to --plan"):
        _given_plan(parsed("--replan"))
