"""Figures of lists of best items: a small step worked out by hand, and random ones against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.list_figures import ListFigures, Step
from trainer.metrics import intra_list_diversity, serendipity

NAMES = ("history_popularity", "serendipity", "diversity")
# Ids 0 and 1 are no items; by popularity the order is 2, 4, 3, 5, 6.
COUNTS = torch.tensor([0, 0, 9, 4, 5, 2, 0])


def _lists(*ids: list[int]) -> tuple[Tensor, Tensor]:
    places = [row for row, of_row in enumerate(ids) for _ in of_row]
    return torch.tensor([one for of_row in ids for one in of_row]), torch.tensor(places)


def test_a_step_worked_out_by_hand() -> None:
    step = Step(
        top_BK=torch.tensor([[3, 5], [2, 4], [6, 0]]),
        seen=_lists([2, 4, 1], [6, 0], []),
        targets=_lists([3, 5], [4], []),
        ids_N=torch.arange(2, 7),
        items_NX=torch.tensor([[1.0, 0], [0, 2], [3, 3], [0, 5], [1, 1]]),
    )
    found = {name: values.tolist() for name, values in ListFigures(COUNTS, NAMES).of(step).items()}
    # Row 0 knows items of 9 and 5 events; item 6 of row 1 is in no training row.
    assert found["history_popularity"] == pytest.approx([7, np.nan, np.nan], nan_ok=True)
    # Popularity would recommend 3 and 5 to row 0, which has seen 2 and 4, and 2 and 4 to row 1.
    assert found["serendipity"] == [0.0, 0.0, 0.0]
    # 3 and 5 point the same way; 2 and 4 are at 45 degrees; a list of one has no pairs.
    assert found["diversity"] == pytest.approx([0, 1 - 1 / np.sqrt(2), np.nan], abs=1e-6, nan_ok=True)


def test_what_popularity_would_not_recommend_surprises() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    top, targets = torch.tensor([[5, 2, 6]]), _lists([5, 2, 6])
    step = Step(top, (nothing, nothing), targets, torch.arange(2, 7), torch.zeros(5, 1))
    # Of three places popularity gives 2, 4 and 3.
    assert ListFigures(COUNTS, ("serendipity",)).of(step)["serendipity"].tolist() == [pytest.approx(2 / 3)]


def test_popularity_recommends_again_what_was_seen_where_that_is_ranked() -> None:
    top, seen, targets = torch.tensor([[3, 5], [2, 4]]), _lists([2, 4], [2]), _lists([3, 5], [4, 2])
    step = Step(top, seen, targets, torch.arange(2, 7), torch.zeros(5, 1), ranks_seen=True)
    # 2 and 4, whatever rows have seen.
    assert ListFigures(COUNTS, ("serendipity",)).of(step)["serendipity"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("at_once", [1, 40, 1 << 22])
def test_random_steps_equal_the_functions_of_whole_lists(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("trainer.list_figures._NUMBERS_AT_ONCE", at_once)
    rng = np.random.default_rng(5)
    items, rows, k = 30, 25, 4
    counts = np.concatenate([[0, 0], rng.integers(1, 9, items)])
    orders = [rng.permutation(items) + 2 for _ in range(rows)]
    seen = [order[: rng.integers(0, 12)].tolist() for order in orders]
    top = np.stack([order[-k:] for order in orders])
    targets = [rng.permutation(order[-9:])[:5].tolist() for order in orders]
    vectors = rng.normal(size=(items, 3))
    step = Step(
        torch.from_numpy(top), _lists(*seen), _lists(*targets), torch.arange(2, items + 2),
        torch.from_numpy(vectors),
    )  # fmt: skip
    found = ListFigures(torch.from_numpy(counts), NAMES).of(step)

    by_popularity = sorted(range(2, items + 2), key=lambda item: (-counts[item], item))
    popular = np.array([[i for i in by_popularity if i not in known][:k] for known in seen])
    relevant = np.array([[i in wanted for i in of_row] for of_row, wanted in zip(top, targets, strict=True)])
    assert float(found["serendipity"].mean()) == pytest.approx(serendipity(top, relevant, popular))
    assert float(found["diversity"].mean()) == pytest.approx(intra_list_diversity(top - 2, vectors))
    histories = [np.mean(counts[known]) if known else np.nan for known in seen]
    assert found["history_popularity"].tolist() == pytest.approx(histories, nan_ok=True)
