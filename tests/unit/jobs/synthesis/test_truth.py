"""The best reachable metrics against a count of all pairs, and against scikit-learn on drawn labels."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from jobs.synthesis.shape import Shape
from jobs.synthesis.truth import LEVELS, best_reachable, fit_truth, probabilities
from jobs.synthesis.writing import batch_of


def counted(levels: np.ndarray) -> np.ndarray:
    return np.bincount(levels, minlength=LEVELS)


def test_auc_is_that_of_counting_every_pair_of_rows() -> None:
    # Some rows share a level: such pairs count half.
    levels = np.random.default_rng(3).integers(0, LEVELS, 60)
    levels[:20] = levels[20:40]
    p = (levels + 0.5) / LEVELS
    right = total = 0.0
    for i in range(60):
        for j in range(60):
            if i != j:
                pair = p[i] * (1 - p[j])
                total += pair
                right += pair * (1.0 if p[i] > p[j] else 0.5 if p[i] == p[j] else 0.0)
    best = best_reachable(counted(levels))
    assert best.auc == pytest.approx(right / total, abs=1e-12)
    assert best.positive_rate == pytest.approx(p.mean(), abs=1e-12)


def test_metrics_are_what_scikit_learn_finds_on_drawn_labels() -> None:
    shape = Shape.of(rows=200_000, sparse=8, dense=4)
    parts = [batch_of(shape, fit_truth(shape), number) for number in range(8)]
    levels = np.concatenate([part[1] for part in parts])
    p, best = probabilities(levels), best_reachable(counted(levels))
    rng = np.random.default_rng(5)
    draws = [np.concatenate([part[2] for part in parts]), *(rng.random(len(p)) < p for _ in range(7))]
    aucs = [roc_auc_score(labels, p) for labels in draws]
    losses = [log_loss(labels, p) for labels in draws]
    # A draw of 131,072 labels strays by about 0.0013 in AUC and 0.0012 in log loss.
    assert np.abs(np.array(aucs) - best.auc).max() < 0.006
    assert np.mean(aucs) == pytest.approx(best.auc, abs=0.0025)
    assert np.abs(np.array(losses) - best.log_loss).max() < 0.006
    base = log_loss(draws[0], np.full(len(p), draws[0].mean()))
    assert best.ne == pytest.approx(losses[0] / base, abs=0.01)


def test_no_other_score_does_better_than_the_true_probability() -> None:
    shape = Shape.of(rows=200_000, sparse=8, dense=4)
    _, levels, labels = batch_of(shape, fit_truth(shape), 0)
    p = probabilities(levels)
    noisy = p + np.random.default_rng(1).normal(0, 0.1, len(p))
    assert roc_auc_score(labels, noisy) < roc_auc_score(labels, p)
    assert 0.7 < best_reachable(counted(levels)).auc < 0.85


def test_rows_that_are_all_alike_can_be_ranked_by_chance_only() -> None:
    assert best_reachable(counted(np.full(10, 100))).auc == pytest.approx(0.5)
    assert best_reachable(counted(np.array([7]))).auc == 0.5
    assert best_reachable(counted(np.full(10, 100))).ne == pytest.approx(1.0)
