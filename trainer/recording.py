"""What rank 0 writes while training: metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import time
from types import TracebackType
from typing import Any

from trainer.run_folder import RunFolder, finite


class Recorder:
    """Appends to `metrics.jsonl` and TensorBoard; on other ranks than 0 it does nothing."""

    def __init__(self, folder: RunFolder, *, enabled: bool, first_step: int) -> None:
        self._file = None
        self._board = None
        if not enabled:
            return
        # Loaded here: the import costs a second that ranks other than 0 need not pay.
        from torch.utils.tensorboard import SummaryWriter

        forget_after(folder, first_step)
        self._file = folder.metrics_file.open("a", encoding="utf-8")
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
        line = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
        self._file.write(json.dumps(finite(line)) + "\n")
        self._file.flush()
        if kind in {"train", "evaluation"}:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(f"{kind}/{name}", value, step)


def forget_after(folder: RunFolder, step: int) -> None:
    """Drop the lines that a run going on from `step` will write again: all of them from step 0."""
    if not folder.metrics_file.exists():
        return
    kept = [
        line
        for line in folder.metrics_file.read_text(encoding="utf-8").splitlines()
        if step > 0 and (record := _parsed(line)) is not None and record.get("step", 0) <= step
    ]
    temporary = folder.metrics_file.with_suffix(".tmp")
    temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    temporary.replace(folder.metrics_file)


def _parsed(line: str) -> dict[str, Any] | None:
    # A killed run may leave half a line at the end.
    try:
        value: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return value
