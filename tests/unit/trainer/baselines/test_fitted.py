"""Baselines against small cases by hand, dense matrices, and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from trainer.baselines.fitted import Baseline, Factors, Popularity, fit_item_knn
from trainer.baselines.histories import Histories, histories_of

USERS, ITEMS = 40, 25


def _met(seed: int = 0, users: int = USERS, items: int = ITEMS) -> np.ndarray:
    """Return users by items of 0 and 1: popular items and rare ones, one item and one user with nothing."""
    rng = np.random.default_rng(seed)
    met = rng.random((users, items)) < 0.6 / np.sqrt(1 + np.arange(items))
    met[3], met[:, 7] = False, False
    return met


def _histories(met: np.ndarray, values: np.ndarray | None = None) -> Histories:
    users, items = np.nonzero(met)
    known = np.ones(len(users)) if values is None else values[met]
    return histories_of([(users, items, known)], *met.shape)


def test_popularity_counts_users() -> None:
    met = _met()
    baseline = Popularity(_histories(met).counts())
    expected = met.sum(axis=0)
    assert baseline.of_all(_histories(met[:2])).tolist() == [expected.tolist()] * 2


def test_likeness_of_three_items_by_hand() -> None:
    # Items 0 and 1 share two users of 3 and 2; item 2 shares one with each.
    met = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1]], bool)
    found = fit_item_knn(_histories(met), 1, 2.0)
    assert found.neighbours_NK.tolist() == [[1], [0], [1]]
    expected = [2 / (6**0.5 + 2), 2 / (6**0.5 + 2), 1 / (4**0.5 + 2)]
    assert found.likeness_NK[:, 0].tolist() == pytest.approx(expected)
    # A user who met 1 and 2: item 0 is the neighbour of 1, item 1 that of 2.
    scores = found.of_all(_histories(np.array([[0, 1, 1]], bool)))
    assert scores[0].tolist() == pytest.approx([expected[1], expected[2], 0])


@pytest.mark.parametrize("at_once", [10, 1 << 22])
@pytest.mark.parametrize(("neighbours", "items"), [(5, ITEMS), (400, ITEMS), (3, 2_000)])
def test_item_knn_equals_the_cosines_of_scikit_learn(
    monkeypatch: pytest.MonkeyPatch, neighbours: int, items: int, at_once: int
) -> None:
    monkeypatch.setattr("trainer.baselines.fitted._AT_ONCE", at_once)
    met = _met(items=items)
    likeness = cosine_similarity(met.T.astype(float)).astype(np.float32)
    np.fill_diagonal(likeness, 0)
    for row in likeness:  # of equal ones the smaller number
        row[np.argsort(-row, kind="stable")[neighbours:]] = 0
    asked = _met(seed=1, users=6, items=items)
    found = fit_item_knn(_histories(met), neighbours, 0.0)
    assert found.of_all(_histories(asked)) == pytest.approx(asked @ likeness, abs=1e-6)


def test_factors_solve_the_equations_of_implicit_feedback() -> None:
    rng = np.random.default_rng(2)
    items = rng.normal(size=(ITEMS, 4)).astype(np.float32)
    items[7] = 0  # was in no training row
    met, alpha, weight = _met(), 3.0, 0.2
    found = Factors(items, weight, alpha).of_all(_histories(met))
    for user in range(USERS):
        # Equation 4 of Hu et al. with its dense matrix of confidences; MLlib counts the ridge by event.
        confidence = np.diag(1 + alpha * met[user])
        left = items.T @ confidence @ items + weight * met[user].sum() * np.eye(4)
        factors = np.linalg.solve(left, items.T @ confidence @ met[user]) if met[user].any() else np.zeros(4)
        assert found[user] == pytest.approx(items @ factors, abs=1e-4)


def test_factors_of_ratings_fit_the_users_ratings_and_fall_back_to_what_is_known() -> None:
    rng = np.random.default_rng(3)
    items = rng.normal(size=(ITEMS, 3)).astype(np.float32)
    items[7] = 0
    met, ratings, weight = _met(), rng.integers(1, 6, (USERS, ITEMS)).astype(float), 0.1
    baseline = Factors(items, weight, None, unknown=3.5)
    found = baseline.of_all(_histories(met, ratings))
    user = 5
    held = items[met[user]]
    ridge = np.sqrt(weight * len(held)) * np.eye(3)
    factors, *_ = np.linalg.lstsq(
        np.concatenate([held, ridge]), np.concatenate([ratings[user][met[user]], np.zeros(3)]), rcond=None
    )
    rest = [item for item in range(ITEMS) if item != 7]
    assert found[user][rest] == pytest.approx(items[rest] @ factors, abs=1e-4)
    assert (found[:, 7] == 3.5).all()
    pairs = baseline.of_pairs(_histories(met, ratings), np.array([3, 5, 5]), np.array([0, 7, 0]))
    assert pairs.tolist() == pytest.approx([3.5, 3.5, found[5, 0]])


@pytest.mark.parametrize("name", ["popularity", "item_knn", "als"])
def test_pairs_have_the_scores_of_whole_rows(name: str) -> None:
    histories = _histories(_met())
    items = np.random.default_rng(4).normal(size=(ITEMS, 4)).astype(np.float32)
    baselines: dict[str, Baseline] = {
        "popularity": Popularity(histories.counts()),
        "item_knn": fit_item_knn(histories, 6, 1.0),
        "als": Factors(items, 0.1, 2.0),
    }
    rng = np.random.default_rng(5)
    users, asked = rng.integers(0, USERS, 60), rng.integers(0, ITEMS, 60)
    whole = baselines[name].of_all(histories)
    assert baselines[name].of_pairs(histories, users, asked) == pytest.approx(whole[users, asked], abs=1e-5)
