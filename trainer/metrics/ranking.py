"""Metrics of ranked lists: HR, recall, precision, NDCG, MRR and MAP, equal scores counted by expectation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.metrics.grouped import summed

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
AT_K = ("hr", "recall", "capped_recall", "precision", "ndcg", "mrr", "map")
"""Metrics of the first K places, named `hr@10` and so on."""


@dataclass(frozen=True)
class Ranked:
    """The places of lists that hold a positive, or may: under equal scores a positive has several.

    Attributes:
        list_E: number of the list, from 0.
        rank_E: the place, from 1.
        share_E: probability that a positive is there.
        found_E: positives expected up to this place, given that one is there.
        first_E: probability that the list's first positive is there.
        positives_L: positives of each list, those that are nowhere in the ranking included.
    """

    list_E: Ints
    rank_E: Ints
    share_E: Floats
    found_E: Floats
    first_E: Floats
    positives_L: Ints

    @classmethod
    def from_ranks(cls, lists_P: Ints, ranks_P: Ints, positives_L: Ints) -> Ranked:
        """Take positives whose ranks are known.

        Args:
            lists_P: list (user) of each positive that was ranked, from 0, in any order.
            ranks_P: its place among the ranked items, from 1; no two positives of a list share one.
            positives_L: positives of each list, also of those that were not ranked.

        Raises:
            ValueError: a rank is below 1, or a list has more ranks than positives.
        """
        if len(ranks_P) and ranks_P.min() < 1:
            raise ValueError(f"ranks count from 1, not from {ranks_P.min()}")
        if (np.bincount(lists_P, minlength=len(positives_L)) > positives_L).any():
            raise ValueError("a list has more ranks than positives")
        order = np.lexsort((ranks_P, lists_P))
        list_E, rank_E = lists_P[order], ranks_P[order]
        before_E = _place_in_run(list_E)
        one_E = np.ones(len(order))
        return cls(list_E, rank_E, one_E, before_E + 1.0, (before_E == 0).astype(float), positives_L)

    @classmethod
    def from_scores(cls, lists_N: Ints, scores_N: Floats, labels_N: Floats) -> Ranked:
        """Take whole candidate lists with their scores.

        Args:
            lists_N: list of each candidate, rising from 0 without a gap.
            scores_N: falling inside each list.
            labels_N: 1 for positives.
        """
        positive_N = labels_N > 0.5
        starts = np.ones(len(lists_N), bool)
        starts[1:] = (lists_N[1:] != lists_N[:-1]) | (scores_N[1:] != scores_N[:-1])
        run_N = np.cumsum(starts) - 1
        tied_R = np.bincount(run_N)
        hits_R = summed(run_N, positive_N).astype(np.int64)
        list_R = lists_N[starts]
        rank_N = _place_in_run(lists_N) + 1
        positives_L = summed(list_R, hits_R).astype(np.int64)
        through_R = np.cumsum(hits_R)
        before_R = through_R - hits_R - (np.cumsum(positives_L) - positives_L)[list_R]
        held_N = hits_R[run_N] > 0
        run_E = run_N[held_N]
        tied_E, hits_E, before_E = tied_R[run_E], hits_R[run_E], before_R[run_E]
        place_E = _place_in_run(run_N)[held_N]  # inside the run, from 0
        # Given a positive at one place, the others of the run lie at each of its other places alike.
        others_E = place_E * (hits_E - 1) / np.maximum(tied_E - 1, 1)
        first_E = np.where(before_E == 0, _first_of_draw(place_E, hits_E, tied_E), 0.0)
        found_E = before_E + 1 + others_E
        return cls(lists_N[held_N], rank_N[held_N], hits_E / tied_E, found_E, first_E, positives_L)


def ranking_values(ranked: Ranked, at: Sequence[int]) -> dict[str, Floats]:
    """Return each metric of each list.

    Args:
        ranked: where the positives are.
        at: numbers of first places, K.

    Returns:
        Float64 [L] for each of these, the expectation over all orders of equal scores; NaN for lists without
        positives (n is a list's positives):
        `hr@K`: whether a positive is among the first K. `recall@K`: positives there / n. `capped_recall@K`:
        the same / min(n, K). `precision@K`: the same / K. `ndcg@K`: sum over them of 1 / log2(1 + rank), over
        the sum for the best order. `mrr@K`: 1 / rank of the first positive, 0 beyond K; `mrr` without the
        limit. `map@K`: sum over them of precision at their rank / min(n, K).

    Raises:
        ValueError: a K is below 1.

    Source: NDCG of Järvelin and Kekäläinen 2002 with gains 0 and 1; capped recall as recall in Liang et al.
    2018, arXiv:1802.05814.
    """
    if any(k < 1 for k in at):
        raise ValueError(f"K must be 1 or more, not {min(at)}")
    # No list gains from places beyond its positives in the best order, nor from those beyond the largest K.
    lists, rank_E = len(ranked.positives_L), ranked.rank_E
    none_L = ranked.positives_L == 0
    count_L = np.where(none_L, 1, ranked.positives_L)
    best = np.cumsum(1 / np.log2(np.arange(2, 2 + max([*at, 1]))))

    def added(values_E: Floats, k: float) -> Floats:
        inside = rank_E <= k
        return summed(ranked.list_E[inside], values_E[inside], lists)

    found: dict[str, Floats] = {}
    for k in at:
        hits_L, cap_L = added(ranked.share_E, k), np.minimum(count_L, k)
        found[f"hr@{k}"] = np.minimum(added(ranked.first_E, k), 1.0)
        found[f"recall@{k}"] = hits_L / count_L
        found[f"capped_recall@{k}"] = hits_L / cap_L
        found[f"precision@{k}"] = hits_L / k
        found[f"ndcg@{k}"] = added(ranked.share_E / np.log2(1 + rank_E), k) / best[cap_L - 1]
        found[f"mrr@{k}"] = added(ranked.first_E / rank_E, k)
        found[f"map@{k}"] = added(ranked.share_E * ranked.found_E / rank_E, k) / cap_L
    found["mrr"] = added(ranked.first_E / rank_E, math.inf)
    return {name: np.where(none_L, math.nan, values_L) for name, values_L in found.items()}


def ranking_metrics(ranked: Ranked, at: Sequence[int], weights_L: Floats | None = None) -> dict[str, float]:
    """Return the means of `ranking_values` over the lists that have positives.

    Args:
        ranked: where the positives are.
        at: numbers of first places, K.
        weights_L: weight of each list; default 1.

    Returns:
        Each metric, NaN where no list has positives; `lists` that count, and `lists_left_out` without
        positives.
    """
    weights = np.ones(len(ranked.positives_L)) if weights_L is None else weights_L
    counted = (ranked.positives_L > 0) & (weights > 0)
    total = weights[counted].sum()
    means = {
        name: float((weights[counted] * values_L[counted]).sum() / total) if total > 0 else math.nan
        for name, values_L in ranking_values(ranked, at).items()
    }
    return {**means, "lists": int(counted.sum()), "lists_left_out": int((ranked.positives_L == 0).sum())}


def _place_in_run(values_N: Ints) -> Ints:
    """Return how many equal values stand right before each one; equal ones are neighbours."""
    place_N = np.arange(len(values_N))
    starts = np.ones(len(values_N), bool)
    starts[1:] = values_N[1:] != values_N[:-1]
    first: Ints = place_N[starts]
    return place_N - np.repeat(first, np.diff(first, append=len(values_N)))


def _first_of_draw(place_E: Ints, hits_E: Ints, tied_E: Ints) -> Floats:
    """Return the probability that the first of `hits` places drawn out of `tied` is this one, counted from 0.

    That is C(tied - place - 1, hits - 1) / C(tied, hits).
    """
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, tied_E.max(initial=0) + 1)))])
    behind_E = tied_E - place_E - 1
    possible = behind_E >= hits_E - 1
    left_E = np.where(possible, behind_E - hits_E + 1, 0)
    chosen_E = log_factorial[behind_E] - log_factorial[hits_E - 1] - log_factorial[left_E]
    all_E = log_factorial[tied_E] - log_factorial[hits_E] - log_factorial[tied_E - hits_E]
    # One hit is the common case, and 1 / tied should be just that.
    probability_E = np.where(hits_E == 1, 1 / tied_E, np.exp(chosen_E - all_E))
    return np.where(possible, probability_E, 0.0)
