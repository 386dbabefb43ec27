"""Items drawn for rows: different, unseen, each as likely, and what they make of scores by chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.known_scores import FIRST, KnownScores, Rows
from trainer import drawn_candidates as module
from trainer.drawn_candidates import drawn_candidates
from trainer.item_ranking import rank_by

ITEMS, COUNT = 60, 4
# Rows that leave out no item, some, most, all but three, and all.
LEFT_OUT = [[], list(range(5, 25)), list(range(2, 54)), list(range(5, 62)), list(range(2, 62))]


def drawn(rows: list[int], seed: int = 1) -> Tensor:
    """Return what rows draw; the row of number n leaves out the list of n modulo 5."""
    held = [[0, 1, *LEFT_OUT[row % 5], *LEFT_OUT[row % 5][:2]] for row in rows]
    ids = torch.tensor([one for ids in held for one in ids])
    places = torch.tensor([place for place, ids in enumerate(held) for _ in ids])
    return drawn_candidates(torch.tensor(rows), (ids, places), FIRST, ITEMS, COUNT, seed)


def test_they_are_different_and_unseen_and_each_as_likely() -> None:
    rows = 20_000
    found = drawn(list(range(rows))).reshape(-1, 5, COUNT)
    for kind, left_out in enumerate(LEFT_OUT):
        free = np.setdiff1d(np.arange(FIRST, ITEMS + FIRST), left_out)
        size = min(COUNT, len(free))
        ordered = found[:, kind].sort(dim=1, descending=True).values.numpy()
        assert (ordered[:, size:] == 0).all()
        assert (np.diff(ordered[:, :size]) < 0).all()
        counts = np.bincount(ordered[:, :size].ravel(), minlength=ITEMS + FIRST)
        assert counts.sum() == counts[free].sum()
        share = size / max(1, len(free))
        # Six standard deviations.
        assert np.abs(counts[free] / (rows / 5) - share).max(initial=0) <= 6 * np.sqrt(
            share * (1 - share) / (rows / 5)
        )


def test_they_follow_row_and_seed_however_many_hashes_are_made_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = drawn(list(range(40)))
    assert not torch.equal(found, drawn(list(range(40)), seed=2))
    monkeypatch.setattr(module, "_AT_ONCE", 50)
    backwards = [*range(39, -1, -1)]
    assert torch.equal(drawn(backwards).flip(0), found)


@pytest.mark.parametrize("share", [0.0, 0.8, 0.95])
def test_random_scores_find_what_chance_does_whatever_share_of_the_items_a_row_holds(share: float) -> None:
    rows, items, count = 4_000, 400, 10
    rng = np.random.default_rng(0)
    orders = np.argsort(rng.random((rows, items)), axis=1) + FIRST
    held = int(share * items)
    lists = Rows(seen=[o[:held].tolist() for o in orders], targets=[[o[held]] for o in orders.tolist()])
    scorer = KnownScores(rng.random((rows, items)))
    found = rank_by(scorer, lists.batches(500), torch.device("cpu"), "targets", candidates=count)
    hits, expected = (found.rank_P <= 5).mean(), 5 / (1 + count)
    # Five standard deviations; ranks are one to eleven, each as likely.
    assert abs(hits - expected) < 5 * np.sqrt(expected * (1 - expected) / rows)
    assert np.bincount(found.rank_P, minlength=12)[1:].min() > 0.7 * rows / 11
    assert found.rank_P.max() == 11


def test_where_all_unseen_items_are_drawn_targets_have_their_ranks_among_all() -> None:
    rng = np.random.default_rng(1)
    orders = np.argsort(rng.random((14, 30)), axis=1) + FIRST
    lists = Rows([o[: 2 * n].tolist() for n, o in enumerate(orders)], [o[-2:].tolist() for o in orders])
    scorer = KnownScores(rng.random((14, 30)))
    for ranks_seen in (False, True):
        among_all, among_drawn = (
            rank_by(
                scorer, lists.batches(7), torch.device("cpu"), "targets", candidates=count,
                ranks_seen=ranks_seen,
            ).rank_P.tolist()
            for count in (None, 28)
        )  # fmt: skip
        assert among_drawn == among_all
