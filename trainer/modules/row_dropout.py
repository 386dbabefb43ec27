"""Dropout whose mask follows the row, so that it is the same at every world size."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sharding.hashing import signed64, splitmix64_

_BITS = 24
_LAYER_STEP = 0xD1B54A32D192ED03  # Odd, so that layers never share a key.


class RowDropout(nn.Module):
    """Zero a share of the units in training and scale up the others, as `nn.Dropout` does.

    Whether a unit is dropped is a hash of the seed, the layer, the number of the row in its split and the
    unit. `nn.Dropout` draws from a generator instead, so its masks change with the number of ranks and the
    place of a row in the batch, and so would the losses.

    The seed is `torch.initial_seed()`: the training loop sets it anew at each step, alike on all ranks. Rows
    without a number (padding, or a reader that knows none) follow their place in the batch and the rank.

    Args:
        p: share of the units dropped.

    Attributes:
        layer: number among the model's dropouts, given by `row_dropouts`.
        rows_B: numbers of the rows in the batch, given before each step; None counts from 0.
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
        return x_BN * self.keep(x_BN).to(x_BN.dtype) / (1.0 - self.p)

    @torch.no_grad()
    def keep(self, x_BN: Tensor) -> Tensor:
        """Return the mask: bool, shape of `x_BN`."""
        rows, units = x_BN.shape[0], x_BN[0].numel() if x_BN.shape[0] else 0
        key = signed64(torch.initial_seed() + (self.layer + 1) * _LAYER_STEP)
        rows_B = torch.arange(rows, device=x_BN.device) if self.rows_B is None else row_numbers(self.rows_B)
        row_B1 = splitmix64_(rows_B + key).unsqueeze(1)
        bits_BN = splitmix64_(row_B1 + torch.arange(units, device=x_BN.device))
        # The arithmetic shift leaves -2^23 .. 2^23 - 1, each equally likely.
        bits_BN.bitwise_right_shift_(64 - _BITS)
        limit = round(self.p * (1 << _BITS)) - (1 << (_BITS - 1))
        return (bits_BN >= limit).reshape(x_BN.shape)


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
