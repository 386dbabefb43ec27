"""Ranks of targets and lists of best items by known scores, against loops; on one rank and on two."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.support.known_scores import FIRST, KnownScores, Rows, ranked_on, tied_rows
from tests.support.ranks import run_distributed
from trainer import item_ranking, item_scoring
from trainer.item_ranking import TargetRanks, rank_by


def ranked(scorer: KnownScores, rows: Rows, size: int = 8, **keys: Any) -> TargetRanks:
    return rank_by(scorer, rows.batches(size), torch.device("cpu"), "targets", **keys)


def expected(
    scores: np.ndarray, seen: list[int], targets: list[int], top: int
) -> tuple[list[int], list[int]]:
    """Return the ranks of a row's targets, and the ids of its best items."""
    scores = scores.copy()
    scores[[i - FIRST for i in seen if i >= FIRST]] = -np.inf
    wanted = sorted({*targets}, key=lambda i: (-scores[i - FIRST], i))
    others = [i for i in range(FIRST, FIRST + len(scores)) if i not in wanted]
    ranks = [
        1 + place + sum(scores[o - FIRST] >= scores[i - FIRST] for o in others)
        for place, i in enumerate(wanted)
    ]
    rankable = [i for i in (*others, *wanted) if scores[i - FIRST] > -np.inf]
    best = sorted(rankable, key=lambda i: (-scores[i - FIRST], i))
    return ranks, (best + [0] * top)[:top]


@pytest.mark.parametrize("at_once", [1 << 22, 40, 1])
def test_they_are_those_of_loops_however_few_scores_are_made_at_once(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (item_scoring, item_ranking):
        monkeypatch.setattr(module, "_AT_ONCE", at_once)
    scores, rows = tied_rows(21, 33)
    scorer = KnownScores(scores)
    found = ranked(scorer, rows, top=4)
    assert scorer.most == {1 << 22: 8 * 33, 40: 8 * 5, 1: 8}[at_once]  # 1: a column
    assert found.rows_L.tolist() == list(range(21))
    for row, (seen, targets) in enumerate(zip(rows.seen, rows.targets, strict=True)):
        ranks, best = expected(scores[row], seen, targets, 4)
        assert found.rank_P[found.list_P == row].tolist() == ranks
        assert found.top_LK[row].tolist() == best


def test_two_ranks_find_what_one_finds() -> None:
    asked = ({"top": 5}, {"candidates": 6}, {"candidates": 30, "ranks_seen": True, "top": 2})
    cases = [(at_once, keys) for at_once in (1 << 22, 40) for keys in asked]
    (alone,) = run_distributed(ranked_on, 1, cases)
    assert alone[:3] == alone[3:]  # however few at once
    assert run_distributed(ranked_on, 2, cases) == [alone, alone]


@pytest.mark.parametrize("candidates", [None, 9])
def test_what_is_no_number_is_ranked_last(candidates: int | None) -> None:
    scores = np.tile(np.arange(10.0), (2, 1))
    scores[:, 3] = np.nan
    rows = Rows(seen=[[], []], targets=[[3 + FIRST], [9 + FIRST]])
    found = ranked(KnownScores(scores), rows, top=10, candidates=candidates)
    assert found.rank_P.tolist() == [10, 1]
    assert found.top_LK.tolist() == [[i + FIRST for i in (9, 8, 7, 6, 5, 4, 2, 1, 0)] + [0]] * 2
