"""metrics.jsonl while training, and after a killed run is taken up again."""

import json
import math
from pathlib import Path

from trainer.recording import Recorder, forget_after
from trainer.run_folder import RunFolder


def lines(folder: RunFolder) -> list[dict[str, object]]:
    return [json.loads(line) for line in folder.metrics_file.read_text().splitlines()]


def test_lines_carry_kind_step_and_values_and_nan_becomes_null(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with Recorder(folder, enabled=True, first_step=0) as recorder:
        recorder.write("train", 5, loss=0.5)
        recorder.write("evaluation", 5, auc=math.nan)
    assert [(line["kind"], line["step"]) for line in lines(folder)] == [("train", 5), ("evaluation", 5)]
    assert lines(folder)[1]["auc"] is None
    assert list((tmp_path / "tensorboard").iterdir())


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with Recorder(RunFolder(tmp_path), enabled=False, first_step=0) as recorder:
        recorder.write("train", 5, loss=0.5)
    assert list(tmp_path.iterdir()) == []


def test_steps_that_will_be_done_again_and_half_lines_are_dropped(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics_file.write_text(
        '{"kind": "train", "step": 10}\n{"kind": "train", "step": 20}\n{"kind": "train", "st'
    )
    forget_after(folder, 10)
    assert [line["step"] for line in lines(folder)] == [10]
