"""What a fitted baseline gives: scores of all items, or of one item each, for users by their histories."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.baselines.histories import Histories, Ints, ranges

Scores = NDArray[np.float32]
# Neighbours of items of users that are held at once.
_AT_ONCE = 1 << 22


class Baseline(Protocol):
    """A fitted baseline; N items from 0 on.

    Attributes:
        unknown: score of an item or user that was in no training row.
    """

    unknown: float

    def of_all(self, histories: Histories) -> Scores:
        """Return the scores of all items for B users, [B, N]."""
        ...

    def of_pairs(self, histories: Histories, users_P: Ints, items_P: Ints) -> Scores:
        """Return the score of each pair of a user's place in the histories and an item, [P]."""
        ...


class Popularity:
    """Scores an item by the number of its users in training, whoever asks.

    Args:
        counts_N: users of each item.
    """

    unknown = 0.0

    def __init__(self, counts_N: Ints) -> None:
        self._scores_N = counts_N.astype(np.float32)

    def of_all(self, histories: Histories) -> Scores:
        """Return the counts, for each user the same."""
        return np.tile(self._scores_N, (histories.num_users, 1))

    def of_pairs(self, histories: Histories, users_P: Ints, items_P: Ints) -> Scores:  # noqa: ARG002
        """Return the count of each item."""
        return self._scores_N[items_P]


