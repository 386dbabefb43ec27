"""Metrics of ranked lists against torchmetrics, scikit-learn and the mean over all orders of equal scores."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from torchmetrics.functional.retrieval import (
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_precision,
    retrieval_recall,
    retrieval_reciprocal_rank,
)

from trainer.metrics import Ranked, ranking_metrics, ranking_values

AT = (1, 2, 3, 9)


def random_lists(
    distinct_scores: int | None, longest: int
) -> tuple[list[int], list[np.ndarray], list[np.ndarray]]:
    """Return 25 lists: their sizes, falling scores, and labels of which at least one is 1."""
    rng = np.random.default_rng(2)
    sizes = rng.integers(2, longest + 1, 25).tolist()
    if distinct_scores is None:
        scores = [-np.sort(rng.normal(size=size)) for size in sizes]
    else:
        scores = [-np.sort(rng.integers(0, distinct_scores, size)).astype(float) for size in sizes]
    labels = [(rng.random(size) < 0.35).astype(float) for size in sizes]
    for of_list, size in zip(labels, sizes, strict=True):
        of_list[rng.integers(size)] = 1
    return sizes, scores, labels


def ranked(sizes: list[int], scores: list[np.ndarray], labels: list[np.ndarray]) -> Ranked:
    lists = np.repeat(np.arange(len(sizes)), sizes)
    return Ranked.from_scores(lists, np.concatenate(scores), np.concatenate(labels))


def by_definition(labels: list[int]) -> dict[str, float]:
    """Return the metrics of one list in one order."""
    positives, first = sum(labels), labels.index(1) + 1
    found = {"mrr": 1 / first}
    for k in AT:
        hits, cap = sum(labels[:k]), min(positives, k)
        gain = sum(label / math.log2(2 + place) for place, label in enumerate(labels[:k]))
        precisions = [sum(labels[: place + 1]) / (place + 1) for place in range(len(labels))]
        found |= {
            f"hr@{k}": float(hits > 0),
            f"recall@{k}": hits / positives,
            f"capped_recall@{k}": hits / cap,
            f"precision@{k}": hits / k,
            f"ndcg@{k}": gain / sum(1 / math.log2(2 + place) for place in range(cap)),
            f"mrr@{k}": 1 / first if first <= k else 0.0,
            f"map@{k}": sum(p for p, label in zip(precisions[:k], labels, strict=False) if label) / cap,
        }
    return found


def orders_of(scores: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    """Return the labels in every order that equal scores allow."""
    runs = [labels[scores == score].astype(int) for score in sorted(set(scores), reverse=True)]
    permuted = itertools.product(*(list(itertools.permutations(run)) for run in runs))
    return [list(itertools.chain(*order)) for order in permuted]


@pytest.mark.parametrize("distinct_scores", [1, 3])
def test_equal_scores_count_by_the_mean_over_all_their_orders(distinct_scores: int) -> None:
    sizes, scores, labels = random_lists(distinct_scores, longest=6)
    found = ranking_values(ranked(sizes, scores, labels), AT)
    for number, (of_scores, of_labels) in enumerate(zip(scores, labels, strict=True)):
        orders = [by_definition(order) for order in orders_of(of_scores, of_labels)]
        expected = {name: np.mean([order[name] for order in orders]) for name in orders[0]}
        assert {name: values[number] for name, values in found.items()} == pytest.approx(expected, abs=1e-12)


def test_metrics_equal_torchmetrics_and_scikit_learn() -> None:
    sizes, scores, labels = random_lists(None, longest=30)
    found = ranking_values(ranked(sizes, scores, labels), (3, 10))
    references = {
        "hr": retrieval_hit_rate,
        "recall": retrieval_recall,
        "precision": retrieval_precision,
        "ndcg": retrieval_normalized_dcg,
    }
    for number, (of_scores, of_labels) in enumerate(zip(scores, labels, strict=True)):
        predicted, target = torch.from_numpy(of_scores), torch.from_numpy(of_labels).long()
        for name, reference in references.items():
            for k in (3, 10):
                expected = float(reference(predicted, target, k))
                assert found[f"{name}@{k}"][number] == pytest.approx(expected, abs=1e-6)
        assert found["mrr"][number] == pytest.approx(float(retrieval_reciprocal_rank(predicted, target)))
        assert found["ndcg@10"][number] == pytest.approx(
            ndcg_score([of_labels], [of_scores], k=10), abs=1e-12
        )


def test_ranks_and_scores_give_the_same() -> None:
    sizes, scores, labels = random_lists(None, longest=30)
    places = [np.flatnonzero(of_list) + 1 for of_list in labels]
    lists = np.repeat(np.arange(len(sizes)), [len(of_list) for of_list in places])
    positives = np.array([len(of_list) for of_list in places])
    shuffled = np.random.default_rng(0).permutation(len(lists))
    from_ranks = Ranked.from_ranks(lists[shuffled], np.concatenate(places)[shuffled], positives)
    expected = ranking_values(ranked(sizes, scores, labels), AT)
    for name, values in ranking_values(from_ranks, AT).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-12, err_msg=name)


def test_a_constant_model_gets_what_chance_gives() -> None:
    # One positive among ten candidates of one score: rank 1 to 10, each alike.
    found = ranking_metrics(Ranked.from_scores(np.zeros(10, int), np.zeros(10), np.eye(10)[0]), [5])
    assert found["hr@5"] == found["recall@5"] == 0.5
    assert found["mrr"] == pytest.approx(np.mean(1 / np.arange(1, 11)))


def test_users_without_positives_are_left_out_and_counted() -> None:
    # User 0: ranks 1 and 4 of 3 positives; user 1 has none; user 2 has one that was not ranked.
    lists, ranks, positives = np.array([0, 0]), np.array([4, 1]), np.array([3, 0, 1])
    found = ranking_metrics(Ranked.from_ranks(lists, ranks, positives), [2])
    assert (found["lists"], found["lists_left_out"]) == (2, 1)
    assert found["hr@2"] == 0.5
    assert found["recall@2"] == pytest.approx(1 / 6)
    assert found["capped_recall@2"] == 0.25
    assert found["map@2"] == pytest.approx((1 / 2 + 0) / 2)
    weighted = ranking_metrics(Ranked.from_ranks(lists, ranks, positives), [2], np.array([3.0, 9.0, 1.0]))
    assert weighted["hr@2"] == 0.75
    none = ranking_metrics(Ranked.from_ranks(lists[:0], ranks[:0], np.array([0])), [2])
    assert math.isnan(none["ndcg@2"])


@pytest.mark.parametrize(
    ("lists", "ranks", "positives", "message"),
    [([0], [0], [1], "from 1, not from 0"), ([0, 0], [1, 2], [1], "more ranks than positives")],
)
def test_ranks_that_cannot_be_are_refused(
    lists: list[int], ranks: list[int], positives: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Ranked.from_ranks(np.array(lists), np.array(ranks), np.array(positives))
