"""What rank 0 writes while training: metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from sharding.files import open_to_append, write_atomically
from trainer.run_folder import RunFolder, finite


class Recorder:
    """Appends to `metrics.jsonl` and TensorBoard; on other ranks than 0 it does nothing.

    Args:
        folder: the run folder.
        enabled: False on all ranks but one.
        first_step: step at which this launch begins; records of later steps, which it will write again, are
            dropped.
        start: further values of the `start` record.
    """

    def __init__(self, folder: RunFolder, *, enabled: bool, first_step: int, **start: Any) -> None:
        self._file = None
        self._board = None
        if not enabled:
            return
        # Loaded here: the import costs a second that ranks other than 0 need not pay.
        from torch.utils.tensorboard import SummaryWriter

        started = _line("start", first_step, {"first_step": first_step, **start})
        _begin(folder.metrics_file, first_step, started)
        self._file = os.fdopen(open_to_append(folder.metrics_file), "w", encoding="utf-8")
        self._board = SummaryWriter(
            str(folder.path / "tensorboard"), purge_step=first_step + 1 if first_step else 0
        )

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None and self._board is not None:
            self._file.close()
            self._board.close()

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Write one line, `{"kind", "step", "time", ...}`; numbers go to TensorBoard as `kind/name`."""
        if self._file is None or self._board is None:
            return
        self._file.write(_line(kind, step, values))
        self._file.flush()
        if kind in {"train", "evaluation", "ids"}:
            group = f"{kind}/{values['table']}" if kind == "ids" else kind
            for name, value in _numbers(values):
                self._board.add_scalar(f"{group}/{name}", value, step)
        if kind == "checkpoint":
            # A run that is killed goes on from here and does not write the steps before again.
            self._board.flush()


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers among values with their names, `a/b` inside mappings."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)):
            yield f"{prefix}{name}", value


def _line(kind: str, step: int, values: dict[str, Any]) -> str:
    record = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
    return json.dumps(finite(record)) + "\n"


def _begin(file: Path, step: int, started: str) -> None:
    """Drop the lines that a run going on from `step` will write again (from step 0 all) and add the start.

    All in one go: who follows the file never sees old records that no new start stands behind.
    """
    kept: list[str] = []
    if step > 0 and file.exists():
        lines = file.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if (at := _step_of(line)) is not None and at <= step]
    write_atomically(file, "".join(f"{line}\n" for line in kept) + started)


def _step_of(line: str) -> int | None:
    """Return a record's step, or None for the half line that a killed run may leave at the end."""
    try:
        step: int = json.loads(line).get("step", 0)
    except json.JSONDecodeError:
        return None
    return step
