"""Confidence intervals: every unit, a row or a group, counts a random number of times in each resample."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_STEP = 0x9E3779B97F4A7C15


def resample_counts(units_N: NDArray[np.int64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Return how often each unit is in each resample: Poisson numbers of mean 1.

    They depend on seed, unit and resample alone, so they can be drawn anywhere, for any part of the rows.

    Args:
        units_N: number of each unit.
        resamples: R.
        seed: of the draws.

    Returns:
        Float64 [N, R], whole numbers. Probabilities are those of Poisson(1) to 1 / 65,536.

    Source: Hanley and MacGibbon 2006, Creating non-parametric bootstrap samples using Poisson frequencies.
    """
    # Each 64-bit number is four draws of 16 bits.
    blocks = -(-resamples // 4)
    with np.errstate(over="ignore"):
        begin_N = _mixed(units_N.astype(np.uint64) + _mixed(np.array([seed], np.uint64)))
        steps = np.arange(1, blocks + 1, dtype=np.uint64) * np.uint64(_STEP)
        bits = _mixed(begin_N[:, None] + steps)
    draws = np.ascontiguousarray(bits).view(np.uint16).reshape(len(units_N), blocks * 4)
    counts_NR: NDArray[np.float64] = _COUNTS[draws[:, :resamples]]
    return counts_NR


def interval(values_R: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Return the middle share of the resamples' values; NaN where they are not numbers.

    Args:
        values_R: a metric of each resample; NaN where the resample does not define it.
        confidence: the share, such as 0.95.
    """
    known = values_R[~np.isnan(values_R)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the values with their bits well mixed (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _counts_of_draws() -> NDArray[np.float64]:
    """Return the Poisson number that each 16-bit draw stands for."""
    through = np.cumsum([math.exp(-1) / math.factorial(n) for n in range(12)])
    return np.searchsorted(through, (np.arange(1 << 16) + 0.5) / (1 << 16)).astype(np.float64)


_COUNTS = _counts_of_draws()
