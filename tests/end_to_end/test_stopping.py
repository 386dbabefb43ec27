"""How a run ends and what it says about that; on a tiny data set without Spark."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from jobs import Dataset, RunConfig, train
from jobs.ranks.interrupts import StopRequest
from trainer import loop
from trainer.checkpoint import latest_checkpoint, read_progress
from trainer.measuring import SplitMeasure
from trainer.recording import Recorder
from trainer.run_folder import RunFolder

STOPPING = ("train.evaluate_every_steps=4", "train.early_stopping={metric: auc, patience: 1, min_delta: 0.5}")


def test_an_early_stop_is_told_with_the_checkpoint_that_is_used(
    tmp_path: Path, run: RunConfig, data: Dataset, capfd: pytest.CaptureFixture[str]
) -> None:
    result = train(run.override(*STOPPING), data, out=tmp_path / "run")
    out, err = capfd.readouterr()
    told = "train: stopped early at step 8 of 12: the validation auc last improved at step 4"
    assert err.splitlines()[-1] == f"{told}, whose checkpoint (step_00000004) is used"
    assert out == ""
    value = result.as_json()
    assert (value["steps"], value["total_steps"], value["best_step"]) == (8, 12, 4)

    train(run.override(*STOPPING), data, out=tmp_path / "quiet", show_progress=False)
    train(run, data, out=tmp_path / "whole")
    assert "early" not in capfd.readouterr().err


def test_settings_that_the_steps_are_too_few_for_are_told(
    tmp_path: Path, run: RunConfig, data: Dataset, capfd: pytest.CaptureFixture[str]
) -> None:
    run = run.override("train.schedule.warmup_steps=24", "train.early_stopping={metric: auc, patience: 3}")
    train(run, data, out=tmp_path / "run")
    err = capfd.readouterr().err
    assert "train: train.schedule.warmup_steps is 24 and the run has 12 steps" in err
    assert "train: train.early_stopping.patience is 3 and the run evaluates 1 time:" in err


def test_the_checkpoint_of_the_last_step_knows_its_evaluation(
    tmp_path: Path, run: RunConfig, data: Dataset
) -> None:
    # The last step is saved by the interval of checkpoints and lies between two evaluations.
    run = run.override("train.evaluate_every_steps=5", "train.early_stopping={metric: log_loss, patience: 9}")
    result = train(run, data, out=tmp_path / "run", show_progress=False).result
    newest = latest_checkpoint(RunFolder(tmp_path / "run"))
    assert newest is not None
    progress = read_progress(newest)
    assert progress.evaluated_step == progress.step == 12
    assert (progress.best_step, progress.best_value) == (
        result["best_step"],
        result["progress"]["best_value"],
    )


def test_a_run_stopped_where_a_shorter_one_ends_is_finished_by_that(
    tmp_path: Path, run: RunConfig, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "__call__", lambda self: True)
        stopped = train(run, data, out=tmp_path / "run", show_progress=False).result
    assert stopped["stopped"] == "interrupted"
    shorter = run.override(f"train.max_steps={stopped['steps']}")
    result = train(shorter, data, out=tmp_path / "run", show_progress=False).result
    assert (result["stopped"], result["steps"]) == ("finished", stopped["steps"])
    assert result["metrics"]["rows"] == 200


def test_samples_per_second_leave_out_set_up_evaluations_and_checkpoints(
    tmp_path: Path, run: RunConfig, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = 1.5

    class SlowRecorder(Recorder):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            time.sleep(slow)
            super().__init__(*arguments, **options)

    evaluate, save = SplitMeasure.of, loop.save_checkpoint

    def slow_evaluate(*arguments: Any) -> Any:
        time.sleep(slow)
        return evaluate(*arguments)

    def slow_save(*arguments: Any) -> Any:
        time.sleep(slow)
        return save(*arguments)

    train(run, data, out=tmp_path / "warm", show_progress=False)  # What is loaded once is loaded here.
    monkeypatch.setattr(loop, "Recorder", SlowRecorder)
    monkeypatch.setattr(SplitMeasure, "of", slow_evaluate)
    monkeypatch.setattr(loop, "save_checkpoint", slow_save)
    run = run.override("train.checkpoint_every_steps=12")
    result = train(run, data, out=tmp_path / "run", show_progress=False).result
    assert result["seconds"] > 3 * slow
    training_seconds = 12 * 64 / result["samples_per_second"]
    assert training_seconds < result["seconds"] - 3 * slow + 0.1
