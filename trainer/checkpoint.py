"""Checkpoints: sharded weights, optimizer states and the place in the data, readable at any world size.

`checkpoints/step_00000100/` holds torch.distributed.checkpoint files, `state.json` (the place), and the
config and plan it was made with. It is written under another name and renamed when complete, so that a
folder named `step_*` is always whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlanner

from trainer.errors import CheckpointError
from trainer.run_folder import STATE_FILE, RunFolder, read_json, write_json

# Ends of the names of folders that are to be deleted; deleting takes several steps, renaming one.
_REPLACED, _PRUNED = ".replaced", ".pruned"


@dataclass
class Progress:
    """How far training has come; with the config and the data set this is the whole reader state.

    Attributes:
        step: steps done.
        epoch: current epoch, from 0.
        step_in_epoch: global batches of the epoch done.
        best_metric: name of the metric that the best is best in, None before the first evaluation.
        best_step: step of the best evaluation, None before the first.
        best_value: its metric.
        best_metrics: all metrics of that evaluation.
        evaluations_since_best: for early stopping.
        evaluation: metrics of the newest evaluation.
        evaluated_step: its step.
        finished: training ended by itself (all steps done, or early stopping).
        rows_skipped: rows of all ranks and steps that could not be read.
        plateau_value: the metric of `train.plateau` at its best.
        plateau_evaluations: evaluations without improvement since then or since the last fall.
        plateau_factor: what the falls have multiplied the learning rates by.
        guard: `Guard.state`.
        earlier_steps: of the runs that this one was remapped from; Adam's moments, taken over, count them.
    """

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    best_metric: str | None = None
    best_step: int | None = None
    best_value: float | None = None
    best_metrics: dict[str, Any] | None = None
    evaluations_since_best: int = 0
    evaluation: dict[str, Any] | None = None
    evaluated_step: int | None = None
    finished: bool = False
    rows_skipped: int = 0
    plateau_value: float | None = None
    plateau_evaluations: int = 0
    plateau_factor: float = 1.0
    guard: dict[str, Any] = field(default_factory=dict)
    earlier_steps: int = 0


def checkpoint_path(folder: RunFolder, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return folder.checkpoints / f"step_{step:08d}"


def saved_steps(folder: RunFolder) -> list[int]:
    """Return the steps of the complete checkpoints, oldest first."""
    return [int(name.removeprefix("step_")) for name in folder.saved_checkpoints()]


def latest_checkpoint(folder: RunFolder) -> Path | None:
    """Return the newest complete checkpoint, or None."""
    steps = saved_steps(folder)
    return checkpoint_path(folder, steps[-1]) if steps else None


def read_progress(checkpoint: Path) -> Progress:
    """Read the place in the data of a checkpoint.

    Raises:
        CheckpointError: the file with it is damaged.
    """
    try:
        return Progress(**read_json(checkpoint / STATE_FILE)["progress"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(checkpoint, error) from error


def save_checkpoint(
    folder: RunFolder, progress: Progress, state: dict[str, Any], facts: dict[str, Any], keep: int
) -> Path:
    """Save on all ranks together and delete old checkpoints.

    Args:
        folder: the run folder.
        progress: the place in the data.
        state: `{"model": ..., "optimizer": ...}`, sharded state dicts.
        facts: written beside the progress: feature spec hash, world size.
        keep: newest checkpoints kept; the best one is always kept.

    Raises:
        CheckpointError: a rank could not write; earlier checkpoints are untouched.
    """
    final = checkpoint_path(folder, progress.step)
    temporary = final.with_name(f".{final.name}.tmp")

    def begin() -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)

    def commit() -> None:
        shutil.copy(folder.config_file, temporary)
        shutil.copy(folder.plan_file, temporary)
        write_json(temporary / STATE_FILE, {"progress": asdict(progress), **facts})
        if final.exists():
            _rename(final, _REPLACED)
        os.replace(temporary, final)
        _prune(folder, progress, keep)

    try:
        _on_rank_0(begin)
        state_dict_saver.save(state, checkpoint_id=temporary)
        _on_rank_0(commit)
    except (CheckpointException, OSError) as error:
        if dist.get_rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint could not be written: {_cause(error)}",
            where=str(final),
            fixes=["free some space, then go on with --resume", "set train.keep_checkpoints lower"],
        ) from error
    return final


def newest_progress(folder: RunFolder) -> tuple[Path, Progress] | None:
    """Return the newest complete checkpoint and its place, or None; rank 0 looks, all ranks get its answer.

    Ranks on several hosts may see a shared folder at different ages.
    """
    found: list[Any] = [None]
    if dist.get_rank() == 0:
        _restore_replaced(folder)
        checkpoint = latest_checkpoint(folder)
        found = [None if checkpoint is None else (checkpoint, read_progress(checkpoint))]
    dist.broadcast_object_list(found, src=0)
    answer: tuple[Path, Progress] | None = found[0]
    return answer


def _on_rank_0(action: Callable[[], None]) -> None:
    """Run something on rank 0 and raise its OSError on every rank, so that none waits for the others."""
    outcome: list[OSError | None] = [None]
    if dist.get_rank() == 0:
        try:
            action()
        except OSError as error:
            outcome = [error]
    dist.broadcast_object_list(outcome, src=0)
    if outcome[0] is not None:
        raise outcome[0]


def read_metadata(checkpoint: Path) -> Metadata:
    """Read which tensors a checkpoint holds, and how large they are.

    Raises:
        CheckpointError: the file with it is missing or damaged.
    """
    try:
        return FileSystemReader(checkpoint).read_metadata()
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        raise _unreadable(checkpoint, error) from error


def load_checkpoint(checkpoint: Path, state: dict[str, Any], planner: LoadPlanner | None = None) -> None:
    """Fill sharded state dicts in place, at whatever world size they have.

    Args:
        checkpoint: its folder.
        state: to fill; every rank calls it.
        planner: reads what this rank alone asks for, without the others.

    Raises:
        CheckpointError: files are missing or damaged, or shapes do not match.
    """
    try:
        state_dict_loader.load(state, checkpoint_id=checkpoint, planner=planner, no_dist=planner is not None)
    except (CheckpointException, OSError, RuntimeError, ValueError, EOFError) as error:
        raise _unreadable(checkpoint, error) from error


def _unreadable(checkpoint: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint cannot be loaded: {_cause(error)}",
        where=str(checkpoint),
        fixes=[f"remove {checkpoint} to go on from the one before", "train again in another folder"],
    )


def _prune(folder: RunFolder, progress: Progress, keep: int) -> None:
    for step in saved_steps(folder)[:-keep]:
        if step != progress.best_step:
            _rename(checkpoint_path(folder, step), _PRUNED)
    for end in (_REPLACED, _PRUNED):
        for left in folder.checkpoints.glob(f".step_*{end}"):
            shutil.rmtree(left, ignore_errors=True)


def _rename(checkpoint: Path, end: str) -> None:
    hidden = checkpoint.with_name(f".{checkpoint.name}{end}")
    shutil.rmtree(hidden, ignore_errors=True)
    os.replace(checkpoint, hidden)


def _restore_replaced(folder: RunFolder) -> None:
    """Bring back a checkpoint whose replacement was killed before it took the name."""
    for hidden in folder.checkpoints.glob(f".step_*{_REPLACED}"):
        checkpoint = hidden.with_name(hidden.name[1 : -len(_REPLACED)])
        if not checkpoint.exists():
            os.replace(hidden, checkpoint)


def _cause(error: BaseException) -> str:
    """Return the first line of the innermost cause; DCP wraps each rank's error in a table of tracebacks."""
    failures = getattr(error, "failures", None)
    if failures:
        rank, (inner, _) = sorted(failures.items())[0]
        return f"rank {rank}: {type(inner).__name__}: {str(inner).splitlines()[0] if str(inner) else ''}"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
