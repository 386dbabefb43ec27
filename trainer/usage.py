"""Speed and memory of one rank."""

from __future__ import annotations

import resource
import sys
import time

import torch
import torch.distributed as dist
from torch import Tensor


class Meter:
    """Mean loss and samples per second over all ranks; evaluating and saving do not count as training."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.started = time.monotonic()
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._steps = self._rows = self._all_rows = 0
        self._seconds = self._all_seconds = 0.0
        self._since: float | None = self.started

    def add(self, loss: Tensor, rows: int) -> None:
        """Count one step of this rank: its mean loss and its rows."""
        self._loss += loss.double()
        self._steps += 1
        self._rows += rows

    def pause(self) -> None:
        """Stop the clock."""
        if self._since is not None:
            self._seconds += time.monotonic() - self._since
            self._since = None

    def resume(self) -> None:
        """Start the clock again."""
        self._since = time.monotonic()

    def read(self, stop_requested: bool) -> tuple[float, float, bool]:
        """Return mean loss and samples per second of all ranks since the last read, and whether to stop.

        One all-reduce carries the losses and the stop flags, so that all ranks stop at the same step.
        """
        flags = torch.tensor(float(stop_requested), dtype=torch.float64, device=self._device)
        shared = torch.stack([self._loss, flags])
        dist.all_reduce(shared)
        ranks = dist.get_world_size()
        self.pause()
        loss = float(shared[0]) / (ranks * max(1, self._steps))
        speed = ranks * self._rows / max(self._seconds, 1e-9)
        self._all_rows += ranks * self._rows
        self._all_seconds += self._seconds
        self._loss.zero_()
        self._steps, self._rows, self._seconds = 0, 0, 0.0
        self.resume()
        return loss, speed, bool(shared[1] > 0)

    def overall(self) -> float:
        """Return samples per second of all ranks over all steps read so far."""
        return self._all_rows / self._all_seconds if self._all_seconds else 0.0


def peak_memory_gib() -> float:
    """Return the largest resident set of this process so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
