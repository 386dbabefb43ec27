"""A run with groups of ranks that hold a copy of the tables each is saved once and goes on anywhere."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from jobs import Cluster, Dataset, RunConfig, evaluate, plan, train
from sharding.hosts import RankContext
from tests.support.ranks import run_distributed
from tests.support.run_folders import losses
from tests.support.tiny import CONFIG, tiny_data
from trainer.loop import train_rank
from trainer.run_folder import RunFolder

pytestmark = pytest.mark.thorough

GROUPS = ("train.table_shard_group_size=2",)
ONE_GROUP = ("train.table_shard_group_size=null", "train.table_sync_every_steps=1")
SGD = "train.embedding_optimizer={name: sgd, learning_rate: 0.1}"
ADAGRAD = "train.embedding_optimizer={name: adagrad, learning_rate: 0.05, eps: 0.001}"
RARELY = ("train.table_sync_every_steps=3", "train.checkpoint_every_steps=4")
# Steps up to which four ranks train with groups, without, and with them again; then two ranks, then one.
PARTS = [(GROUPS, 4), (ONE_GROUP, 6), (GROUPS, 8)]
ON_TWO, LAST_STEP = 10, 12
HERE = Cluster.local(1, device="cpu")


def run_of(*overrides: str) -> RunConfig:
    return RunConfig.from_dict(CONFIG).override(
        "tables={'s*': {sharding_types: [row_wise]}, 'm*': {sharding_types: [column_wise]}}",
        "train.dense_optimizer={name: adam, learning_rate: 0.01, eps: 0.001}",
        "train.log_every_steps=1",
        f"train.max_steps={LAST_STEP}",
        "train.keep_checkpoints=9",
        *overrides,
    )


def go_on(rank: int, world_size: int, parts: list[tuple[str, tuple[str, ...], int]]) -> None:
    """Train parts of runs, each a folder, a change of its config and the step to stop at."""
    context = RankContext(rank, world_size, rank, world_size, "host", torch.device("cpu"))
    for path, groups, steps in parts:
        folder = RunFolder(Path(path))
        if rank == 0:
            run = folder.config().override(*groups, f"train.max_steps={steps}")
            folder.config_file.write_text(run.to_yaml())
            cluster = Cluster(ranks_per_node=world_size)
            plan(run, Dataset.open(folder.dataset()), cluster).save(folder.plan_file)
        dist.barrier()
        train_rank(folder.path, context)


def start(run: RunConfig, data: Dataset, place: Path) -> Path:
    RunFolder(place).create(run, data.manifest, data.path)
    return place


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train all runs of the tests below in one launch for each number of ranks."""
    folder = tmp_path_factory.mktemp("runs")
    data = tiny_data(folder / "data", run_of(SGD))
    parts = start(run_of(SGD), data, folder / "parts")
    whole = start(run_of(ADAGRAD, *GROUPS, *RARELY), data, folder / "whole")
    halves = start(run_of(ADAGRAD, *GROUPS, *RARELY), data, folder / "halves")
    on_four = [(str(parts), change, steps) for change, steps in PARTS]
    on_four += [(str(whole), GROUPS, 8), (str(halves), GROUPS, 4)]
    run_distributed(go_on, 4, on_four, timeout=300)
    for name in ("four", "two", "one"):
        shutil.copytree(halves, folder / name)
    run_distributed(go_on, 4, [(str(halves), GROUPS, 8), (str(folder / "four"), ONE_GROUP, 8)])
    run_distributed(go_on, 2, [(str(parts), GROUPS, ON_TWO), (str(folder / "two"), ONE_GROUP, 8)])
    train(run_of(SGD, *GROUPS), data, HERE, out=parts, show_progress=False)
    train(run_of(SGD), data, HERE, out=folder / "unbroken", show_progress=False)
    one = RunFolder(folder / "one").config().override("train.max_steps=8")
    train(one, data, HERE, out=folder / "one", show_progress=False)
    return folder


def test_sgd_goes_on_with_groups_without_and_on_fewer_ranks_as_if_nothing_had_changed(runs: Path) -> None:
    expected = losses(runs / "unbroken")
    assert len(expected) == LAST_STEP
    assert max(expected) - min(expected) > 0.01
    assert losses(runs / "parts") == pytest.approx(expected, abs=1e-6)


def test_a_run_with_groups_resumes_where_it_was(runs: Path) -> None:
    whole, halves = losses(runs / "whole"), losses(runs / "halves")
    assert len(whole) == 8
    assert_same(state(runs / "halves", 4), state(runs / "whole", 4))
    assert halves[:5] == whole[:5]
    # As without groups: DDP adds up the dense gradients in another order in the first steps of a launch.
    assert halves == pytest.approx(whole, abs=1e-6)


def test_a_checkpoint_of_groups_goes_on_alike_in_one_group_on_four_two_and_one_rank(runs: Path) -> None:
    four = losses(runs / "four")
    assert len(four) == 8
    assert losses(runs / "two") == pytest.approx(four, abs=1e-6)
    assert losses(runs / "one") == pytest.approx(four, abs=1e-6)
    # With groups the optimizer is another one.
    assert losses(runs / "whole")[4:] != pytest.approx(four[4:], abs=1e-5)


def test_a_checkpoint_holds_each_table_once(runs: Path) -> None:
    saved = state(runs / "halves", 4)
    shapes = {name: tuple(w.shape) for name, w in saved["model"].items() if "embedding_bags" in name}
    assert set(shapes.values()) == {(50, 8)}
    size = sum(file.stat().st_size for file in (runs / "halves/checkpoints/step_00000004").glob("*.distcp"))
    alone = sum(file.stat().st_size for file in (runs / "one/checkpoints/step_00000008").glob("*.distcp"))
    assert size < 1.5 * alone


def test_a_run_with_groups_is_evaluated_in_one_process(runs: Path) -> None:
    assert evaluate(runs / "parts", "test", cluster=HERE).rows == 200


def state(folder: Path, step: int) -> dict[str, Any]:
    file = folder / f"state_{step}.pt"
    dcp_to_torch_save(folder / "checkpoints" / f"step_{step:08d}", file)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["model"].keys() == other["model"].keys()
    for name, weight in one["model"].items():
        assert torch.equal(weight, other["model"][name]), name
    for name, states in one["optimizer"]["state"].items():
        for key, value in states.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, other["optimizer"]["state"][name][key]), key
