from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.trainer.models.examples import pooled_inputs, random_batch
from trainer.batch import Batch
from trainer.config import LossConfig
from trainer.losses.pointwise import PointwiseLoss, TaskHead
from trainer.tasks import TrainingTask


class _DenseOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, batch: Batch) -> torch.Tensor:
        logits: torch.Tensor = self.linear(batch.dense_BF)
        return logits


def _batch(rows: int = 8) -> Batch:
    batch = random_batch(pooled_inputs(), rows)
    return replace(batch, weights_B=torch.rand(rows))


def _part(batch: Batch, rows: slice) -> Batch:
    return replace(
        batch,
        dense_BF=batch.dense_BF[rows],
        labels_BT=batch.labels_BT[rows],
        weights_B=batch.weights_B[rows],
    )


def test_loss_is_the_weighted_sum_over_the_number_of_rows() -> None:
    task, batch = TrainingTask(_DenseOnly()), _batch()
    loss, (same, logits, labels, weights) = task(batch)
    p = 1 / (1 + np.exp(-logits.numpy()[:, 0].astype(np.float64)))
    y, w = labels.numpy()[:, 0], weights.numpy()
    expected = (w * -(y * np.log(p) + (1 - y) * np.log(1 - p))).sum() / 8
    assert abs(loss.item() - expected) < 1e-6
    assert same.item() == loss.item()


def test_only_the_loss_carries_gradients() -> None:
    loss, rest = TrainingTask(_DenseOnly())(_batch())
    assert loss.requires_grad
    assert not any(tensor.requires_grad for tensor in rest)


def test_mean_over_ranks_is_the_loss_of_the_global_batch() -> None:
    task, batch = TrainingTask(_DenseOnly()), _batch()
    batch.weights_B[5:] = 0.0  # the last rank holds only padding: its weight sum is 0
    whole, _ = task(batch)
    for ranks in (2, 4):
        size = 8 // ranks
        losses = [task(_part(batch, slice(r * size, (r + 1) * size)))[0] for r in range(ranks)]
        assert torch.allclose(torch.stack(losses).mean(), whole, atol=1e-7)


def test_padding_rows_change_neither_loss_sum_nor_gradient() -> None:
    task, batch = TrainingTask(_DenseOnly()), _batch()
    batch.weights_B[4:] = 0.0
    (task(batch)[0] * 8).backward()
    padded = [p.grad.clone() for p in task.parameters()]
    task.zero_grad()
    (task(_part(batch, slice(0, 4)))[0] * 4).backward()
    for left, parameter in zip(padded, task.parameters(), strict=True):
        assert torch.allclose(left, parameter.grad, atol=1e-6)


def test_batch_of_padding_alone_gives_zero() -> None:
    batch = replace(_batch(), weights_B=torch.zeros(8))
    assert TrainingTask(_DenseOnly())(batch)[0].item() == 0.0


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"label_smoothing": 0.2}, lambda p, y: _entropy(p, 0.9 * y + 0.1 * (1 - y))),
        ({"focal_gamma": 2.0}, lambda p, y: (1 - np.where(y == 1, p, 1 - p)) ** 2 * _entropy(p, y)),
        ({"focal_gamma": 0.5}, lambda p, y: (1 - np.where(y == 1, p, 1 - p)) ** 0.5 * _entropy(p, y)),
        ({"positive_weight": 3.0}, lambda p, y: np.where(y == 1, 3, 1) * _entropy(p, y)),
    ],
    ids=["smoothed", "focal", "focal_root", "positives"],
)
def test_forms_of_the_loss_equal_their_formulas(keys: dict[str, float], expected: Any) -> None:
    task, batch = TrainingTask(_DenseOnly(), LossConfig(**keys)), _batch(32)
    loss, (_, logits, labels, weights) = task(batch)
    p = 1 / (1 + np.exp(-logits[:, 0].double().numpy()))
    rows = weights.double().numpy() * expected(p, labels[:, 0].double().numpy())
    assert loss.item() == pytest.approx(rows.sum() / 32, rel=1e-5)


def _entropy(p: Any, y: Any) -> Any:
    return -(y * np.log(p) + (1 - y) * np.log(1 - p))


def test_rows_that_are_certainly_right_give_the_focal_loss_a_finite_gradient() -> None:
    logits = torch.tensor([[200.0], [-200.0]], requires_grad=True)
    loss = PointwiseLoss(LossConfig(focal_gamma=0.5))
    loss(logits, torch.tensor([[1.0], [0.0]]), torch.ones(2)).backward()
    assert torch.isfinite(logits.grad).all()


def test_tasks_add_up_by_their_weights_and_rows_without_a_label_do_not_count() -> None:
    heads = [TaskHead(), TaskHead(weight=0.25), TaskHead(is_rating=True, mean=3.0, std=1.5, weight=2.0)]
    logits = torch.randn(16, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    labels = torch.stack([torch.arange(16) % 2, torch.arange(16) % 3 // 2, torch.arange(16) % 5 + 1.0], 1)
    labels[2:5, 1] = torch.nan
    labels[7:, 2] = torch.nan
    weights = torch.rand(16, generator=torch.Generator().manual_seed(2))
    loss = PointwiseLoss(LossConfig(), heads)(logits, labels, weights)
    z, y, w = logits.detach().double().numpy(), labels.double().numpy(), weights.double().numpy()
    p = 1 / (1 + np.exp(-z))
    known = np.ones(16, bool)
    first = (w * _entropy(p[:, 0], y[:, 0])).sum()
    known[2:5] = False
    second = (w * _entropy(p[:, 1], y[:, 1]))[known].sum()
    third = (w * ((3.0 + 1.5 * z[:, 2] - y[:, 2]) / 1.5) ** 2)[:7].sum()
    assert loss.item() == pytest.approx((first + 0.25 * second + 2.0 * third) / 16, rel=1e-5)
    loss.backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[2:5, 1] == 0).all()
    assert (logits.grad[7:, 2] == 0).all()


def test_large_errors_of_ratings_count_linearly_where_asked() -> None:
    head = TaskHead(is_rating=True, mean=10.0, std=2.0)
    labels = torch.tensor([[10.0], [12.0], [18.0]])  # 0, 1 and 4 deviations from what is predicted
    outputs, weights = torch.zeros(3, 1), torch.ones(3)
    squared = PointwiseLoss(LossConfig(), [head])(outputs, labels, weights)
    assert squared.item() == pytest.approx((0 + 1 + 16) / 3)
    huber = PointwiseLoss(LossConfig(huber_delta=1.5), [head])(outputs, labels, weights)
    assert huber.item() == pytest.approx((0 + 1 + 2 * 1.5 * 4 - 1.5**2) / 3)
