"""Every model and the tools of training, by `train` in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs import Cluster, Dataset, RunConfig, prepare, train
from jobs.movielens import unpack_movielens_100k
from tests.support.run_folders import losses
from trainer.errors import UserError
from trainer.registry import models

CONFIG = Path(__file__).parents[2] / "jobs" / "configs" / "movielens_100k_dhen.yaml"


@pytest.fixture(scope="module")
def with_history(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Dataset]:
    """MovieLens-100K with dense features, a list, and what the user rated before."""
    folder = tmp_path_factory.mktemp("movielens")
    run = RunConfig.load(CONFIG).override(f"data.root={unpack_movielens_100k(folder / 'raw')}")
    return run, prepare(None, run, folder / "data")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, entry in models().items() if entry.task == "ctr"])
def test_every_model_learns_from_a_few_steps_and_is_evaluated(
    with_history: tuple[RunConfig, Dataset], tmp_path: Path, name: str
) -> None:
    run, data = with_history
    run = run.override(
        f"model={{name: {name}}}",
        "train.max_steps=30",
        "train.log_every_steps=1",
        "train.early_stopping=null",
    )
    result = train(run, data, out=tmp_path / "run", show_progress=False)
    found = losses(tmp_path / "run")
    assert sum(found[-5:]) < sum(found[:5])
    assert result.metrics["auc"] > 0.6


def test_what_is_frozen_stays(run: RunConfig, data: Dataset, tmp_path: Path) -> None:
    # The bias that is left moves every logit alike, which no AUC shows.
    layers = "['dense_arch.*', 'over_arch.hidden.*', 'over_arch.logits.weight']"
    tables = "tables={'*': {learning_rate: 0}}"

    def auc(steps: int, *settings: str) -> float:
        changed = run.override(f"train.max_steps={steps}", *settings)
        folder = tmp_path / f"{steps}_{len(settings)}"
        return float(train(changed, data, out=folder, show_progress=False).metrics["auc"])

    frozen = f"train.frozen={layers}"
    assert auc(1, frozen, tables) == auc(6, frozen, tables)
    assert auc(6, frozen, tables) != auc(6, tables)
    assert auc(6, tables) != auc(6)


def test_rates_fall_where_a_metric_stands_still_and_stay_so_when_a_run_goes_on(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    changed = run.override(
        "train.log_every_steps=1",
        "train.evaluate_every_steps=2",
        "train.plateau={metric: auc, min_delta: 1.0, factor: 0.5}",
        "train.early_stopping=null",
    )
    for steps in (6, 8):
        further = changed.override(f"train.max_steps={steps}")
        train(further, data, out=tmp_path / "run", resume=True, show_progress=False)
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    rates = [line["learning_rate"] for line in lines if line["kind"] == "train"]
    first = changed.train.dense_optimizer.learning_rate
    # The first evaluation is a gain, the others are not.
    assert rates == pytest.approx([first] * 4 + [first / 2] * 2 + [first / 4] * 2)


@pytest.mark.parametrize("ranks", [1, 2])
def test_parts_of_a_batch_add_up_to_the_step_of_the_whole(
    run: RunConfig, data: Dataset, tmp_path: Path, ranks: int
) -> None:
    # Fused optimizers learn from each part, those of data-parallel tables from the sum.
    run = run.override("tables={'*': {sharding_types: [data_parallel]}}", "train.log_every_steps=1")
    on = "process" if ranks == 1 else "torchrun"
    for parts in (1, 4):
        changed, cluster = run.override(f"train.micro_batches={parts}"), Cluster(ranks_per_node=ranks, on=on)
        train(changed, data, cluster, out=tmp_path / str(parts), show_progress=False)
    whole = losses(tmp_path / "1")
    assert losses(tmp_path / "4") == pytest.approx(whole, abs=1e-5)
    assert whole[-1] != pytest.approx(whole[0], abs=1e-3)


def test_parts_that_do_not_divide_the_rows_of_a_rank_are_refused(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="micro-batches"):
        train(run.override("train.micro_batches=7"), data, out=tmp_path / "run", show_progress=False)
