"""Random numbers that follow the row, so that they are the same at every world size."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sharding.hashing import hashed_seed, splitmix64_, unit_interval
from trainer.modules.row_dropout import row_numbers

_STREAM_STEP = 0xA0761D6478BD642F


@torch.no_grad()
def row_uniform(rows_B: Tensor, count: int, stream: int) -> Tensor:
    """Return float64 [B, count] in [0, 1), by a hash of the seed of the step, the row, and the place.

    Args:
        rows_B: `Batch.rows_B`.
        count: numbers of each row.
        stream: tells uses of one model apart.
    """
    key_1 = hashed_seed(rows_B.device, stream * _STREAM_STEP)
    row_B1 = splitmix64_(row_numbers(rows_B) + key_1).unsqueeze(1)
    bits_BN = splitmix64_(row_B1 + torch.arange(count, device=rows_B.device))
    return unit_interval(bits_BN)


def row_normal(rows_B: Tensor, count: int, stream: int) -> Tensor:
    """Return standard normal numbers [B, count], float32.

    Source: Box and Muller 1958, A Note on the Generation of Random Normal Deviates.
    """
    uniform_BN = row_uniform(rows_B, 2 * count, stream)
    # In (0, 1], where the logarithm is finite.
    radius_BN = (-2 * torch.log(1 - uniform_BN[:, :count])).sqrt()
    return (radius_BN * torch.cos(2 * math.pi * uniform_BN[:, count:])).float()
