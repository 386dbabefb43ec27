"""The logged loss against that of no model; entropies and minima are worked out here, in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trainer.config import LossConfig
from trainer.guard.losses import LossWatch
from trainer.guard.prior import Prior, item_prior, prior_of
from trainer.item_sampling import ItemNegatives
from trainer.losses.pointwise import PointwiseLoss, TaskHead
from trainer.losses.ranking import bpr_loss, pointwise_loss, sampled_softmax_loss


def entropy(rate: float) -> float:
    return -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))


def plain() -> Prior:
    prior = prior_of(PointwiseLoss(LossConfig()))
    assert prior is not None
    return prior


def told(watch: LossWatch, losses: dict[int, float], label: float = 0.25) -> list[tuple[int, str]]:
    return [
        (found.step, found.code)
        for step, loss in losses.items()
        for found in watch.logged(step, loss, [label])
    ]


@pytest.mark.parametrize("rate", [0.001, 0.25, 0.5, 0.97])
def test_the_plain_prior_is_the_entropy_of_the_base_rate(rate: float) -> None:
    assert plain().best_constant([rate]) == pytest.approx(entropy(rate), rel=1e-7)
    assert plain().untrained([rate]) == pytest.approx(math.log(2), rel=1e-6)
    assert LossConfig().calibrated


@pytest.mark.parametrize(
    "form",
    [{"label_smoothing": 0.1}, {"positive_weight": 3.0}, {"focal_gamma": 2.0}],
    ids=lambda form: str(form),
)
def test_forms_of_the_loss_have_the_least_loss_of_any_constant(form: dict[str, Any]) -> None:
    rate, smooth = 0.2, form.get("label_smoothing", 0.0)
    gamma, positive = form.get("focal_gamma", 0.0), form.get("positive_weight", 1.0)
    p = np.linspace(1e-5, 1 - 1e-5, 400_001)
    of_1 = -(1 - smooth / 2) * np.log(p) - smooth / 2 * np.log(1 - p)
    of_0 = -(1 - smooth / 2) * np.log(1 - p) - smooth / 2 * np.log(p)
    losses = rate * positive * (1 - p) ** gamma * of_1 + (1 - rate) * p**gamma * of_0
    prior = prior_of(PointwiseLoss(LossConfig(**form)))
    assert prior is not None
    assert prior.best_constant([rate]) == pytest.approx(losses.min(), rel=1e-5)
    assert prior.untrained([rate]) == pytest.approx(losses[200_000], rel=1e-5)
    assert not LossConfig(**form).calibrated


def test_the_prior_of_several_tasks_is_the_mean_of_theirs() -> None:
    assert plain().best_constant([0.1, 0.4]) == pytest.approx((entropy(0.1) + entropy(0.4)) / 2, rel=1e-5)


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_the_mean_of_ratings_has_the_loss_of_their_variance(weight: float) -> None:
    ratings = np.random.default_rng(0).integers(1, 6, 1000)
    head = TaskHead(True, ratings.mean(), ratings.std(), weight)
    loss = PointwiseLoss(LossConfig(), [head])
    prior = prior_of(loss)
    assert prior is not None
    of_mean = loss(torch.zeros(1000, 1), torch.tensor(ratings).float()[:, None], torch.ones(1000))
    assert prior.best_constant([3.0]) == prior.untrained([3.0]) == pytest.approx(float(of_mean), rel=1e-5)
    watch = LossWatch(prior, 0, 100, 1000)
    assert told(watch, dict.fromkeys(range(10, 101, 10), 1.0001 * weight)) == [(100, "loss_above_prior")]


@pytest.mark.parametrize(
    ("objective", "count", "loss"),
    [
        ("bpr", 1, bpr_loss),
        ("pointwise", 1, pointwise_loss),
        ("pointwise", 4, pointwise_loss),
        ("sampled_softmax", 5, sampled_softmax_loss),
        ("softmax", 29, sampled_softmax_loss),  # 30 items: the query's own and all others
    ],
)
def test_scores_that_tell_no_item_from_another_have_the_prior_of_their_objective(
    objective: Any, count: int, loss: Any
) -> None:
    drawn = ItemNegatives() if objective == "softmax" else ItemNegatives(per_query=count)
    prior = item_prior(objective, drawn, 30)
    assert prior is not None
    scores_S = torch.linspace(-8, 8, 100_001, dtype=torch.float64)
    all_SC = scores_S[:, None].expand(-1, count)
    losses_S = loss(scores_S, all_SC, torch.ones_like(all_SC, dtype=torch.bool))
    assert prior.best_constant([1.0]) == pytest.approx(float(losses_S.min()), rel=1e-6)
    assert prior.untrained([1.0]) == pytest.approx(float(losses_S[50_000]), rel=1e-6)


def test_shared_negatives_count_but_for_the_querys_own_and_some_objectives_have_no_prior() -> None:
    shared = item_prior("sampled_softmax", ItemNegatives(shared=10), 5)
    assert shared is not None
    assert shared.best_constant([]) == pytest.approx(math.log(1 + 8))  # every fifth is its own
    even = item_prior("sampled_softmax", ItemNegatives(per_query=3, log_q=True), 50)
    assert even is not None
    assert even.best_constant([]) == pytest.approx(math.log(4))
    for negatives in (
        ItemNegatives(in_batch=True),
        ItemNegatives(per_query=9, hard=2),
        ItemNegatives(per_query=9, distribution="popularity", log_q=True),
    ):
        assert item_prior("sampled_softmax", negatives, 50) is None
    assert item_prior("bpr", ItemNegatives(per_query=9, hard=2), 50) is None
    assert item_prior("bpr", ItemNegatives(in_batch=True), 50) is not None


def test_items_that_are_hardly_told_apart_are_not_learnt() -> None:
    prior = item_prior("bpr", ItemNegatives(per_query=1), 1000)
    for loss, found in ((0.689, [(100, "loss_above_prior")]), (0.68, [])):
        watch = LossWatch(prior, 0, 100, 1000)
        assert told(watch, dict.fromkeys(range(10, 101, 10), loss)) == found


def test_a_loss_that_no_prior_is_known_of_is_judged_by_explosions_alone() -> None:
    assert prior_of(nn.MSELoss()) is None
    watch = LossWatch(None, 0, 100, 1000)
    assert told(watch, dict.fromkeys(range(10, 200, 10), 5.0)) == []
    assert told(watch, {200: 60.0, 210: 60.0}) == [(210, "loss_exploding")]


def test_a_constant_score_never_passes_whatever_the_labels_of_the_window() -> None:
    # Every log has other labels; the constant is the best one of the whole run.
    rates = torch.rand(100, generator=torch.Generator().manual_seed(0)).mul(0.2).add(0.1).tolist()
    score = sum(rates) / len(rates)
    watch = LossWatch(plain(), 0, 500, 1000)
    found = []
    for number, rate in enumerate(rates, start=1):
        loss = -(rate * math.log(score) + (1 - rate) * math.log(1 - score))
        found += watch.logged(10 * number, loss, [rate])
    assert [finding.code for finding in found] == ["loss_above_prior"] * 2
    assert [finding.step for finding in found] == [500, 1000]
    assert "steps 251 to 500" in found[0].what


def test_a_run_that_learns_is_silent_and_its_beginning_does_not_count() -> None:
    # Three times the prior for 200 steps, then 2 % below it.
    losses = {step: entropy(0.25) * (3.0 if step <= 200 else 0.98) for step in range(10, 3001, 10)}
    assert told(LossWatch(plain(), 0, 500, 3000), losses) == []


def test_steps_begin_to_count_after_warm_up() -> None:
    losses = {step: entropy(0.25) * (1.1 if step <= 900 else 0.9) for step in range(10, 2001, 10)}
    early = [(500, "loss_above_prior"), (1000, "loss_above_prior")]
    assert told(LossWatch(plain(), 0, 500, 2000), losses) == early
    assert told(LossWatch(plain(), 800, 500, 2000), losses) == []


def test_a_run_that_unlearns_is_told_later() -> None:
    losses = {step: entropy(0.25) * (0.9 if step <= 1000 else 1.01) for step in range(10, 2001, 10)}
    assert told(LossWatch(plain(), 0, 500, 2000), losses) == [
        (1500, "loss_above_prior"),
        (2000, "loss_above_prior"),
    ]


def test_short_runs_are_judged_at_their_end_and_the_shortest_not_at_all() -> None:
    above = entropy(0.25) * 1.01
    assert told(LossWatch(plain(), 0, 500, 60), dict.fromkeys(range(10, 61, 10), above)) == [
        (60, "loss_above_prior")
    ]
    assert told(LossWatch(plain(), 0, 500, 40), dict.fromkeys(range(10, 41, 10), above)) == []


def test_a_run_that_ends_before_its_window_is_judged_by_the_steps_since_the_evaluation_before() -> None:
    above, below = entropy(0.25) * 1.01, entropy(0.25) * 0.98
    for losses, found in (([above, below], []), ([below, above], [(120, "loss_above_prior")])):
        watch = LossWatch(plain(), 0, 500, 780)
        for evaluation, loss in enumerate(losses):
            steps = range(60 * evaluation + 10, 60 * evaluation + 61, 10)
            assert told(watch, dict.fromkeys(steps, loss)) == []
            watch.since_evaluation()
        assert [(f.step, f.code) for f in watch.ended(120)] == found
    # After its time to learn it has been judged.
    watch = LossWatch(plain(), 0, 100, 780)
    assert told(watch, dict.fromkeys(range(10, 131, 10), above)) == [(100, "loss_above_prior")]
    watch.since_evaluation()
    assert watch.ended(130) == []


def test_one_spike_is_no_explosion_and_rare_labels_are_none_either() -> None:
    watch = LossWatch(plain(), 0, 500, 1000)
    assert told(watch, {10: 9.0, 20: 0.6, 30: 9.0, 40: 9.0}) == [(40, "loss_exploding")]
    # Scores of 0 have 88 times the entropy of labels this rare.
    assert told(LossWatch(plain(), 0, 500, 1000), {10: 0.69, 20: 0.5, 30: 0.3}, label=0.001) == []


def test_a_watch_taken_up_again_finds_the_same() -> None:
    losses = {step: entropy(0.25) * (0.9 if step <= 1000 else 1.01) for step in range(10, 2001, 10)}
    first = LossWatch(plain(), 0, 500, 2000)
    early = {step: loss for step, loss in losses.items() if step <= 1230}
    assert told(first, early) == []
    second = LossWatch(plain(), 0, 500, 2000, first.state)
    late = {step: loss for step, loss in losses.items() if step > 1230}
    assert told(second, late) == [(1500, "loss_above_prior"), (2000, "loss_above_prior")]


def test_a_run_of_which_nothing_is_known_is_judged_by_what_follows() -> None:
    watch = LossWatch(plain(), 0, 500, 3000, step=1230)
    losses = {step: entropy(0.25) * 1.01 for step in range(1240, 2001, 10)}
    assert told(watch, losses) == [(1730, "loss_above_prior")]
