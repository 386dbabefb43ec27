"""What training refuses, and what it keeps when it fails; on a tiny data set without Spark."""

from __future__ import annotations

import errno
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jobs import Cluster, Dataset, RunConfig, evaluate, plan, train
from jobs.launch import RankError
from jobs.ranks.interrupts import StopRequest
from tests.support.datasets import write_dataset
from tests.support.tiny import tiny_data
from trainer import checkpoint as checkpoints
from trainer.checkpoint import saved_steps
from trainer.errors import CheckpointError, ConfigError, DataError, PlanError, ShardrecError
from trainer.optimizers import Optimizers
from trainer.run_folder import RunFolder


def test_a_loss_that_is_not_finite_stops_before_it_reaches_a_checkpoint(
    tmp_path: Path, run: RunConfig, data: Dataset
) -> None:
    sound = run.override("train.max_steps=4")
    train(sound, data, out=tmp_path / "run", show_progress=False)
    broken = run.override("train.max_steps=4", "train.dense_optimizer={name: sgd, learning_rate: 1e30}")
    with pytest.raises(ShardrecError, match="not a finite number") as caught:
        train(broken, data, out=tmp_path / "broken", show_progress=False)
    assert "learning_rate" in str(caught.value)
    assert saved_steps(RunFolder(tmp_path / "broken")) == []


def test_a_plan_for_other_ranks_is_refused_before_the_launch(
    tmp_path: Path, run: RunConfig, data: Dataset
) -> None:
    two = plan(run, data, Cluster.local(2))
    with pytest.raises(PlanError, match="2"):
        train(run, data, Cluster.local(1), two, out=tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run").exists()


def test_another_label_is_refused_even_with_a_plan(tmp_path: Path, run: RunConfig, data: Dataset) -> None:
    layout = plan(run, data)
    other = run.override("data.label.positive_at_least=3")
    with pytest.raises(DataError, match=r"data\.label\.positive_at_least"):
        train(other, data, None, layout, out=tmp_path / "run", show_progress=False)


@pytest.mark.parametrize("section", ["early_stopping", "plateau"])
def test_what_follows_a_metric_is_refused_without_validation_rows(
    tmp_path: Path, run: RunConfig, section: str
) -> None:
    written = write_dataset(tmp_path / "data", rows={"train": 500}, num_sequences=0)
    written.manifest.model_copy(update={"config_hash": run.preparation_hash()}).save(tmp_path / "data")
    following = run.override(f"train.{section}={{metric: auc}}")
    with pytest.raises(ConfigError, match="validation rows") as caught:
        train(following, tmp_path / "data", out=tmp_path / "run", show_progress=False)
    assert caught.value.where == f"train.{section}"


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("features.sparse.0.pooling=mean", r"pooling: 'sum' -> 'mean'"),
        ("model.embedding_dim=4", r"model\.embedding_dim: 8 -> 4"),
        ("seed=7", r"seed: 1 -> 7"),
    ],
)
def test_a_run_does_not_go_on_as_another_model(
    tmp_path: Path, run: RunConfig, data: Dataset, override: str, key: str
) -> None:
    train(run, data, out=tmp_path / "run", show_progress=False)
    with pytest.raises(ConfigError, match=key):
        train(run.override("train.max_steps=20", override), data, out=tmp_path / "run", show_progress=False)


def test_a_run_does_not_go_on_with_other_rows(tmp_path: Path, run: RunConfig, data: Dataset) -> None:
    train(run, data, out=tmp_path / "run", show_progress=False)
    other = tiny_data(tmp_path / "other", run, rows={"train": 900, "valid": 200, "test": 200})
    with pytest.raises(DataError, match="other rows"):
        train(run.override("train.max_steps=20"), other, out=tmp_path / "run", show_progress=False)
    assert RunFolder(tmp_path / "run").manifest().split("train").rows == 1000


