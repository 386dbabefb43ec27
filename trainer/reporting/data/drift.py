"""How far the values of one split are from those of another: PSI and the Kolmogorov-Smirnov distance.

PSI (population stability index) is the sum of `(q - p) * ln(q / p)` over bins that hold the shares `p` and
`q`. The usual reading: below 0.1 stable, up to 0.25 shifted, above that another distribution. In small
samples chance alone gives about `(bins - 1) * (1 / n + 1 / m)`, which the report sets against it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trainer.reporting.data.counted import Counted, Floats, Ints

PSI_SHIFTED = 0.1
PSI_LARGE = 0.25
KS_LARGE = 0.2
NUM_QUANTILE_BINS = 10
NUM_TOP_IDS = 18
# A PSI counts where it is this many times what chance gives.
_TIMES_CHANCE = 3.0
# Critical value of the KS distance at a level of 0.001, times sqrt((n + m) / (n * m)).
_KS_CRITICAL = 1.95


@dataclass(frozen=True)
class Drift:
    """Distance of a split from the training rows.

    Attributes:
        psi: population stability index.
        psi_by_chance: what two samples of one distribution would give on average.
        ks: largest difference of the two cumulative distributions; None for ids.
        ks_by_chance: what one pair of samples in a thousand of one distribution exceeds.
    """

    psi: float
    psi_by_chance: float
    ks: float | None = None
    ks_by_chance: float = 0.0

    @property
    def large(self) -> bool:
        """Return whether the split holds another distribution, and chance is no explanation."""
        by_psi = self.psi >= max(PSI_LARGE, _TIMES_CHANCE * self.psi_by_chance)
        return by_psi or (self.ks is not None and self.ks >= max(KS_LARGE, self.ks_by_chance))


def dense_drift(train: Counted, other: Counted) -> Drift:
    """Compare a dense feature in bins at the tenths of the training rows, and by its CDF."""
    edges = np.unique(train.quantiles(np.linspace(0.1, 0.9, NUM_QUANTILE_BINS - 1)))
    expected, actual = _binned(train, edges), _binned(other, edges)
    return Drift(
        psi(expected, actual),
        psi_by_chance(len(expected), train.total, other.total),
        ks_distance(train, other),
        _KS_CRITICAL * math.sqrt(1 / train.total + 1 / other.total),
    )


def id_drift(train: Counted, other: Counted, rows: tuple[int, int], *, unseen_ids: int = 1) -> Drift:
    """Compare ids in bins: missing, out of vocabulary, the most frequent training ids, all others.

    Args:
        train: ids of the training rows.
        other: ids of the other split.
        rows: how many rows each has, since the ids of one list are no independent draws.
        unseen_ids: how many ids from 1 on are out of vocabulary.
    """
    top = most_frequent(train, NUM_TOP_IDS, least=1 + unseen_ids)
    expected, actual = (_in_id_bins(counted, top, unseen_ids) for counted in (train, other))
    held = (expected + actual) > 0
    return Drift(psi(expected[held], actual[held]), psi_by_chance(int(held.sum()), *rows))


def _in_id_bins(counted: Counted, top: Ints, unseen_ids: int) -> Ints:
    missing, up_to_unseen = counted.at_most(np.array([0, unseen_ids])).tolist()
    bins = np.concatenate([[missing, up_to_unseen - missing], counted.count_of(top)])
    return np.append(bins, counted.total - bins.sum())


def most_frequent(counted: Counted, number: int, *, least: int = 0) -> Ints:
    """Return the most frequent values from `least` on, ties by value."""
    wanted = counted.values >= least
    values, counts = counted.values[wanted], counted.counts[wanted]
    return np.asarray(values[np.lexsort((values, -counts))[:number]])


def psi(expected: Ints, actual: Ints) -> float:
    """Return the population stability index of two histograms; half a count is added to every bin."""
    p = (expected + 0.5) / (expected.sum() + 0.5 * len(expected))
    q = (actual + 0.5) / (actual.sum() + 0.5 * len(actual))
    return float(np.sum((q - p) * np.log(q / p)))


def psi_by_chance(bins: int, n: int, m: int) -> float:
    """Return the mean PSI of two samples of n and m values from one distribution."""
    return (bins - 1) * (1 / max(n, 1) + 1 / max(m, 1))


def ks_distance(first: Counted, second: Counted) -> float:
    """Return the two-sample Kolmogorov-Smirnov statistic."""
    points = np.concatenate([first.values, second.values])
    shares: list[Floats] = [counted.at_most(points) / counted.total for counted in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def _binned(counted: Counted, edges: Floats) -> Ints:
    """Return the counts of (-inf, e1], (e1, e2], ..., (en, inf)."""
    below = np.concatenate([[0], counted.at_most(edges), [counted.total]])
    return np.diff(below)
