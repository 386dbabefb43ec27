"""Recommended lists beyond being right: coverage, Gini, novelty, diversity, serendipity, popularity.

Lists are item numbers [U, K] from 0, best first; -1 fills lists that are shorter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_PAIRS_AT_ONCE = 1 << 22


def catalogue_coverage(lists_UK: Ints, num_items: int) -> float:
    """Return the share of the catalogue that is in any list.

    Args:
        lists_UK: recommended items.
        num_items: of the catalogue.

    Source: Ge et al. 2010, Beyond Accuracy, RecSys.
    """
    return covered_share(exposure(lists_UK, num_items))


def covered_share(exposure_N: Ints) -> float:
    """Return `catalogue_coverage` of how many lists each item is in."""
    return float((exposure_N > 0).mean())


def gini_index(lists_UK: Ints, num_items: int) -> float:
    """Return how unevenly items are recommended: 0 all alike, towards 1 a single one; NaN without any.

    Args:
        lists_UK: recommended items.
        num_items: of the catalogue; items in no list count.

    Source: the Gini coefficient as in Fleder and Hosanagar 2009, of how many lists each item is in.
    """
    return unevenness(exposure(lists_UK, num_items))


def unevenness(exposure_N: Ints) -> float:
    """Return `gini_index` of how many lists each item is in."""
    num_items, total = len(exposure_N), exposure_N.sum()
    if total == 0:
        return math.nan
    place_N = np.arange(1, num_items + 1)
    return float(((2 * place_N - num_items - 1) * np.sort(exposure_N)).sum() / (num_items * total))


def novelty(lists_UK: Ints, popularity_N: Ints, num_users: int) -> float:
    """Return the mean self-information of recommended items, in bits; NaN without any.

    Args:
        lists_UK: recommended items.
        popularity_N: users (or positives) of each item in training; an item with none counts as if it had
            one.
        num_users: users of training; for counts of positives, all positives.

    Source: Zhou et al. 2010, Solving the apparent diversity-accuracy dilemma, PNAS: log2(users / popularity).
    """
    return _mean(information(popularity_N, num_users)[lists_UK[lists_UK >= 0]])


def information(popularity_N: Ints, num_users: int) -> Floats:
    """Return the self-information of each item in bits, which `novelty` is the mean of."""
    bits_N: Floats = np.log2(num_users / np.maximum(popularity_N, 1))
    return bits_N


def intra_list_diversity(lists_UK: Ints, vectors_ND: Floats) -> float:
    """Return the mean distance, 1 - cosine, of the pairs inside a list, averaged over lists.

    Args:
        lists_UK: recommended items.
        vectors_ND: vector of each item; for categories, a row of 0 and 1. A vector of zeros is at distance 1.

    Returns:
        0 where all items of a list are alike; NaN where no list has two items.

    Source: Ziegler et al. 2005, Improving recommendation lists through topic diversification; Smyth and
    McClave 2001. Memory: 4 million pairs at a time.
    """
    unit_ND = _unit(vectors_ND)
    sums: list[Floats] = []
    for users in _slices(len(lists_UK), lists_UK.shape[1] * vectors_ND.shape[1]):
        there_UK = lists_UK[users] >= 0
        size_U = there_UK.sum(axis=1)
        unit_UKD = unit_ND[lists_UK[users]] * there_UK[:, :, None]
        # Over all ordered pairs, the sum of products is the square of the sum.
        similar_U = (unit_UKD.sum(axis=1) ** 2).sum(axis=1) - (unit_UKD**2).sum(axis=(1, 2))
        enough = size_U > 1
        sums.append(1 - similar_U[enough] / (size_U * (size_U - 1))[enough])
    return _mean(np.concatenate(sums)) if sums else math.nan


def serendipity(lists_UK: Ints, relevant_UK: NDArray[np.bool_], primitive_UK: Ints) -> float:
    """Return the mean share of a list that is relevant and that a primitive recommender does not recommend.

    Args:
        lists_UK: recommended items.
        relevant_UK: whether each is a positive of its user.
        primitive_UK: lists of a recommender that surprises nobody, such as the most popular items that the
            user has not met; as many places as `lists_UK` as a rule.

    Returns:
        NaN where there are no lists.

    Source: Ge et al. 2010, Beyond Accuracy, RecSys, after Murakami et al. 2008, Metrics for evaluating the
    serendipity of recommendation lists.
    """
    there_UK = lists_UK >= 0
    expected_UK = (lists_UK[:, :, None] == primitive_UK[:, None, :]).any(axis=2)
    size_U = there_UK.sum(axis=1)
    hits_U = (relevant_UK & there_UK & ~expected_UK).sum(axis=1)
    return _mean(hits_U[size_U > 0] / size_U[size_U > 0])


def category_diversity(lists_UK: Ints, begins_N1: Ints, categories_H: Ints) -> float:
    """Return the mean of `category_distances`: 0 where items are alike; NaN where no list has two."""
    return _mean_of_known(category_distances(lists_UK, begins_N1, categories_H))


def category_distances(lists_UK: Ints, begins_N1: Ints, categories_H: Ints) -> Floats:
    """Return `intra_list_diversity` of each list, by categories, of which a catalogue may have any number.

    Args:
        lists_UK: recommended items.
        begins_N1: where each item's categories begin, and the end of the last one's.
        categories_H: distinct categories of one item after another.

    Returns:
        Float64 [U], 0 where all items of a list are alike; NaN for lists of less than two items.

    Source: as `intra_list_diversity`. Memory: 4 million categories of items at a time.
    """
    number_N = np.diff(begins_N1)
    kinds = int(categories_H.max(initial=0)) + 1
    sums: list[Floats] = []
    for users in _slices(len(lists_UK), lists_UK.shape[1] * max(1, int(number_N.max(initial=1)))):
        list_I, place_I = np.nonzero(lists_UK[users] >= 0)
        item_I = lists_UK[users][list_I, place_I]
        size_U = np.bincount(list_I, minlength=len(lists_UK[users]))
        of_I = number_N[item_I]
        # One entry for each category of each recommended item, of a vector of length 1.
        entry_C = np.repeat(begins_N1[item_I] - np.cumsum(of_I) + of_I, of_I) + np.arange(of_I.sum())
        weight_C = np.repeat(1 / np.sqrt(np.maximum(of_I, 1)), of_I)
        key_C = np.repeat(list_I, of_I) * kinds + categories_H[entry_C]
        key_S, place_C = np.unique(key_C, return_inverse=True)
        sum_S = np.bincount(place_C, weights=weight_C, minlength=len(key_S))
        squared_U = np.bincount(key_S // kinds, weights=sum_S**2, minlength=len(size_U))
        own_U = np.bincount(list_I, weights=of_I > 0, minlength=len(size_U))
        pairs_U = (size_U * (size_U - 1)).astype(np.float64)
        sums.append(1 - (squared_U - own_U) / np.where(pairs_U > 0, pairs_U, math.nan))
    return np.concatenate([np.zeros(0), *sums])


def average_popularity(lists_UK: Ints, popularity_N: Ints) -> float:
    """Return the mean popularity of the items of a list, averaged over lists that are not empty (ARP).

    Args:
        lists_UK: recommended items, or histories to compare with.
        popularity_N: positives of each item in training.

    Source: Yin et al. 2012, Challenging the long tail recommendation.
    """
    return _mean_of_known(list_means(popularity_N.astype(np.float64), lists_UK))


def popular_share(lists_UK: Ints, popularity_N: Ints, head: float = 0.2) -> float:
    """Return the mean share of a list's items that belong to the most popular ones.

    Args:
        lists_UK: recommended items, or histories to compare with.
        popularity_N: positives of each item in training.
        head: share of the catalogue that is popular: so many items of most positives, earlier ones where
            equal.

    Source: the complement of APLT in Abdollahpouri et al. 2019, arXiv:1901.07555.
    """
    return _mean_of_known(list_means(popular_head(popularity_N, head), lists_UK))


def popular_head(popularity_N: Ints, head: float = 0.2) -> Floats:
    """Return 1 for each item that `popular_share` counts as popular, 0 for the others."""
    popular_N = np.zeros(len(popularity_N))
    popular_N[np.argsort(-popularity_N, kind="stable")[: math.ceil(head * len(popularity_N))]] = 1
    return popular_N


def popularity_lift(lists_UK: Ints, history_UH: Ints, popularity_N: Ints) -> float:
    """Return by how much lists are more popular than what users chose: mean of lists / of histories - 1.

    Args:
        lists_UK: recommended items.
        history_UH: items of each user in training, filled with -1.
        popularity_N: positives of each item in training.

    Returns:
        0 where lists are as popular as histories; NaN where there are no histories or they hold unknown
        items.

    Source: Abdollahpouri et al. 2020, The connection between popularity bias, calibration and fairness.
    """
    before = average_popularity(history_UH, popularity_N)
    return average_popularity(lists_UK, popularity_N) / before - 1 if before > 0 else math.nan


def list_means(values_N: Floats, lists_UK: Ints) -> Floats:
    """Return the mean value of the items of each list, [U]; NaN for empty ones."""
    there_UK = lists_UK >= 0
    size_U = there_UK.sum(axis=1).astype(np.float64)
    mean_U: Floats = (values_N[lists_UK] * there_UK).sum(axis=1) / np.where(size_U > 0, size_U, math.nan)
    return mean_U


def exposure(lists_UK: Ints, num_items: int) -> Ints:
    """Return how many lists each item is in, [N]."""
    return np.bincount(lists_UK[lists_UK >= 0], minlength=num_items)


def _unit(vectors_ND: Floats) -> Floats:
    """Return the vectors with length 1; those of zeros stay."""
    length_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    unit_ND: Floats = vectors_ND / np.where(length_N1 > 0, length_N1, 1)
    return unit_ND


def _slices(users: int, width: int) -> Iterator[slice]:
    step = max(1, _PAIRS_AT_ONCE // max(1, width))
    return (slice(start, start + step) for start in range(0, users, step))


def _mean_of_known(values_U: Floats) -> float:
    return _mean(values_U[~np.isnan(values_U)])


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else math.nan
