"""Metrics of recommended lists against numbers worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from trainer.metrics import (
    average_popularity,
    catalogue_coverage,
    category_diversity,
    gini_index,
    intra_list_diversity,
    novelty,
    popular_share,
    popularity_lift,
    serendipity,
)

# Three users, five items; the last list is short, user 1 has no history.
LISTS = np.array([[0, 1, 2], [0, 1, 3], [0, -1, -1]])
HISTORY = np.array([[4, 3], [-1, -1], [4, -1]])
POPULARITY = np.array([8, 4, 2, 1, 0])


def test_coverage_is_the_share_of_items_in_any_list() -> None:
    assert catalogue_coverage(LISTS, 5) == 0.8
    assert catalogue_coverage(np.array([[-1]]), 5) == 0.0


def test_gini_is_0_for_even_lists_and_near_1_for_a_single_item() -> None:
    assert gini_index(np.array([[0, 1], [2, 3]]), 4) == 0.0
    assert gini_index(np.full((9, 1), 2), 4) == pytest.approx(3 / 4)
    # Exposures 0, 1, 1, 2, 3: half the mean difference of all pairs over the mean.
    exposures = [3, 2, 1, 1, 0]
    differences = [abs(a - b) for a, b in itertools.product(exposures, exposures)]
    assert gini_index(LISTS, 5) == pytest.approx(np.mean(differences) / (2 * np.mean(exposures)))
    assert math.isnan(gini_index(np.array([[-1]]), 5))


def test_novelty_is_the_mean_information_of_items() -> None:
    # log2(8 / popularity) is 0 for item 0, then 1, 2 and 3.
    assert novelty(LISTS, POPULARITY, 8) == pytest.approx((0 + 1 + 2 + 0 + 1 + 3 + 0) / 7)
    assert novelty(np.array([[4]]), POPULARITY, 8) == 3.0  # as if it had one positive


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    categories = np.array([[1.0, 0], [1, 0], [0, 1], [1, 1], [0, 0]])
    first = (0 + 1 + 1) / 3
    second = (0 + 2 * (1 - 1 / math.sqrt(2))) / 3
    assert intra_list_diversity(LISTS, categories) == pytest.approx((first + second) / 2)
    assert intra_list_diversity(np.array([[0, 1]]), categories) == pytest.approx(0)
    assert intra_list_diversity(np.array([[0, 4]]), categories) == pytest.approx(1)
    assert math.isnan(intra_list_diversity(LISTS[2:], categories))


def test_many_lists_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    lists, vectors = rng.integers(0, 20, (50, 4)), rng.normal(size=(20, 3))
    expected = intra_list_diversity(lists, vectors)
    monkeypatch.setattr("trainer.metrics.recommended._PAIRS_AT_ONCE", 40)
    assert intra_list_diversity(lists, vectors) == pytest.approx(expected)


def test_popularity_of_lists_and_of_histories() -> None:
    assert average_popularity(LISTS, POPULARITY) == pytest.approx((14 / 3 + 13 / 3 + 8) / 3)
    assert average_popularity(HISTORY, POPULARITY) == pytest.approx((0.5 + 0) / 2)
    assert popularity_lift(LISTS, HISTORY, POPULARITY) == pytest.approx(17 / 3 / 0.25 - 1)
    assert math.isnan(popularity_lift(LISTS, np.full((3, 1), -1), POPULARITY))
    assert popularity_lift(LISTS, LISTS, POPULARITY) == 0.0


def test_the_popular_head_is_a_share_of_the_catalogue() -> None:
    assert popular_share(LISTS, POPULARITY) == pytest.approx((1 / 3 + 1 / 3 + 1) / 3)
    assert popular_share(LISTS, POPULARITY, head=0.4) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert popular_share(np.array([[1], [0]]), np.ones(5, int)) == 0.5  # the earlier of equal ones


def test_serendipity_counts_what_popularity_would_not_have_recommended() -> None:
    relevant = np.array([[True, True, False], [True, True, True], [False, True, True]])
    popular = np.array([[0, 3, 4], [4, 3, 2], [0, 1, 2]])
    # Of user 0 item 1, of user 1 items 0 and 1; user 2 has one item, which is not relevant.
    assert serendipity(LISTS, relevant, popular) == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)
    assert serendipity(LISTS, relevant, LISTS) == 0.0
    assert math.isnan(serendipity(np.array([[-1]]), relevant[:1, :1], popular[:1]))


def test_diversity_by_categories_is_that_of_vectors_of_0_and_1(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    belongs = rng.random((20, 6)) < 0.4
    belongs[0] = False  # an item without a category is like no other
    item, category = np.nonzero(belongs)
    begins = np.concatenate([[0], np.cumsum(belongs.sum(axis=1))])
    lists = np.stack([rng.permutation(20)[:5] for _ in range(30)])
    lists[0, 1:], lists[1, 3:] = -1, -1
    expected = intra_list_diversity(lists, belongs.astype(float))
    assert item.tolist() == np.repeat(np.arange(20), np.diff(begins)).tolist()
    assert category_diversity(lists, begins, category) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr("trainer.metrics.recommended._PAIRS_AT_ONCE", 60)
    assert category_diversity(lists, begins, category) == pytest.approx(expected, rel=1e-12)
    # Items 0 and 1 share one of two categories each: cosine 1/2.
    assert category_diversity(
        np.array([[0, 1]]), np.array([0, 2, 4]), np.array([0, 1, 1, 2])
    ) == pytest.approx(0.5)
    assert math.isnan(category_diversity(lists[:1], begins, category))
