"""The training guard in runs of `train`: what it says, where it says it, and how it ends a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs import Cluster, Dataset, RunConfig, train
from jobs.launch import RankError
from tests.support.html_page import parse
from tests.support.tiny import tiny_data
from trainer.errors import GuardError
from trainer.reporting import write_report

SHORT = (
    "train.max_steps=60",
    "train.epochs=9",
    "train.evaluate_every_steps=30",
    "train.guard.learning_steps=30",
)
STANDSTILL = ("train.dense_optimizer.learning_rate=1e-12", "train.embedding_optimizer.learning_rate=1e-12")
FROZEN = "tables={'*': {learning_rate: 0}}"


@pytest.fixture
def run(run: RunConfig) -> RunConfig:
    """Sixty steps, looked at twice."""
    return run.override(*SHORT, "train.checkpoint_every_steps=null")


def told(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "guard"]


def result(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return values


def test_a_run_that_learns_is_silent(
    run: RunConfig, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = ("train.dense_optimizer.learning_rate=0.01", "train.guard.action=stop")
    trained = train(run.override(*rates), data, out=tmp_path / "run", show_progress=True)
    assert trained.metrics["ne"] < 0.97
    assert trained.result["guard"] == told(tmp_path / "run") == []
    assert "guard" not in capsys.readouterr().err


def test_a_run_that_stands_still_is_saved_and_ended_and_goes_on_where_that_is_accepted(
    run: RunConfig, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, still = tmp_path / "run", run.override(*STANDSTILL, "train.guard.action=stop", FROZEN)
    with pytest.raises(GuardError, match="nothing is learnt: the training loss of steps 16 to 30") as caught:
        train(still, data, out=folder, show_progress=True)
    assert caught.value.exit_code == 2
    assert "loss_above_prior, step 30" in caught.value.where
    assert str(folder / "checkpoints" / "step_00000030") in caught.value.where
    assert result(folder)["stopped"] == "guard"
    # Tables that are meant to stay are not called dead.
    codes = ["loss_above_prior", "auc_near_half"]
    assert [line["code"] for line in told(folder)] == codes
    assert [finding["code"] for finding in result(folder)["guard"]] == codes
    said = capsys.readouterr().err
    assert "step 30, guard: nothing is learnt" in said
    assert "likely cause: a learning rate that is too high" in said
    page = parse(write_report(folder))
    assert "Stopped by the guard" in page.all("header")[0].text
    assert "nothing is learnt" in page.all("main")[0].text
    # As it was: it ends at once, and nothing is told twice.
    with pytest.raises(GuardError):
        train(still, data, out=folder, show_progress=False)
    accepting = next(fix for fix in caught.value.fixes if "go on all the same" in fix)
    accepted = still.override(accepting.split("'")[1])
    assert train(accepted, data, out=folder, show_progress=False).result["steps"] == 60
    assert [line["code"] for line in told(folder)] == codes


@pytest.mark.slow
def test_two_ranks_end_with_one_error_and_their_checkpoint(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    still = run.override(*STANDSTILL, "train.guard.action=stop")
    with pytest.raises(GuardError, match="nothing is learnt") as caught:
        train(still, data, Cluster.local(2), out=tmp_path / "run", show_progress=False)
    assert "loss_above_prior, step 30" in caught.value.where
    assert (tmp_path / "run" / "checkpoints" / "step_00000030").exists()
    codes = ["loss_above_prior", "auc_near_half", "table_dead"]
    assert [line["code"] for line in told(tmp_path / "run")] == codes


def test_a_learning_rate_far_too_high_is_told_of_tables_and_layers(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    fast = run.override(
        "train.dense_optimizer.learning_rate=30.0", "train.embedding_optimizer.learning_rate=30.0"
    )
    codes = {f["code"] for f in train(fast, data, out=tmp_path / "run", show_progress=False).result["guard"]}
    assert {"loss_exploding", "loss_above_prior", "table_exploding", "layer_dead"} <= codes


def test_a_run_that_early_stopping_ends_before_its_time_to_learn_is_told(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    early = run.override(
        *STANDSTILL,
        "train.max_steps=200",
        "train.epochs=20",
        "train.evaluate_every_steps=20",
        "train.early_stopping={metric: auc, patience: 2}",
        "train.guard.learning_steps=500",
    )
    ended = train(early, data, out=tmp_path / "run", show_progress=False).result
    assert (ended["steps"], ended["stopped"]) == (60, "finished")
    assert {(line["code"], line["step"]) for line in told(tmp_path / "run")} >= {
        ("loss_above_prior", 60),
        ("auc_near_half", 60),
        ("table_dead", 60),
    }
    with pytest.raises(GuardError, match="the training loss of steps 41 to 60 is"):
        train(early.override("train.guard.action=stop"), data, out=tmp_path / "stopped", show_progress=False)


@pytest.mark.parametrize("objective", ["bpr", "pointwise", "sampled_softmax"])
def test_a_model_of_items_that_stands_still_is_told(
    run: RunConfig, data: Dataset, tmp_path: Path, objective: str
) -> None:
    model = f"{{name: mf, embedding_dim: 8, user: s1, item: s0, objective: {objective}, "
    items = run.override(f"model={model}negatives: {{per_query: 2}}}}", "train.guard.ignore=[table_dead]")
    found = train(items.override(*STANDSTILL), data, out=tmp_path / "still", show_progress=False)
    (above,) = found.result["guard"]
    assert above["code"] == "loss_above_prior"
    assert "scores that tell no item from another would have" in above["what"]
    learning = items.override("train.embedding_optimizer.learning_rate=0.1")
    assert train(learning, data, out=tmp_path / "run", show_progress=False).result["guard"] == []


def test_ratings_that_are_not_learnt_are_told(run: RunConfig, tmp_path: Path) -> None:
    rated = run.override("data.label={column: y, kind: rating}")
    data = tiny_data(tmp_path / "data", rated)
    spec, share = data.manifest.spec, data.manifest.splits["train"].positives / 1000
    moments = {"kind": "rating", "mean": share, "std": (share * (1 - share)) ** 0.5}
    label = spec.label.model_copy(update={"params": {**spec.label.params, **moments}})
    spec = spec.model_copy(update={"label": label})
    data.manifest.model_copy(update={"spec": spec}).save(data.path)
    found = train(rated.override(*STANDSTILL, FROZEN), data.path, out=tmp_path / "still", show_progress=False)
    told = {finding["code"]: finding["what"] for finding in found.result["guard"]}
    assert told.keys() == {"loss_above_prior", "r2_below_0"}
    assert "the mean rating for every row would have 1" in told["loss_above_prior"]
    learning = rated.override("train.dense_optimizer.learning_rate=0.01")
    assert train(learning, data.path, out=tmp_path / "run", show_progress=False).result["guard"] == []


def test_a_run_taken_up_again_knows_how_large_its_tables_were(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    fast = run.override("train.embedding_optimizer.learning_rate=30.0", "train.evaluate_every_steps=60")
    for steps in (9, 40):
        train(fast.override(f"train.max_steps={steps}"), data, out=tmp_path / "run", show_progress=False)
    assert "table_exploding" in {finding["code"] for finding in told(tmp_path / "run")}


def test_a_schedule_that_comes_to_0_is_told_and_no_dead_table(
    run: RunConfig, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = run.override("train.schedule={decay: linear, decay_steps: 25}", "train.guard.ignore=[ne_above_1]")
    found = train(still, data, out=tmp_path / "run", show_progress=True).result["guard"]
    assert "table_dead" not in {finding["code"] for finding in found}
    assert "the learning rate is 0 from step 26 on, and the run has 60 steps" in capsys.readouterr().err


def test_labels_of_one_kind_end_a_run_before_its_first_step(run: RunConfig, tmp_path: Path) -> None:
    data = tiny_data(tmp_path / "data", run, rows={"train": 960, "valid": 64})
    splits = data.manifest.splits
    constant = splits["train"].model_copy(update={"positives": 960})
    data.manifest.model_copy(update={"splits": {**splits, "train": constant}}).save(data.path)
    with pytest.raises(GuardError, match="every row of split 'train' has label 1") as caught:
        train(run.override("train.guard.action=stop"), data.path, out=tmp_path / "run", show_progress=False)
    assert caught.value.where == "label_constant, step 0"
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_loss_that_is_not_finite_names_what_explains_it(run: RunConfig, tmp_path: Path) -> None:
    data = tiny_data(tmp_path / "data", run, rows=960)
    broken = run.override("train.dense_optimizer={name: sgd, learning_rate: 1e30}", "train.log_every_steps=5")
    with pytest.raises(RankError, match="not finite: gradients of dense_arch") as caught:
        train(broken, data, out=tmp_path / "run", show_progress=False)
    assert "not finite: vectors of m0, s0, s1" in str(caught.value)
