"""Random numbers that depend on (seed, column, block of rows) alone, power-law ranks, and hashes of ids.

However rows are divided among files, tasks and machines, a block's numbers come from the counter-based Philox
generator, keyed by seed and column and started at the block's own counter.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.uint32]

_BELOW_ONE = float(np.nextafter(1.0, 0.0))

BLOCK_ROWS = 16_384
"""Rows that are drawn together: each column of a block stays in the processor's cache."""


def salt(*parts: object) -> int:
    """Return 32 bits that tell columns and purposes apart."""
    return zlib.crc32(":".join(map(str, parts)).encode())


def uniforms(seed: int, column: str, block: int, count: int = BLOCK_ROWS) -> Floats:
    """Return the numbers in [0, 1) of one column and block; fewer of them are the first of more.

    Args:
        seed: of the data.
        column: or another purpose.
        block: number of the block.
        count: how many.
    """
    key = np.array([seed, salt(column)], dtype=np.uint64)
    counter = np.array([0, block, 0, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter)).random(count)


def with_missing(uniform: Floats, share: float) -> tuple[Floats, NDArray[np.bool_] | None]:
    """Split one draw into two: which values are missing, and uniform numbers for those that are not.

    Args:
        uniform: numbers in [0, 1).
        share: of missing values.

    Returns:
        Numbers in [0, 1), 0 where missing; and where they are missing, or None with a share of 0.
    """
    if share == 0:
        return uniform, None
    # Above the share they are uniform again once they are stretched.
    return np.clip((uniform - share) / (1 - share), 0.0, _BELOW_ONE), uniform < share


def power_law_ranks(uniform: Floats, cardinality: int, alpha: float) -> Ids:
    """Return ranks from 1, the most frequent, to the cardinality.

    A rank is at most k with probability ((k + 1)^(1 - alpha) - 1) / ((cardinality + 1)^(1 - alpha) - 1): the
    whole part of a number whose density falls as x^-alpha.

    Args:
        uniform: numbers in [0, 1).
        cardinality: how many ranks there are.
        alpha: of the power law, above 0; 1 is the limit of its neighbours.
    """
    end, power = np.log(cardinality + 1.0), 1.0 - alpha
    if abs(power) < 1e-9:
        drawn = np.exp(uniform * end)
    else:
        drawn = np.exp(np.log1p(uniform * np.expm1(power * end)) / power)
    ranks: Ids = np.clip(drawn, 1, cardinality).astype(np.uint32)
    return ranks


def scrambled(values: Ids, key: int) -> Ids:
    """Return other 32-bit values for 32-bit values, different ones for different ones (a keyed lowbias32).

    Args:
        values: uint32.
        key: 32 bits.

    Source: Wellons 2018, "Prospecting for hash functions", https://nullprogram.com/blog/2018/07/31/.
    """
    x = values ^ np.uint32(key)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x


def effects(ids: Ids, key: int) -> Floats:
    """Return a number with mean 0 and variance 1 over all ids, fixed for each id: uniform between -+3^0.5."""
    centred: Floats = (scrambled(ids, key) * 2.0**-32 - 0.5) * np.sqrt(12.0)
    return centred


def signs(ids: Ids, key: int) -> Floats:
    """Return -1 or 1, fixed for each id."""
    signs: Floats = (scrambled(ids, key) & np.uint32(1)) * 2.0 - 1.0
    return signs
