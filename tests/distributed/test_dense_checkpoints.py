"""A run that changes the layout of its dense part and its number of ranks goes on as if it had not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from jobs import Cluster, Dataset, RunConfig, TrainResult, evaluate, plan, train
from sharding.hosts import RankContext
from tests.support.ranks import run_distributed
from tests.support.run_folders import losses
from tests.support.tiny import CONFIG, tiny_data
from trainer.assembly import build_task, scoring_config
from trainer.loop import train_rank
from trainer.rank_jobs import PLAN_FILE, RESULT_FILE, Request, evaluate_rank
from trainer.run_folder import RunFolder

pytestmark = pytest.mark.thorough

OPTIMIZERS = {
    "sgd": "{name: sgd, learning_rate: 0.05, momentum: 0.9}",
    # Where eps is tiny, Adam makes whole steps of gradients that are zero but for rounding.
    "adam": "{name: adam, learning_rate: 0.01, eps: 0.001}",
}
LAST_STEP = 16
ONE_HOST, TWO_BY_TWO = Cluster(ranks_per_node=2), Cluster(nodes=2, ranks_per_node=2)
# On two ranks, on two hosts of two, on two ranks again; the last part is one process.
LAUNCHES = [
    (ONE_HOST, [("fsdp", 2)]),
    (TWO_BY_TWO, [("ddp", 4), ("hsdp", 8), ("fsdp", 12)]),
    (ONE_HOST, [("hsdp", 14)]),
]


def run_of(optimizer: str, *overrides: str) -> RunConfig:
    return RunConfig.from_dict(CONFIG).override(
        "model={name: dhen, embedding_dim: 8, dropout: 0.2}",
        f"train.dense_optimizer={OPTIMIZERS[optimizer]}",
        "train.embedding_optimizer={name: sgd, learning_rate: 0.1}",
        "train.schedule={warmup_steps: 4, decay: cosine, decay_steps: 20}",
        "train.max_gradient_norm=0.5",
        "train.log_every_steps=1",
        "train.evaluate_every_steps=2",
        f"train.max_steps={LAST_STEP}",
        "train.keep_checkpoints=9",
        *overrides,
    )


def train_parts(
    rank: int, world_size: int, folders: list[str], cluster: Cluster, parts: list[tuple[str, int]]
) -> None:
    """Train parts of each run, and evaluate the checkpoint of `hsdp` on four ranks there."""
    context = RankContext(rank, world_size, rank % 2, 2, "host", torch.device("cpu"))
    for folder in map(RunFolder, map(Path, folders)):
        for parallel, steps in parts:
            if rank == 0:
                run = folder.config()
                run = run.override(f"train.dense_parallel={parallel}", f"train.max_steps={steps}")
                folder.config_file.write_text(run.to_yaml())
                plan(run, Dataset.open(folder.dataset()), cluster).save(folder.plan_file)
            dist.barrier()
            train_rank(folder.path, context)
            if (parallel, world_size) == ("hsdp", 4):
                evaluate_rank(folder.path / "job", context)


@dataclass(frozen=True)
class Runs:
    """A run in four parts, the same run in one, and the evaluation on four ranks."""

    parts: TrainResult
    unbroken: TrainResult
    on_four: dict[str, Any]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Runs]:
    folder = tmp_path_factory.mktemp("runs")
    data = tiny_data(folder / "data", run_of("sgd"))
    for optimizer in OPTIMIZERS:
        _prepare(run_of(optimizer), data, folder / optimizer)
    places = [str(folder / name) for name in OPTIMIZERS]
    for cluster, parts in LAUNCHES:
        run_distributed(
            train_parts, cluster.world_size, places, cluster, parts, timeout=300, local_world_size=2
        )
    found = {}
    for name in OPTIMIZERS:
        run, one = run_of(name), Cluster.local(1, device="cpu")
        parts = train(run, data, one, out=folder / name, show_progress=False)
        unbroken = train(run, data, one, out=folder / f"{name}_unbroken", show_progress=False)
        on_four = json.loads((folder / name / "job" / RESULT_FILE).read_text())
        found[name] = Runs(parts, unbroken, on_four)
    return found


def _prepare(run: RunConfig, data: Dataset, place: Path) -> None:
    """Leave what the verbs leave before they launch ranks."""
    folder = RunFolder(place)
    folder.create(run, data.manifest, data.path)
    Request(str(place), "step_00000008", str(data.path), "test").save(place / "job")
    hsdp = run.override("train.dense_parallel=hsdp")
    plan(scoring_config(hsdp, "cpu"), data, TWO_BY_TWO).save(place / "job" / PLAN_FILE)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_goes_on_under_other_layouts_on_more_and_fewer_ranks_and_in_one_process(
    optimizer: str, runs: dict[str, Runs]
) -> None:
    both = runs[optimizer]
    expected = losses(both.unbroken.path)
    assert len(expected) == LAST_STEP
    assert losses(both.parts.path) == pytest.approx(expected, abs=1e-6)
    assert both.parts.metrics == pytest.approx(both.unbroken.metrics, abs=1e-5)
    # The momentum and the moments matter: steps from a state of zeros would be others.
    assert max(expected) - min(expected) > 0.01


def test_a_checkpoint_of_hsdp_is_evaluated_alike_in_one_process_and_on_four_ranks(
    runs: dict[str, Runs],
) -> None:
    both = runs["adam"]
    assert both.on_four["step"] == 8
    one = evaluate(both.parts, "test", checkpoint="step_00000008", cluster=Cluster.local(1, device="cpu"))
    assert both.on_four["rows"] == one.rows == 200
    assert both.on_four["metrics"] == pytest.approx(one.metrics, abs=1e-6)


@pytest.mark.parametrize("step", [8, 12])
def test_a_sharded_checkpoint_holds_whole_plain_weights(
    step: int, runs: dict[str, Runs], tmp_path: Path
) -> None:
    folder = RunFolder(runs["sgd"].parts.path)
    dcp_to_torch_save(folder.checkpoints / f"step_{step:08d}", tmp_path / "weights.pt")
    state = torch.load(tmp_path / "weights.pt", weights_only=True)
    task, _ = build_task(folder.config(), folder.manifest())
    assert {name: w.shape for name, w in state["model"].items()} == {
        name: w.shape for name, w in task.state_dict().items()
    }
    moved = [
        name for name, w in task.named_parameters() if not w.is_meta and not w.equal(state["model"][name])
    ]
    assert len(moved) > 10
