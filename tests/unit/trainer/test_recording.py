"""metrics.jsonl and TensorBoard while training, and after a killed run is taken up again."""

import json
import math
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer.recording import Recorder
from trainer.run_folder import RunFolder


def lines(folder: RunFolder) -> list[dict[str, object]]:
    return [json.loads(line) for line in folder.metrics_file.read_text().splitlines()]


def kinds(folder: RunFolder) -> list[tuple[object, object]]:
    return [(line["kind"], line["step"]) for line in lines(folder)]


def test_lines_carry_kind_step_and_values_and_nan_becomes_null(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with Recorder(folder, enabled=True, first_step=0, total_steps=20) as recorder:
        recorder.write("train", 5, loss=0.5)
        recorder.write("evaluation", 5, auc=math.nan)
    assert kinds(folder) == [("start", 0), ("train", 5), ("evaluation", 5)]
    assert (lines(folder)[0]["first_step"], lines(folder)[0]["total_steps"]) == (0, 20)
    assert lines(folder)[2]["auc"] is None


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with Recorder(RunFolder(tmp_path), enabled=False, first_step=0) as recorder:
        recorder.write("train", 5, loss=0.5)
    assert list(tmp_path.iterdir()) == []


def test_steps_that_will_be_done_again_and_half_lines_are_dropped(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics_file.write_text(
        '{"kind": "train", "step": 10}\n{"kind": "train", "step": 20}\n{"kind": "train", "st'
    )
    with Recorder(folder, enabled=True, first_step=10) as recorder:
        recorder.write("train", 20, loss=0.5)
    assert kinds(folder) == [("train", 10), ("start", 10), ("train", 20)]
    assert [path.name for path in tmp_path.glob("*metrics*")] == ["metrics.jsonl"]


def test_a_run_that_begins_anew_drops_all_records(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics_file.write_text('{"kind": "train", "step": 10}\n')
    with Recorder(folder, enabled=True, first_step=0):
        assert kinds(folder) == [("start", 0)]


def test_tensorboard_has_all_steps_up_to_a_checkpoint_when_the_run_is_killed(tmp_path: Path) -> None:
    # Not closed, as a kill leaves it.
    recorder = Recorder(RunFolder(tmp_path), enabled=True, first_step=0)
    recorder.write("train", 5, loss=0.5)
    recorder.write("train", 10, loss=0.25)
    recorder.write("checkpoint", 10)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == [(5, 0.5), (10, 0.25)]
