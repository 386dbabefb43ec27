"""Dropout whose mask follows the row, so that it is the same at every world size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sharding.hashing import hashed_seed, splitmix64_

_LAYER_STEP = 0xD1B54A32D192ED03  # Odd, so that layers never share a key.


class RowDropout(nn.Module):
    """Zero a share of the units in training and scale up the others, as `nn.Dropout` does.

    Whether a unit is dropped is a hash of the seed, the layer, the number of the row in its split and the
    unit. `nn.Dropout` draws from a generator instead, so its masks change with the number of ranks and the
    place of a row in the batch, and so would the losses.

    The seed is `torch.initial_seed()`: the training loop sets it anew at each step, alike on all ranks.

    Args:
        p: share of the units dropped, to the nearest of 65,536 steps.

    Attributes:
        layer: number among the model's dropouts, given by `row_dropouts`.
        rows_B: `row_numbers` of the batch, given before each step; None counts from 0.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.layer = 0
        self.rows_B: Tensor | None = None

    def forward(self, x_BN: Tensor) -> Tensor:
        """Return a tensor of the shape of `x_BN`, [B, ...]."""
        if not self.training or self.p == 0.0:
            return x_BN
        return x_BN * _kept(x_BN, self.rows_B, self.layer, self.p).to(x_BN.dtype) / (1.0 - self.p)


@torch.fx.wrap  # One call to who traces a model: its control flow is about shapes.
@torch.no_grad()
def _kept(x_BN: Tensor, rows_B: Tensor | None, layer: int, p: float) -> Tensor:
    """Return the mask: bool, shape of `x_BN`."""
    rows, units = x_BN.shape[0], x_BN[0].numel() if x_BN.shape[0] else 0
    key = hashed_seed(x_BN.device, (layer + 1) * _LAYER_STEP)
    numbers_B = torch.arange(rows, device=x_BN.device) if rows_B is None else rows_B
    row_B1 = splitmix64_(numbers_B + key).unsqueeze(1)
    hashes = splitmix64_(row_B1 + torch.arange(-(-units // 4), device=x_BN.device))
    # Each hash serves four units: 16 bits of it are -2^15 .. 2^15 - 1, each equally likely.
    bits_BN = hashes.view(torch.int16)[:, :units]
    return (bits_BN >= round(p * (1 << 16)) - (1 << 15)).reshape(x_BN.shape)


@contextmanager
def of_rows(model: nn.Module, place_G: Tensor) -> Iterator[None]:
    """Let the dropouts of a model see some rows of the batch alone.

    Args:
        model: with any number of `RowDropout`.
        place_G: places of those rows in the batch.
    """
    found = [module for module in model.modules() if isinstance(module, RowDropout)]
    before = [dropout.rows_B for dropout in found]
    for dropout, rows_B in zip(found, before, strict=True):
        dropout.rows_B = place_G if rows_B is None else rows_B[place_G]
    try:
        yield
    finally:
        for dropout, rows_B in zip(found, before, strict=True):
            dropout.rows_B = rows_B


def row_numbers(rows_B: Tensor) -> Tensor:
    """Return numbers that tell rows apart: their own, and others below 0 where they have none.

    Args:
        rows_B: `Batch.rows_B`.
    """
    count = rows_B.shape[0]
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    place_B = torch.arange(count, device=rows_B.device)
    return torch.where(rows_B < 0, -1 - place_B - rank * count, rows_B)


def row_dropouts(model: nn.Module) -> list[RowDropout]:
    """Return the model's dropouts, each numbered as a layer of its own."""
    found = [module for module in model.modules() if isinstance(module, RowDropout)]
    for number, module in enumerate(found):
        module.layer = number
    return found
