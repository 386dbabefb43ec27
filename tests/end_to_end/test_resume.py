"""A killed or stopped run goes on as if nothing had happened, also at another world size."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs import Cluster, Dataset, RunConfig, TrainResult, train
from trainer.checkpoint import saved_steps
from trainer.errors import CheckpointError, ConfigError, SpecMismatchError
from trainer.run_folder import RunFolder

OVERRIDES = (
    "train.epochs=2",
    "train.max_steps=90",
    "train.checkpoint_every_steps=10",
    "train.evaluate_every_steps=30",
    "train.log_every_steps=5",
    "train.max_gradient_norm=1.0",
    "train.schedule={warmup_steps: 10, decay: cosine}",
    "train.early_stopping={metric: auc, patience: 5}",
    "model.dropout=0.1",
)


def start(config: Path, data: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "jobs.cli", "train", str(config), "--data", str(data), "--out", str(out)]
    command += more
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for_step(out: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(3000):
        if any(found >= step for found in saved_steps(RunFolder(out))):
            return
        assert process.poll() is None, f"the run ended with {process.returncode} before step {step}"
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint at step {step}")


@pytest.fixture(scope="module")
def unbroken(
    movielens: tuple[RunConfig, Dataset], tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunConfig, TrainResult]:
    run, data = movielens
    run = run.override(*OVERRIDES)
    return run, train(run, data, out=tmp_path_factory.mktemp("unbroken") / "run", show_progress=False)


def endless(run: RunConfig) -> RunConfig:
    """A run that a test can stop at its leisure: however fast the machine, it does not end by itself."""
    return run.override(
        "train.epochs=100000",
        "train.max_steps=null",
        "train.schedule.decay_steps=2000",
        "train.early_stopping.patience=100000",
    )


def first_steps(run_folder: Path) -> list[int]:
    lines = map(json.loads, (run_folder / "metrics.jsonl").read_text().splitlines())
    return [line["first_step"] for line in lines if line["kind"] == "start"]


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.thorough)])
def test_a_run_killed_with_sigkill_ends_with_the_same_metrics(
    movielens: tuple[RunConfig, Dataset], tmp_path: Path, ranks: int
) -> None:
    run, data = endless(movielens[0].override(*OVERRIDES)), movielens[1]
    config = tmp_path / "run.yaml"
    config.write_text(run.to_yaml())
    more = [] if ranks == 1 else ["--on", "torchrun", "--ranks", str(ranks)]
    process = start(config, data.path, tmp_path / "run", *more)
    wait_for_step(tmp_path / "run", 20, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not RunFolder(tmp_path / "run").result_file.exists()

    cluster = Cluster.local() if ranks == 1 else Cluster(ranks_per_node=ranks, on="torchrun")
    steps = saved_steps(RunFolder(tmp_path / "run"))[-1] + 25
    whole = run.override(f"train.max_steps={steps}")
    resumed = train(whole, data, cluster, out=tmp_path / "run", show_progress=False)
    expected = train(whole, data, cluster, out=tmp_path / "unbroken", show_progress=False)

    starts = first_steps(tmp_path / "run")
    assert starts[0] == 0
    assert 20 <= starts[-1] < steps
    assert first_steps(tmp_path / "unbroken") == [0]
    assert resumed.result["steps"] == expected.result["steps"] == steps
    assert resumed.metrics == pytest.approx(expected.metrics, abs=1e-6)


def test_a_run_goes_on_at_another_world_size_with_the_same_metrics(
    movielens: tuple[RunConfig, Dataset], tmp_path: Path
) -> None:
    run, data = movielens
    run = run.override(*OVERRIDES, "train.early_stopping=null")
    expected = train(run, data, out=tmp_path / "unbroken", show_progress=False)
    part = run.override("train.max_steps=50", "train.schedule.decay_steps=80")
    full = run.override("train.schedule.decay_steps=80")
    train(part, data, Cluster(ranks_per_node=4, on="torchrun"), out=tmp_path / "run", show_progress=False)
    resumed = train(
        full, data, Cluster(ranks_per_node=2, on="torchrun"), out=tmp_path / "run", show_progress=False
    )
    assert resumed.result["steps"] == 90
    # A row whose probability is 0.5 but for rounding moves the accuracy by 1/10,126; one at the edge of a bin
    # moves the calibration error.
    got, wanted = resumed.metrics, expected.metrics
    for stepped in ("accuracy", "ece"):
        assert got.pop(stepped) == pytest.approx(wanted.pop(stepped), abs=1e-3)
    assert got == pytest.approx(wanted, abs=1e-4)


def test_ctrl_c_saves_and_the_run_goes_on(movielens: tuple[RunConfig, Dataset], tmp_path: Path) -> None:
    run, data = endless(movielens[0].override(*OVERRIDES)), movielens[1]
    config = tmp_path / "run.yaml"
    config.write_text(run.to_yaml())
    process = start(config, data.path, tmp_path / "run")
    wait_for_step(tmp_path / "run", 10, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    stopped = TrainResult.open(tmp_path / "run")
    assert stopped.result["stopped"] == "interrupted"
    step = stopped.result["steps"]
    assert step >= 10
    assert saved_steps(RunFolder(tmp_path / "run"))[-1] == step

    whole = run.override(f"train.max_steps={step + 10}")
    resumed = train(whole, data, out=tmp_path / "run", show_progress=False)
    expected = train(whole, data, out=tmp_path / "unbroken", show_progress=False)
    assert first_steps(tmp_path / "run") == [0, step]
    assert resumed.result["steps"] == expected.result["steps"] == step + 10
    # Some processors round differently from one process to the next: the first steps were another's.
    assert resumed.metrics == pytest.approx(expected.metrics, abs=1e-6)


def test_a_run_folder_with_checkpoints_is_not_overwritten(
    unbroken: tuple[RunConfig, TrainResult], movielens: tuple[RunConfig, Dataset]
) -> None:
    run, result = unbroken
    with pytest.raises(CheckpointError, match="--resume"):
        train(run, movielens[1], out=result.path, resume=False, show_progress=False)


def test_a_run_does_not_go_on_with_another_model_or_batch_size(
    unbroken: tuple[RunConfig, TrainResult], movielens: tuple[RunConfig, Dataset]
) -> None:
    run, result = unbroken
    with pytest.raises(ConfigError, match=r"train\.global_batch_size: 1024 -> 512"):
        train(run.override("train.global_batch_size=512"), movielens[1], out=result.path, show_progress=False)


def test_a_data_set_of_another_feature_spec_is_refused(
    unbroken: tuple[RunConfig, TrainResult], criteo: Dataset
) -> None:
    from jobs import evaluate

    with pytest.raises(SpecMismatchError, match="only in the"):
        evaluate(unbroken[1], "test", data=criteo)


def test_a_damaged_checkpoint_is_named(
    unbroken: tuple[RunConfig, TrainResult], movielens: tuple[RunConfig, Dataset], tmp_path: Path
) -> None:
    import shutil

    run, result = unbroken
    shutil.copytree(result.path, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / f"step_{saved_steps(RunFolder(tmp_path / 'run'))[-1]:08d}"
    for part in newest.glob("*.distcp"):
        os.truncate(part, 100)
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(CheckpointError, match=newest.name):
        train(run.override("train.max_steps=95"), movielens[1], out=tmp_path / "run", show_progress=False)
