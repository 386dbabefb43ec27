"""How well one feature alone tells the label: high where the feature knows what it should not.

A dense feature is judged by the AUC of its value in either direction, and of the label rate of its bin,
which also sees what is high in the middle. An id feature is judged by the label rate of its ids. Rates are
out of fold: those of a row come from the rows of the other folds alone, so that an id that occurs once tells
nothing.
"""

from __future__ import annotations

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
    by_bin = _rate_auc(bins[places], NUM_BINS, np.arange(len(labels)), labels, seed)
    return max(by_value, 1 - by_value, by_bin)


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
    rows = np.arange(len(labels)) if lengths is None else np.repeat(np.arange(len(labels)), lengths)
    if lengths is not None:
        empty = np.flatnonzero(lengths == 0)
        codes = np.concatenate([codes, np.full(len(empty), len(counted.values))])
        rows = np.concatenate([rows, empty])
    return _rate_auc(codes, len(counted.values) + 1, rows, labels, seed)


def _rate_auc(codes: Ints, num_codes: int, rows: Ints, labels: Labels, seed: int) -> float:
    """Return the AUC of each row's mean out-of-fold rate.

    Args:
        codes: of all occurrences.
        num_codes: codes that there may be.
        rows: of each occurrence.
        labels: of the rows.
        seed: deals rows into folds.
    """
    rates = out_of_fold_rates(codes, num_codes, rows, labels, seed)
    if len(codes) != len(labels):
        per_row = np.bincount(rows, minlength=len(labels))
        rates = np.bincount(rows, weights=rates, minlength=len(labels)) / per_row
    # Rates lie in [0, 1]; steps this fine change the AUC by less than its last printed digit.
    steps = (rates * (_SCORE_STEPS - 1)).astype(np.int64)
    positives = np.bincount(steps[labels], minlength=_SCORE_STEPS)
    return auc_of_counts(positives, np.bincount(steps[~labels], minlength=_SCORE_STEPS))


def out_of_fold_rates(codes: Ints, num_codes: int, rows: Ints, labels: Labels, seed: int) -> Floats:
    """Return for each occurrence the label rate of its code over the rows of the other folds.

    Args:
        codes: of all occurrences, 0 to `num_codes - 1`.
        num_codes: codes that there may be.
        rows: of each occurrence.
        labels: of the rows.
        seed: deals rows into folds.
    """
    folds = np.random.default_rng(seed).integers(0, NUM_FOLDS, len(labels), dtype=np.int64)
    cells = codes * NUM_FOLDS + folds[rows]
    counts = np.bincount(cells, minlength=num_codes * NUM_FOLDS)
    positives = np.bincount(cells[labels[rows]], minlength=num_codes * NUM_FOLDS)
    others = [
        (x.reshape(num_codes, NUM_FOLDS).sum(1, keepdims=True) - x.reshape(num_codes, NUM_FOLDS)).ravel()
        for x in (positives, counts)
    ]
    base = float(labels.mean())
    rates: Floats = (others[0] + _PRIOR_ROWS * base) / (others[1] + _PRIOR_ROWS)
    return rates[cells]
