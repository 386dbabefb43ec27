"""Run folders that were killed, copied, damaged or trained further."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs import Dataset, RunConfig, evaluate, train
from tests.support.tiny import tiny_data
from trainer import checkpoint
from trainer.errors import CheckpointError, DataError
from trainer.run_folder import RunFolder, write_json


def names(run_folder: Path) -> list[str]:
    return sorted(path.name for path in (run_folder / "checkpoints").iterdir())


def test_a_half_deleted_checkpoint_does_not_look_whole(
    tmp_path: Path, run: RunConfig, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed_half_way(path: Path, **_: Any) -> None:
        for file in Path(path).glob("*.distcp"):
            file.unlink()

    run = run.override("train.keep_checkpoints=1")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", killed_half_way)
        train(run, data, out=tmp_path / "run", show_progress=False)
    assert [name for name in names(tmp_path / "run") if name.startswith("step_")] == ["step_00000012"]
    assert list((tmp_path / "run" / "checkpoints" / "step_00000012").glob("*.distcp"))

    train(run.override("train.max_steps=15"), data, out=tmp_path / "run", show_progress=False)
    assert names(tmp_path / "run") == ["step_00000015"]


def test_a_run_killed_while_it_replaced_its_only_checkpoint_goes_on_from_it(
    tmp_path: Path, run: RunConfig, data: Dataset
) -> None:
    run = run.override("train.keep_checkpoints=1")
    train(run, data, out=tmp_path / "run", show_progress=False)
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "step_00000012").rename(checkpoints / ".step_00000012.replaced")

    train(run.override("train.max_steps=15"), data, out=tmp_path / "run", show_progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["first_step"] for line in lines if line["kind"] == "start"][-1] == 12
    assert names(tmp_path / "run") == ["step_00000015"]


def test_a_left_replaced_checkpoint_does_not_replace_the_new_one(
    tmp_path: Path, run: RunConfig, data: Dataset
) -> None:
    train(run, data, out=tmp_path / "run", show_progress=False)
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.copytree(checkpoints / "step_00000004", checkpoints / ".step_00000012.replaced")
    train(run.override("train.max_steps=15"), data, out=tmp_path / "run", show_progress=False)
    assert not [name for name in names(tmp_path / "run") if name.startswith(".")]
    assert json.loads((checkpoints / "step_00000012" / "state.json").read_text())["progress"]["step"] == 12


def test_a_copy_beside_the_checkpoints_is_left_alone(tmp_path: Path, run: RunConfig, data: Dataset) -> None:
    train(run, data, out=tmp_path / "run", show_progress=False)
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.copytree(checkpoints / "step_00000004", checkpoints / "step_00000099_backup")
    result = train(run.override("train.max_steps=15"), data, out=tmp_path / "run", show_progress=False)
    assert result.result["steps"] == 15
    assert (checkpoints / "step_00000099_backup" / "state.json").exists()


@pytest.mark.parametrize("text", ["", "{}", '{"progress": {"stride": 3}}'])
def test_a_damaged_place_in_the_data_is_named(
    tmp_path: Path, run: RunConfig, data: Dataset, text: str
) -> None:
    train(run, data, out=tmp_path / "run", show_progress=False)
    newest = tmp_path / "run" / "checkpoints" / "step_00000012"
    (newest / "state.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="cannot be loaded") as caught:
        train(run.override("train.max_steps=15"), data, out=tmp_path / "run", show_progress=False)
    assert caught.value.where == str(newest)


def test_a_full_disk_leaves_the_config_of_a_run_whole(
    tmp_path: Path, run: RunConfig, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = RunFolder(tmp_path / "run")
    folder.create(run, data.manifest, data.path)
    before = sorted(path.name for path in folder.path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match="No space left"):
            folder.create(run.override("train.max_steps=15"), data.manifest, data.path)
    assert folder.config() == run
    assert sorted(path.name for path in folder.path.iterdir()) == before


def test_a_further_step_forgets_what_was_reckoned_from_the_weights_before(
    tmp_path: Path, run: RunConfig, data: Dataset
) -> None:
    folder = RunFolder(tmp_path / "run")
    result = train(run, data, out=folder.path, show_progress=False)
    evaluate(result)
    write_json(folder.recommendations_file, {"users": []})

    train(run, data, out=folder.path, show_progress=False)  # it is finished: nothing changes
    assert (folder.path / "evaluation_test.json").exists()
    assert folder.recommendations_file.exists()

    train(run.override("train.max_steps=15"), data, out=folder.path, show_progress=False)
    assert not (folder.path / "evaluation_test.json").exists()
    assert not folder.recommendations_file.exists()


def test_the_training_split_is_evaluated_whole_though_training_drops_its_tail(
    tmp_path: Path, run: RunConfig, data: Dataset
) -> None:
    result = train(run, data, out=tmp_path / "run", show_progress=False)
    few = tiny_data(tmp_path / "few", run, rows={"train": 10})
    assert evaluate(result, split="train", data=few).rows == 10