def test_a_finished_run_taken_up_again_keeps_its_result(
    tmp_path: Path, run: RunConfig, data: Dataset
) -> None:
    first = train(run, data, out=tmp_path / "run", show_progress=False)
    again = train(run, data, out=tmp_path / "run", show_progress=False)
    assert again.result == first.result


def test_a_longer_run_goes_on_where_the_finished_one_ended(
    tmp_path: Path, run: RunConfig, data: Dataset
) -> None:
    whole = train(run.override("train.max_steps=20"), data, out=tmp_path / "whole", show_progress=False)
    train(run, data, out=tmp_path / "run", show_progress=False)
    longer = train(run.override("train.max_steps=20"), data, out=tmp_path / "run", show_progress=False)
    assert longer.result["steps"] == 20
    assert longer.metrics == pytest.approx(whole.metrics, abs=1e-9)


def test_a_full_disk_while_saving_keeps_the_earlier_checkpoint(
    tmp_path: Path, run: RunConfig, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoints.write_json

    def write_json(path: Path, value: object) -> None:
        if "step_00000008" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, value)

    monkeypatch.setattr(checkpoints, "write_json", write_json)
    with pytest.raises(CheckpointError, match="No space left on device"):
        train(run, data, out=tmp_path / "run", show_progress=False)
    assert [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())] == ["step_00000004"]

    monkeypatch.undo()
    resumed = train(run, data, out=tmp_path / "run", show_progress=False)
    assert resumed.result["steps"] == 12


def test_early_stopping_ends_the_run_and_chooses_the_best(
    tmp_path: Path, run: RunConfig, data: Dataset
) -> None:
    run = run.override(
        "train.max_steps=200",
        "train.epochs=20",
        "train.evaluate_every_steps=4",
        "train.early_stopping={metric: auc, patience: 1, min_delta: 0.5}",
    )
    result = train(run, data, out=tmp_path / "run", show_progress=False).result
    assert (result["steps"], result["best_step"], result["checkpoint"]) == (8, 4, "step_00000004")


def test_an_unfinished_run_can_be_evaluated_by_naming_a_checkpoint(
    tmp_path: Path, run: RunConfig, data: Dataset
) -> None:
    train(run, data, out=tmp_path / "run", show_progress=False)
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(DataError, match="not finished"):
        evaluate(tmp_path / "run", "test")
    found = evaluate(tmp_path / "run", "test", checkpoint="step_00000008")
    assert found.rows == 200
    with pytest.raises(CheckpointError, match="step_00000012"):
        evaluate(tmp_path / "run", "test", checkpoint="step_00000009")
    with pytest.raises(DataError, match="no such run folder"):
        evaluate(tmp_path / "nowhere", "test")


def test_metrics_by_value_cover_every_row(tmp_path: Path, run: RunConfig, data: Dataset) -> None:
    result = train(run, data, out=tmp_path / "run", show_progress=False)
    found = evaluate(result, "valid", "row")
    assert sum(group["rows"] for group in found.by["row"]) == 100  # the 100 biggest of 200 single rows
    with pytest.raises(DataError, match=r"data\.keep"):
        evaluate(result, "valid", "colour")


def test_rows_with_labels_have_no_candidates_to_be_ranked_among(
    tmp_path: Path, run: RunConfig, data: Dataset
) -> None:
    result = train(run.override("train.max_steps=2"), data, out=tmp_path / "run", show_progress=False)
    with pytest.raises(ConfigError, match="only the targets of user rows") as error:
        evaluate(result, candidates=5)
    assert error.value.got == 5


def test_a_damaged_part_file_fails_the_run_and_is_named(
    tmp_path: Path, run: RunConfig, data: Dataset
) -> None:
    part = data.path / data.manifest.split("train").files[0].path
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    with pytest.raises((DataError, RankError), match=part.name):
        train(run, data, out=tmp_path / "run", show_progress=False)


