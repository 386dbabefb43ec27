"""How well one feature alone tells the label: high where the feature knows what it should not.

A dense feature is judged by the AUC of its value in either direction, and of the label rate of its bin,
which also sees what is high in the middle. An id feature is judged by the label rate of its ids. Rates are
out of fold: those of a row come from the rows of the other folds alone, so that an id that occurs once tells
nothing.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trainer.reporting.data.counted import Counted, Floats, Ints

LEAK_AUC = 0.95
SUSPICIOUS_AUC = 0.85
NUM_FOLDS = 5
NUM_BINS = 50
# With fewer rows of a class an AUC says little.
LEAST_OF_CLASS = 20
# Rows of the base rate that each id's rate is mixed with.
_PRIOR_ROWS = 1.0
_SCORE_STEPS = 1 << 16

Labels = NDArray[np.bool_]


def auc_of_counts(positives: Floats | Ints, negatives: Floats | Ints) -> float:
    """Return the AUC of a score from the positives and negatives at each of its values, lowest first."""
    below = np.cumsum(negatives) - negatives
    pairs = float(np.sum(positives * (below + 0.5 * negatives)))
    return pairs / (float(positives.sum()) * float(negatives.sum()))


def enough_of_both(labels: Labels) -> bool:
    """Return whether both classes have enough rows for an AUC."""
    positives = int(labels.sum())
    return min(positives, len(labels) - positives) >= LEAST_OF_CLASS


def dense_auc(counted: Counted, places: Ints, labels: Labels, seed: int) -> float | None:
    """Return the AUC of a dense feature alone, at least 0.5; None where a class has too few rows.

    Args:
        counted: distinct values.
        places: of each row's value among them.
        labels: of the rows.
        seed: deals rows into folds.
    """
    if not enough_of_both(labels):
        return None
    positives = np.bincount(places[labels], minlength=len(counted.values))
    by_value = auc_of_counts(positives, counted.counts - positives)
    # Distinct values are binned rather than rows: the value at each fiftieth of the rows begins a bin.
    bins = (counted.cumulative - counted.counts) * NUM_BINS // counted.total
    return max(by_value, 1 - by_value, _rate_auc(bins[places], NUM_BINS, labels, seed))


def id_auc(counted: Counted, codes: Ints, lengths: Ints | None, labels: Labels, seed: int) -> float | None:
    """Return the AUC of the out-of-fold label rate of a feature's ids; None where a class has too few rows.

    A list has the mean rate of its ids; an empty list stands for an id of its own.

    Args:
        counted: distinct ids.
        codes: places among them of the ids of all rows, one after another.
        lengths: ids of each row; None where every row has one.
        labels: of the rows.
        seed: deals rows into folds.
    """
    if not enough_of_both(labels):
        return None
    if lengths is None:
        return _rate_auc(codes, len(counted.values), labels, seed)
    empty = np.flatnonzero(lengths == 0)
    codes = np.concatenate([codes, np.full(len(empty), len(counted.values))])
    rows = np.concatenate([np.repeat(np.arange(len(labels)), lengths), empty])
    rates = out_of_fold_rates(codes, len(counted.values) + 1, rows, labels, seed)
    means = np.bincount(rows, weights=rates, minlength=len(labels)) / np.bincount(rows, minlength=len(labels))
    positives = np.bincount(_steps(means[labels]), minlength=_SCORE_STEPS)
    return auc_of_counts(positives, np.bincount(_steps(means[~labels]), minlength=_SCORE_STEPS))


def _rate_auc(codes: Ints, num_codes: int, labels: Labels, seed: int) -> float:
    """Return the AUC of the out-of-fold rate of each row's one code."""
    cells = codes * NUM_FOLDS + _folds(len(labels), seed)
    positives, counts = _counted(cells, num_codes, labels)
    # All rows of a code and a fold have one rate, so that cells are ranked instead of rows.
    steps = _steps(_rates_of_others(positives, counts, float(labels.mean())))
    at_step = [np.bincount(steps, x.ravel(), _SCORE_STEPS) for x in (positives, counts - positives)]
    return auc_of_counts(*at_step)


def out_of_fold_rates(codes: Ints, num_codes: int, rows: Ints, labels: Labels, seed: int) -> Floats:
    """Return for each occurrence the label rate of its code over the rows of the other folds.

    Args:
        codes: of all occurrences, 0 to `num_codes - 1`.
        num_codes: codes that there may be.
        rows: of each occurrence.
        labels: of the rows.
        seed: deals rows into folds.
    """
    cells = codes * NUM_FOLDS + _folds(len(labels), seed)[rows]
    positives, counts = _counted(cells, num_codes, labels[rows])
    return _rates_of_others(positives, counts, float(labels.mean()))[cells]


@lru_cache(maxsize=1)  # most features have all rows
def _folds(rows: int, seed: int) -> Ints:
    """Return the fold of each row, the same for all features."""
    folds = np.random.default_rng(seed).integers(0, NUM_FOLDS, rows, dtype=np.int64)
    folds.setflags(write=False)
    return folds


def _counted(cells: Ints, num_codes: int, labels: Labels) -> tuple[Ints, Ints]:
    """Return how many occurrences of each code and fold are positive, and how many there are."""
    found = [np.bincount(x, minlength=num_codes * NUM_FOLDS) for x in (cells[labels], cells)]
    return found[0].reshape(num_codes, NUM_FOLDS), found[1].reshape(num_codes, NUM_FOLDS)


def _rates_of_others(positives: Ints, counts: Ints, base: float) -> Floats:
    """Return for each code and fold, one after another, the label rate of the code in the other folds."""
    others = [(x.sum(1, keepdims=True) - x).ravel() for x in (positives, counts)]
    rates: Floats = (others[0] + _PRIOR_ROWS * base) / (others[1] + _PRIOR_ROWS)
    return rates


def _steps(rates: Floats) -> Ints:
    # Rates lie in [0, 1]; steps this fine change the AUC by less than its last printed digit.
    return (rates * (_SCORE_STEPS - 1)).astype(np.int64)