class ItemKnn:
    """Scores an item by the sum of its likeness to the items that a user met.

    Only the neighbours of each item met count: those most like it.

    Args:
        neighbours_NK: of each item the numbers of those most like it, the most alike first, filled with -1.
        likeness_NK: of these, 0 where there is none.

    Source: Deshpande and Karypis 2004, Item-based top-N recommendation algorithms, figures 2 and 3.
    """

    unknown = 0.0

    def __init__(self, neighbours_NK: Ints, likeness_NK: Scores) -> None:
        self.neighbours_NK, self.likeness_NK = neighbours_NK, likeness_NK

    def of_all(self, histories: Histories) -> Scores:
        """Return the sums of likeness to all of each user's items."""
        users, items = histories.num_users, histories.num_items
        scores_BN = np.zeros(users * items)
        for part_H in self._parts(len(histories.items_H)):
            held_H = histories.items_H[part_H]
            place_HK = histories.users()[part_H][:, None] * items + self.neighbours_NK[held_H]
            there_HK = self.neighbours_NK[held_H] >= 0
            likeness_S = self.likeness_NK[held_H][there_HK]
            scores_BN += np.bincount(place_HK[there_HK], weights=likeness_S, minlength=len(scores_BN))
        return scores_BN.reshape(users, items).astype(np.float32)

    def of_pairs(self, histories: Histories, users_P: Ints, items_P: Ints) -> Scores:
        """Return the sum of likeness to each pair's user's items."""
        length_P = np.diff(histories.begins_U1)[users_P]
        pair_H = np.repeat(np.arange(len(items_P)), length_P)
        held_H = histories.items_H[ranges(histories.begins_U1[users_P], length_P)]
        scores_P = np.zeros(len(items_P))
        for part_H in self._parts(len(held_H)):
            same_HK = self.neighbours_NK[held_H[part_H]] == items_P[pair_H[part_H]][:, None]
            likeness_H = (self.likeness_NK[held_H[part_H]] * same_HK).sum(axis=1, dtype=np.float64)
            scores_P += np.bincount(pair_H[part_H], weights=likeness_H, minlength=len(items_P))
        return scores_P.astype(np.float32)

    def _parts(self, size: int) -> list[slice]:
        step = max(1, _AT_ONCE // max(1, self.neighbours_NK.shape[1]))
        return [slice(first, first + step) for first in range(0, size, step)]


def fit_item_knn(histories: Histories, neighbours: int, shrinkage: float) -> ItemKnn:
    """Find the neighbours of each item.

    Two items are alike by the cosine of the sets of their users, `c / (sqrt(a b) + shrinkage)` for c common
    users of a and b. Equal ones: the smaller number first.

    Args:
        histories: of all users in training.
        neighbours: K.
        shrinkage: in users.

    Source: as `ItemKnn`; the shrinkage as in Dacrema et al. 2019, arXiv:1907.06902, section 3.2. Cost: the
    sum of squared lengths of the histories; memory: K neighbours of each item, and one item's counts at a
    time.
    """
    items = histories.num_items
    begins_N1, users_H = histories.by_item()
    length_U, size_N = np.diff(histories.begins_U1), np.diff(begins_N1)
    places = min(neighbours, max(items - 1, 1))
    neighbours_NK = np.full((items, places), -1, np.int64)
    likeness_NK = np.zeros((items, places), np.float32)
    for item in np.flatnonzero(size_N):
        users = users_H[begins_N1[item] : begins_N1[item + 1]]
        met_S = histories.items_H[ranges(histories.begins_U1[users], length_U[users])]
        # The users of most items have met few others: counting all items would cost more than sorting these.
        if len(met_S) * 16 < items:
            other_M, common_M = np.unique(met_S, return_counts=True)
        else:
            common_N = np.bincount(met_S, minlength=items)
            other_M = np.flatnonzero(common_N)
            common_M = common_N[other_M]
        common_M, other_M = common_M[other_M != item], other_M[other_M != item]
        cosine_M = common_M / (np.sqrt(size_N[item] * size_N[other_M].astype(np.float64)) + shrinkage)
        # Rounded first: 1 of 2 and 2 of 4 are equally alike, whatever their last bits say.
        likeness_M = cosine_M.astype(np.float32)
        best = np.lexsort((other_M, -likeness_M))[:places]
        neighbours_NK[item, : len(best)] = other_M[best]
        likeness_NK[item, : len(best)] = likeness_M[best]
    return ItemKnn(neighbours_NK, likeness_NK)


class Factors:
    """Scores an item by the product of its factors and a user's, which its history gives anew.

    A user's factors are those of the last half-step of ALS, given the items': for users of the training rows
    what ALS found itself, for any other history what it would find. One without a known item has zeros.

    Args:
        items_NF: factors of items; those that were in no training row are zeros.
        regularisation: of ALS.
        alpha: of ALS on implicit feedback; None for ratings.
        unknown: score where the user or the item is not known.

    Source: Hu et al. 2008, Collaborative filtering for implicit feedback datasets, equation 4; of ratings
    Zhou et al. 2008, Large-scale parallel collaborative filtering for the Netflix prize, section 3.1. The
    regularisation counts once for each event of the user, as MLlib's.
    """

    def __init__(
        self, items_NF: NDArray[np.float32], regularisation: float, alpha: float | None, unknown: float = 0.0
    ) -> None:
        self.items_NF = items_NF.astype(np.float64)
        self._regularisation, self._alpha, self.unknown = regularisation, alpha, unknown
        self._known_N = np.abs(items_NF).sum(axis=1) > 0
        self._all_FF = self.items_NF.T @ self.items_NF

    def users(self, histories: Histories) -> NDArray[np.float64]:
        """Return the factors of users, [U, F]."""
        factors = self.items_NF.shape[1]
        found_UF = np.zeros((histories.num_users, factors))
        for user in range(histories.num_users):
            part = slice(histories.begins_U1[user], histories.begins_U1[user + 1])
            known = self._known_N[histories.items_H[part]]
            held_HF = self.items_NF[histories.items_H[part][known]]
            values_H = histories.values_H[part][known]
            if not len(held_HF):
                continue
            ridge_FF = self._regularisation * len(held_HF) * np.eye(factors)
            if self._alpha is None:
                left_FF, right_F = held_HF.T @ held_HF, values_H @ held_HF
            else:
                more_H = self._alpha * values_H
                left_FF = self._all_FF + (held_HF * more_H[:, None]).T @ held_HF
                right_F = (1 + more_H) @ held_HF
            found_UF[user] = _solved(left_FF + ridge_FF, right_F)
        return found_UF

    def of_all(self, histories: Histories) -> Scores:
        """Return the products of each user's factors and those of all items."""
        scores_BN = self.users(histories) @ self.items_NF.T
        scores_BN[:, ~self._known_N] = self.unknown
        return scores_BN.astype(np.float32)

    def of_pairs(self, histories: Histories, users_P: Ints, items_P: Ints) -> Scores:
        """Return the product of each pair's factors."""
        users_UF = self.users(histories)
        scores_P = (users_UF[users_P] * self.items_NF[items_P]).sum(axis=1)
        known_P = self._known_N[items_P] & (np.abs(users_UF).sum(axis=1) > 0)[users_P]
        return np.where(known_P, scores_P, self.unknown).astype(np.float32)


def _solved(left_FF: NDArray[np.float64], right_F: NDArray[np.float64]) -> NDArray[np.float64]:
    try:
        return np.linalg.solve(left_FF, right_F)
    except np.linalg.LinAlgError:  # fewer items than factors, and no regularisation
        return np.linalg.lstsq(left_FF, right_F, rcond=None)[0]
