"""AUC inside groups of rows, such as the rows of one user."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """What AUC and lists need of each group.

    Attributes:
        auc_G: AUC inside the group, equal scores counted half; NaN for a group of one class.
        weight_G: summed weight of its rows.
        positive_weight_G: mean weight of its positives; NaN without any.
        rows_G: its rows.
    """

    auc_G: Floats
    weight_G: Floats
    positive_weight_G: Floats
    rows_G: Ints

    @property
    def has_both_classes(self) -> NDArray[np.bool_]:
        """Return whether a group has both classes."""
        return ~np.isnan(self.auc_G)


def group_values(groups_N: Ints, scores_N: Floats, labels_N: Floats, weights_N: Floats) -> Groups:
    """Return the AUC and the weight of each group.

    Args:
        groups_N: group of each row, rising from 0 without a gap.
        scores_N: falling inside each group.
        labels_N: 0 or 1.
        weights_N: above 0.
    """
    starts = np.ones(len(groups_N), bool)
    starts[1:] = (groups_N[1:] != groups_N[:-1]) | (scores_N[1:] != scores_N[:-1])
    run_N = np.cumsum(starts) - 1
    positive_R = summed(run_N, weights_N * labels_N)
    negative_R = summed(run_N, weights_N * (1 - labels_N))
    group_R = groups_N[starts]
    above_R = _sums_before(positive_R, np.bincount(group_R))
    pairs_G = summed(group_R, negative_R * (above_R + positive_R / 2))
    both_G = summed(group_R, positive_R) * summed(group_R, negative_R)
    weight_G = summed(groups_N, weights_N)
    hits_G = summed(groups_N, labels_N > 0.5)
    of_hits_G = summed(groups_N, weights_N * (labels_N > 0.5))
    with np.errstate(invalid="ignore", divide="ignore"):
        auc_G = np.where(both_G > 0, pairs_G / both_G, math.nan)
        positive_weight_G = of_hits_G / hits_G
    return Groups(auc_G, weight_G, positive_weight_G, np.bincount(groups_N))


def gauc(groups_N: Ints, scores_N: Floats, labels_N: Floats, weights_N: Floats | None = None) -> float:
    """Return the mean AUC inside groups, weighted by their rows; NaN where none has both classes.

    Args:
        groups_N: group of each row, any integers.
        scores_N: any scores; a NaN among those that count has no order, and leaves NaN, as in `roc_auc`.
        labels_N: 0 or 1.
        weights_N: sample weights; default 1. Rows of weight 0 do not count.

    Source: Zhou et al. 2018, arXiv:1706.06978, section 5.3, groups of one class left out.
    """
    weights = np.ones(len(groups_N)) if weights_N is None else weights_N
    counted = np.flatnonzero(weights > 0)
    if np.isnan(scores_N[counted]).any():
        return math.nan
    order = counted[np.lexsort((-scores_N[counted], groups_N[counted]))]
    _, numbered = np.unique(groups_N[order], return_inverse=True)
    found = group_values(numbered, scores_N[order], labels_N[order], weights[order])
    total = found.weight_G[found.has_both_classes].sum()
    within = (found.auc_G * found.weight_G)[found.has_both_classes].sum()
    return float(within / total) if total > 0 else math.nan


def summed(numbers_N: Ints, values_N: NDArray[Any], size: int = 0) -> Floats:
    """Return the sum of the values of each number, added up in their order; `size` of them or more."""
    return np.bincount(numbers_N, weights=values_N, minlength=size).astype(np.float64)


def _sums_before(values_N: Floats, sizes_G: Ints) -> Floats:
    """Return the sum of a group's values before each one, in the order of groups of these sizes.

    Every sum begins at its group's own first value, so that it is the same to the last bit whatever other
    groups are there.
    """
    result = np.empty_like(values_N)
    first_G = np.cumsum(sizes_G) - sizes_G
    width_G = 1 << np.ceil(np.log2(np.maximum(sizes_G, 1))).astype(np.int64)
    for width in np.unique(width_G):
        chosen = np.flatnonzero(width_G == width)
        row, column = np.divmod(np.arange(len(chosen) * width), width)
        real = column < sizes_G[chosen][row]
        places = (first_G[chosen][row] + column)[real]
        padded = np.zeros((len(chosen), width))
        padded[row[real], column[real]] = values_N[places]
        before = np.cumsum(padded, axis=1)
        before[:, 1:], before[:, 0] = before[:, :-1].copy(), 0.0
        result[places] = before[row[real], column[real]]
    return result
