"""Medians of timed runs, and the straight lines through them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.distributed as dist


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one run, by the clock."""
    wait_for(device)
    start = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - start


def median_ms(work: Callable[[], object], device: torch.device, repeats: int, warmups: int = 2) -> float:
    """Return the median milliseconds of a run; every rank runs it equally often, all at the same time."""
    for _ in range(warmups):
        work()
    dist.barrier()
    return statistics.median(seconds_of(work, device) for _ in range(repeats)) * 1e3


def slowest(figures: Sequence[float]) -> list[float]:
    """Return the largest value of each figure over all ranks: steps wait for the slowest rank."""
    gathered: list[Sequence[float]] = [()] * dist.get_world_size()
    dist.all_gather_object(gathered, list(figures))
    return [max(values) for values in zip(*gathered, strict=True)]


def fit_line(sizes: Sequence[float], times: Sequence[float]) -> tuple[float, float]:
    """Return offset and slope of `time = offset + slope * size`, neither below 0.

    Relative errors count, so that small sizes have their say in the offset.

    Args:
        sizes: two or more different ones.
        times: of them, above 0.
    """
    x, y = np.asarray(sizes, dtype=float), np.asarray(times, dtype=float)
    weights = 1 / y
    rows = np.stack([np.ones_like(x), x], axis=1) * weights[:, None]
    (offset, slope), *_ = np.linalg.lstsq(rows, np.ones_like(y), rcond=None)
    if offset < 0:
        offset, slope = 0.0, float((x * weights).sum() / ((x * weights) ** 2).sum())
    if slope <= 0:
        # All that can be said: the size makes no difference up to the largest one.
        offset, slope = float(np.median(y)), 0.0
    return float(offset), float(slope)