def test_bf16_trains_close_to_fp32(tmp_path: Path, run: RunConfig, data: Dataset) -> None:
    full = train(run, data, out=tmp_path / "fp32", show_progress=False)
    half = train(run.override("train.precision=bf16"), data, out=tmp_path / "bf16", show_progress=False)
    assert math.isfinite(half.metrics["log_loss"])
    assert half.metrics["log_loss"] == pytest.approx(full.metrics["log_loss"], abs=0.02)
    assert half.metrics["log_loss"] != full.metrics["log_loss"]


def test_petastorm_trains_whole_epochs_and_refuses_to_resume_inside_one(
    tmp_path: Path, run: RunConfig, data: Dataset
) -> None:
    pytest.importorskip("petastorm")
    run = run.override("data.reader=petastorm", "train.max_steps=null")
    result = train(run, data, out=tmp_path / "run", show_progress=False)
    assert result.result["epochs"] == 2
    part = run.override("train.max_steps=6")
    train(part, data, out=tmp_path / "part", show_progress=False)
    with pytest.raises(ShardrecError, match=r"data\.reader: arrow"):
        train(run, data, out=tmp_path / "part", show_progress=False)


def test_weights_that_are_not_finite_never_become_a_checkpoint(
    tmp_path: Path, run: RunConfig, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Optimizers.end_step

    def end_step(self: Optimizers, max_gradient_norm: float | None) -> None:
        real(self, max_gradient_norm)
        self._dense_parameters[0].data[0] = math.inf

    monkeypatch.setattr(Optimizers, "end_step", end_step)
    # The update of a step comes after its loss, so only the weights can tell.
    broken = run.override("train.checkpoint_every_steps=1", "train.max_steps=1")
    with pytest.raises(ShardrecError, match="weights are not finite") as caught:
        train(broken, data, out=tmp_path / "run", show_progress=False)
    assert "--out" in str(caught.value)
    assert saved_steps(RunFolder(tmp_path / "run")) == []


def test_where_tables_lie_may_change_between_the_parts_of_a_run(
    tmp_path: Path, run: RunConfig, data: Dataset
) -> None:
    run = run.override("train.embedding_optimizer={name: adagrad}")
    whole = train(run, data, out=tmp_path / "whole", show_progress=False)
    train(run.override("train.max_steps=8"), data, out=tmp_path / "run", show_progress=False)
    other = run.override("tables={'*': {sharding_types: [data_parallel]}}")
    resumed = train(other, data, out=tmp_path / "run", show_progress=False)
    assert '"data_parallel"' in RunFolder(tmp_path / "run").plan_file.read_text()
    assert resumed.metrics == pytest.approx(whole.metrics, abs=1e-6)


@pytest.mark.thorough
def test_the_precision_between_ranks_may_change_between_the_parts_of_a_run(
    tmp_path: Path, run: RunConfig, data: Dataset
) -> None:
    cluster = Cluster.local(2, on="torchrun")
    whole = train(run, data, out=tmp_path / "whole", show_progress=False)
    packed = run.override("train.table_communication={forward: bf16, backward: bf16}")
    train(packed.override("train.max_steps=8"), data, cluster, out=tmp_path / "run", show_progress=False)
    assert '"forward": "bf16", "backward": "bf16"' in RunFolder(tmp_path / "run").plan_file.read_text()
    resumed = train(run, data, cluster, out=tmp_path / "run", show_progress=False)
    assert resumed.metrics["log_loss"] == pytest.approx(whole.metrics["log_loss"], abs=0.01)
    assert resumed.metrics["log_loss"] != pytest.approx(whole.metrics["log_loss"], abs=1e-9)


def test_a_run_with_settings_of_gpus_is_evaluated_on_cpu(
    tmp_path: Path, run: RunConfig, data: Dataset
) -> None:
    result = train(run, data, out=tmp_path / "run", show_progress=False)
    before = evaluate(result, "test").metrics
    on_gpu = run.override(
        "train.embedding_optimizer={name: adam}",
        "tables={'*': {compute_kernels: [fused_uvm_caching], cache_load_factor: 0.2, data_type: bf16}}",
    )
    RunFolder(result.path).config_file.write_text(on_gpu.to_yaml())
    assert evaluate(result, "test").metrics == pytest.approx(before, abs=1e-9)


@pytest.mark.parametrize("optimizer", ["{name: lamb}", "{name: rowwise_adagrad, weight_decay: 0.1}"])
def test_an_optimizer_that_cpu_lacks_is_refused_before_the_run_folder_is_made(
    tmp_path: Path, run: RunConfig, data: Dataset, optimizer: str
) -> None:
    with pytest.raises(PlanError, match=r"train\.embedding_optimizer"):
        train(
            run.override(f"train.embedding_optimizer={optimizer}"),
            data,
            out=tmp_path / "run",
            show_progress=False,
        )
    layout = plan(run.override("train.embedding_optimizer={name: sgd}"), data)
    with pytest.raises(PlanError, match="another embedding optimizer"):
        train(run, data, None, layout, out=tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run").exists()


def test_an_interrupted_run_claims_no_metrics_of_another_step(
    tmp_path: Path, run: RunConfig, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StopRequest, "__call__", lambda self: True)
    run = run.override(
        "train.evaluate_every_steps=3", "train.log_every_steps=5", "train.checkpoint_every_steps=50"
    )
    result = train(run, data, out=tmp_path / "run", show_progress=False)
    assert result.result["stopped"] == "interrupted"
    evaluated = result.result["progress"]["evaluated_step"]
    assert result.metrics == {} or evaluated == result.result["steps"]


def test_planning_and_training_leave_the_callers_generator_alone(
    tmp_path: Path, run: RunConfig, data: Dataset
) -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    plan(run, data)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.thorough
@pytest.mark.parametrize("tail", ["drop", "pad"])
def test_sample_weights_and_padding_count_the_same_at_every_world_size(
    tmp_path: Path, run: RunConfig, tail: str
) -> None:
    rows = {"train": 300, "valid": 200}
    written = write_dataset(tmp_path / "data", rows=rows, num_sequences=0, weight=True)
    prepared_as = {"config_hash": run.preparation_hash(), "preparation": run.preparation()}
    written.manifest.model_copy(update=prepared_as).save(tmp_path / "data")
    run = run.override(
        f"train.tail={tail}", "train.log_every_steps=1", "train.embedding_optimizer={name: sgd}"
    )
    run = run.override("train.max_gradient_norm=0.1", "train.schedule={warmup_steps: 5, decay: cosine}")
    seen = []
    for ranks in (1, 4):
        out = tmp_path / str(ranks)
        cluster = Cluster.local(ranks, on="process" if ranks == 1 else "torchrun")
        result = train(run, Dataset.open(tmp_path / "data"), cluster, out=out, show_progress=False)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        seen.append([line["loss"] for line in lines if line["kind"] == "train"])
        seen[-1].append(result.metrics["log_loss"])
    assert len(seen[0]) == 1 + (10 if tail == "pad" else 8)
    assert seen[1] == pytest.approx(seen[0], abs=1e-6)


def test_one_process_trains_without_pyspark_and_its_log_ends_with_what_this_run_met(
    tmp_path: Path, run: RunConfig
) -> None:
    run = run.override("features.dense.0.ops=[{fill: 0}, {clip: {min: 0}}, log1p]")
    data, config = tiny_data(tmp_path / "data", run), tmp_path / "run.yaml"
    config.write_text(run.to_yaml())
    code = (
        "import sys\n"
        "sys.modules['pyspark'] = None  # `import pyspark` raises\n"
        "from jobs.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ["train", config, "--data", data.path, "--out", tmp_path / "run", "--on", "process"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "run" / "log" / "rank_00000.txt").read_text()
    assert log.splitlines()[-1] == "rank 0 of 1 on cpu"
