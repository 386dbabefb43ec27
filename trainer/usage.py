"""Speed, memory and soundness of one rank."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sharding.weights import local_parts
from trainer.batch import SKIPPED_ROW


class Meter:
    """Mean loss and samples per second over all ranks; evaluating and saving do not count as training."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.started = time.monotonic()
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._rows = 0
        self.rows = 0
        """Rows of all ranks with a weight above 0, over all steps read so far."""
        self._skipped = 0
        self.rows_skipped = 0
        """Rows of all ranks that could not be read, over all steps read so far."""
        self._weight = 0.0
        self._labels_T = torch.zeros(0, dtype=torch.float64)
        self.mean_labels_T: list[float] = []
        """Mean label of each task over the steps of the last read, weighted as the loss is."""
        self._seconds = self._all_seconds = 0.0
        self._since: float | None = self.started

    def add(self, loss: Tensor, labels_BT: Tensor, weights_B: Tensor, rows_B: Tensor) -> None:
        """Count one step of this rank.

        Args:
            loss: weighted sum over the rows divided by B.
            labels_BT: [B, T] on CPU.
            weights_B: [B] weights of the rows on CPU, 0 for padding.
            rows_B: [B] numbers of the rows on CPU, see `Batch`.
        """
        self._loss += loss.double() * len(weights_B)
        self._rows += int((weights_B > 0).sum())
        self._weight += float(weights_B.double().sum())
        labels_T = weights_B.double() @ labels_BT.double()
        self._labels_T = labels_T if not len(self._labels_T) else self._labels_T + labels_T
        self._skipped += int((rows_B == SKIPPED_ROW).sum())

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

        The mean is weighted by the rows' weights, as the log loss of an evaluation is.
        One all-reduce carries the losses and the stop flags, so that all ranks stop at the same step.
        """
        counts = [self._weight, self._rows, self._skipped, stop_requested]
        mine = torch.tensor(counts, dtype=torch.float64, device=self._device)
        shared = torch.cat([self._loss.reshape(1), mine, self._labels_T.to(self._device)])
        dist.all_reduce(shared)
        self.pause()
        loss, weight, rows, skipped, stops, *labels_T = shared.tolist()
        self.mean_labels_T = [label / (weight or 1.0) for label in labels_T]
        speed = rows / max(self._seconds, 1e-9)
        self.rows += int(rows)
        self.rows_skipped += int(skipped)
        self._all_seconds += self._seconds
        self._loss.zero_()
        self._labels_T.zero_()
        self._rows, self._skipped, self._weight, self._seconds = 0, 0, 0.0, 0.0
        self.resume()
        return loss / (weight or 1.0), speed, stops > 0

    def overall(self) -> float:
        """Return samples per second of all ranks over all steps read so far."""
        return self.rows / self._all_seconds if self._all_seconds else 0.0


def all_finite(state: Mapping[str, Any], device: torch.device) -> bool:
    """Return whether every weight of every rank is a finite number.

    Args:
        state: the model's sharded state dict.
        device: where the ranks reduce.
    """
    # A sum is finite only if its terms are, and needs no copy of a table that fills the memory.
    sums = [
        part.sum(dtype=torch.float32).to(device)
        for value in state.values()
        for part, _, _ in local_parts(value)
        if part.is_floating_point() and part.numel()
    ]
    broken = torch.zeros((), device=device)
    if sums:
        broken = (~torch.isfinite(torch.stack(sums))).sum().float()
    dist.all_reduce(broken)
    return not bool(broken > 0)


def peak_memory_gib() -> float:
    """Return the largest resident set of this process so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
