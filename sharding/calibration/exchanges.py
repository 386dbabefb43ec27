"""Collectives among all ranks: latency and bandwidth, from messages of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
import torch.distributed as dist

from sharding.calibration.timing import fit_line, median_ms, slowest
from sharding.measured import Collective, CollectiveRate
from sharding.units import MIB

# GB/s beyond which a message's size makes no difference that could be measured.
_MOST_GBPS = 1e4


def measure_exchanges(
    device: torch.device, nodes: int, sizes: Sequence[int], repeats: int
) -> list[CollectiveRate]:
    """Measure every kind of collective.

    Args:
        device: of this rank.
        nodes: that hold the ranks.
        sizes: bytes of the larger of input and output on each rank.
        repeats: timed runs of each.
    """
    return [_measure(kind, device, nodes, sizes, repeats) for kind in get_args(Collective)]


def _measure(
    kind: Collective, device: torch.device, nodes: int, sizes: Sequence[int], repeats: int
) -> CollectiveRate:
    ranks = dist.get_world_size()
    # Whole values for every rank.
    counts = [max(1, size // 4 // ranks) * ranks for size in sizes]
    times = slowest([median_ms(_work(kind, count, device), device, repeats) for count in counts])
    latency_ms, slope = fit_line([count * 4 for count in counts], times)
    gbps = min(_MOST_GBPS, 1e-6 / slope) if slope > 0 else _MOST_GBPS
    return CollectiveRate(kind, ranks, nodes, latency_ms, gbps)


def _work(kind: Collective, count: int, device: torch.device) -> Callable[[], Any]:
    """Return one run of a collective whose larger side has `count` fp32 values.

    Outputs are made anew each time, as TorchRec makes them: on CPU their first pages cost much. DDP sums in
    place.
    """
    whole = torch.zeros(count, device=device)
    part = torch.zeros(count // dist.get_world_size(), device=device)
    return {
        "all_to_all": lambda: dist.all_to_all_single(torch.empty_like(whole), whole),
        "all_reduce": lambda: dist.all_reduce(whole),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(torch.empty_like(part), whole),
        "all_gather": lambda: dist.all_gather_into_tensor(torch.empty_like(whole), part),
    }[kind]


def link_gbps(rates: Sequence[CollectiveRate]) -> float | None:
    """Return what a rank sends to the others, GB/s, by the all-to-all; None where it is alone."""
    rate = next(rate for rate in rates if rate.kind == "all_to_all")
    return rate.gbps * (rate.ranks - 1) / rate.ranks if rate.ranks > 1 else None


def message_sizes(device: torch.device) -> tuple[int, ...]:
    """Return bytes to measure with: what small and large batches send."""
    return (4096, 64 * 1024, MIB, 8 * MIB) if device.type == "cpu" else (4096, MIB, 16 * MIB, 128 * MIB)
