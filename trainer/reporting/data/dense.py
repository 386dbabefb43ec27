"""What one dense feature holds, split by split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.reporting.data.counted import Counted, Floats, Ints, count_values, order_fingerprint
from trainer.reporting.data.drift import Drift, dense_drift
from trainer.reporting.data.leakage import dense_auc
from trainer.reporting.data.sample import SplitSample
from trainer.schema import Feature

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
NUM_HISTOGRAM_BINS = 40
# Values on a grid of up to this many points have a bar each.
MAX_GRID_BINS = 80
# What the outermost bins of the histogram take in besides.
_TAIL = 0.005


@dataclass(frozen=True)
class DenseProfile:
    """Statistics of one dense feature over the sample.

    Attributes:
        feature: which.
        distinct: distinct values in the first split.
        most_frequent: share of the most frequent value there.
        quantiles: at `QUANTILES`, there.
        edges: of the histogram's bins.
        histogram: by split, share of the rows in each bin; the outermost bins hold what lies beyond them.
        drift: of the other splits from the first.
        auc: of the feature alone, at least 0.5; None where a class is too small.
        fingerprint: the same for columns that are equal up to a rising scale.
    """

    feature: Feature
    distinct: int
    most_frequent: float
    quantiles: tuple[float, ...]
    edges: Floats
    histogram: dict[str, Floats]
    drift: dict[str, Drift]
    auc: float | None
    fingerprint: bytes


def dense_profile(feature: Feature, samples: Mapping[str, SplitSample], seed: int) -> DenseProfile:
    """Look at one dense feature.

    Args:
        feature: which.
        samples: by split; the first one, training where there is any, is what the others are compared with.
        seed: deals rows into folds.
    """
    (name, first), *others = samples.items()
    values = first.dense(feature)
    there = np.isfinite(values)
    counted, places = count_values(values[there])
    if not counted.total:
        return DenseProfile(feature, 0, 0.0, (), np.array([0.0, 1.0]), {}, {}, None, b"")
    auc = dense_auc(counted, places, first.labels[there], seed)
    edges = _edges(counted)
    histogram, drift = {name: _histogram(counted, edges)}, {}
    for other, sample in others:
        found = sample.dense(feature)
        found_counts, _ = count_values(found[np.isfinite(found)])
        if found_counts.total:
            histogram[other] = _histogram(found_counts, edges)
            drift[other] = dense_drift(counted, found_counts)
    return DenseProfile(
        feature,
        len(counted.values),
        float(counted.counts.max()) / counted.total,
        tuple(counted.quantiles(np.array(QUANTILES)).tolist()),
        edges,
        histogram,
        drift,
        auc,
        # Missing values are a value of their own.
        order_fingerprint(_order(places, there, len(counted.values))),
    )


def _order(places: Ints, there: NDArray[np.bool_], num_values: int) -> Ints:
    order = np.full(len(there), num_values, dtype=np.int64)
    order[there] = places
    return order


def _edges(counted: Counted) -> Floats:
    low, high = counted.quantiles(np.array([_TAIL, 1 - _TAIL])).tolist()
    if low == high:
        low, high = counted.quantiles(np.array([0.0, 1.0])).tolist()
    gap = float(np.diff(counted.values.astype(np.float64)).min(initial=np.inf))
    if (high - low) / gap < MAX_GRID_BINS and low < high:
        # Whole numbers, scaled perhaps: a bar each, since wider bars would hold two here and three there.
        count, room = round((high - low) / gap) + 1, gap / 2
        return np.asarray(np.linspace(low - room, high + room, count + 1))
    # A constant has no range of its own.
    room = 0.0 if low < high else max(abs(low), 1.0) / 2
    return np.asarray(np.linspace(low - room, high + room, NUM_HISTOGRAM_BINS + 1))


def _histogram(counted: Counted, edges: Floats) -> Floats:
    bins = np.clip(np.searchsorted(edges, counted.values, side="right") - 1, 0, len(edges) - 2)
    counts = np.bincount(bins, weights=counted.counts, minlength=len(edges) - 1)
    return np.asarray(counts / counted.total)
