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
    """Statistics of one dense feature over the sample: of lists, over all their numbers together.

    Attributes:
        feature: which.
        distinct: distinct values in the first split.
        most_frequent: share of the most frequent value there.
        quantiles: at `QUANTILES`, there.
        edges: of the histogram's bins.
        histogram: by split, share of the rows in each bin; the outermost bins hold what lies beyond them.
        drift: of the other splits from the first; of lists, that of the place that drifts most.
        auc: of the feature alone, at least 0.5; None where a class is too small. Of lists, that of the place
            that tells most.
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
    edges = _edges(counted)
    histogram, drift = {name: _histogram(counted, edges)}, dict[str, Drift]()
    by_place = [(counted, places, there)] if feature.dim is None else [_counted(x) for x in values.T]
    for other, sample in others:
        found = sample.dense(feature)
        found_counts, _ = count_values(found[np.isfinite(found)])
        if found_counts.total:
            histogram[other] = _histogram(found_counts, edges)
            of_places = [found_counts] if feature.dim is None else [_counted(x)[0] for x in found.T]
            drifts = [
                dense_drift(a, b)
                for (a, _, _), b in zip(by_place, of_places, strict=True)
                if a.total and b.total
            ]
            drift |= {other: max(drifts, key=lambda drift: drift.psi)} if drifts else {}
    aucs = [dense_auc(a, codes, first.labels[rows], seed) for a, codes, rows in by_place if a.total]
    auc = max((auc for auc in aucs if auc is not None), default=None)
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
        order_fingerprint(_order(places, there.reshape(-1), len(counted.values))),
    )


def _counted(values: NDArray[np.float32]) -> tuple[Counted, Ints, NDArray[np.bool_]]:
    """Return the distinct values at one place of the lists, each row's among them, and the rows with one."""
    there = np.isfinite(values)
    return *count_values(values[there]), there


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
