"""Logarithms of whole numbers that are the same to the last bit on every device."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

_SMALL = 1 << 16  # Of whole numbers below, the logarithms are kept.


def log2(number: Tensor) -> Tensor:
    """Return the logarithms of whole numbers.

    Args:
        number: int64, any shape, >= 1.

    Returns:
        float64, of the same shape.
    """
    small, flat = _small_logs(number.device), number.flatten()
    if not len(flat) or int(flat.max()) < _SMALL:
        return small.index_select(0, flat).view_as(number)
    logs = small.index_select(0, flat.clamp(max=_SMALL - 1))
    large = (flat >= _SMALL).nonzero().squeeze(1)
    logs[large] = _series(flat[large])
    return logs.view_as(number)


@cache
def _small_logs(device: torch.device) -> Tensor:
    return _series(torch.arange(_SMALL)).to(device)


def _series(number: Tensor) -> Tensor:
    """Return the logarithm from sums, products and quotients alone, which IEEE 754 fixes to the last bit.

    Libraries of different devices round their own logarithms differently.
    """
    mantissa, exponent = torch.frexp(number.double())
    root = (mantissa - 1) / (mantissa + 1)
    square = root * root
    series = torch.zeros_like(root)
    for power in range(35, 0, -2):
        series = series * square + 1.0 / power
    return exponent.double() + series * root * (2.0 / math.log(2.0))
