"""The mixing function behind numbers that must not depend on the rank that draws them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Constants of splitmix64 (Steele et al. 2014) as signed 64-bit numbers; int64 products wrap around.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def splitmix64_(value: Tensor) -> Tensor:
    """Hash int64 numbers in place and return them.

    Args:
        value: int64, any shape; equal numbers give equal hashes on every device.

    Source: Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number Generators.
    """
    value.mul_(_GOLDEN)
    for bits, factor in ((30, _MIX_1), (27, _MIX_2), (31, 1)):
        # torch shifts int64 arithmetically; the mask clears the copies of the sign.
        value.bitwise_xor_((value >> bits).bitwise_and_((1 << (64 - bits)) - 1)).mul_(factor)
    return value


def signed64(number: int) -> int:
    """Return a whole number modulo 2^64 as the signed 64-bit number that torch takes."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def hashed_seed(device: torch.device, step: int) -> Tensor:
    """Return a hash of the seed of the training step and a constant, int64 [1].

    Steps have consecutive seeds, and what is drawn has consecutive numbers: added up unhashed, the draws of a
    step would be those of the last one shifted by a place.

    Args:
        device: of the draws.
        step: a constant that tells uses apart.
    """
    # Not `torch.tensor`, which would copy from the host to a GPU and wait for it.
    return splitmix64_(torch.full((1,), signed64(torch.initial_seed() + step), device=device))


def unit_interval(bits: Tensor) -> Tensor:
    """Return float64 numbers in [0, 1) of int64 hashes of any shape: their upper 53 bits."""
    return ((bits >> 11) & ((1 << 53) - 1)).double() * math.ldexp(1.0, -53)
