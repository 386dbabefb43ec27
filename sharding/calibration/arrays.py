"""Matrix products of dense layers, and copies in memory."""

from __future__ import annotations

import torch

from sharding.calibration.timing import median_ms, slowest
from sharding.units import MIB

# Inputs and outputs of layers as recommenders have them, for a batch of rows.
_LAYERS = ((512, 256), (1024, 1024), (2048, 512))


def matrix_tflops(device: torch.device, dtype: torch.dtype, rows: int, repeats: int) -> float:
    """Return TFLOPS of a layer's three products: forward, and gradients of input and of weights.

    Args:
        device: of this rank.
        dtype: of the matrices.
        rows: of a batch.
        repeats: timed runs of each layer.
    """
    times = []
    for inputs, outputs in _LAYERS:
        x = torch.randn(rows, inputs, device=device, dtype=dtype)
        w = torch.randn(inputs, outputs, device=device, dtype=dtype)
        gradient = torch.randn(rows, outputs, device=device, dtype=dtype)
        times.append(
            median_ms(
                lambda x=x, w=w, g=gradient: (x @ w, g @ w.T, x.T @ g),  # type: ignore[misc]
                device,
                repeats,
            )
        )
    flops = sum(3 * 2 * rows * inputs * outputs for inputs, outputs in _LAYERS)
    return flops / sum(slowest(times)) / 1e9


def copy_gbps(source: torch.device, target: torch.device, repeats: int, size: int = 256 * MIB) -> float:
    """Return GB/s of a copy, bytes read plus bytes written where both are the same memory.

    Args:
        source: memory to read; pinned where it is the host's and the target is a GPU.
        target: memory to write.
        repeats: timed runs.
        size: bytes.
    """
    pinned = source.type == "cpu" and target.type == "cuda"
    values = torch.ones(size // 4, device=source, pin_memory=pinned)
    room = torch.empty(size // 4, device=target)
    (milliseconds,) = slowest([median_ms(lambda: room.copy_(values, non_blocking=True), target, repeats)])
    return size * (2 if source == target else 1) / milliseconds / 1e6
