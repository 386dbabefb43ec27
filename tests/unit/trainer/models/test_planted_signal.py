"""Every CTR model finds most of a signal that was planted, and none has more than there is."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.trainer.models.examples import (
    NUM_EMBEDDINGS,
    POINTWISE,
    fill_tables,
    full_inputs,
    random_batch,
)
from trainer.batch import Batch
from trainer.config import ModelConfig
from trainer.metrics import binary_metrics
from trainer.registry import build_model, model_section
from trainer.tasks import TrainingTask

ROWS = 512
STEPS = 200
HELD_OUT_ROWS = 8_192


@cache
def _planted(seed: int, rows: int = ROWS) -> tuple[Batch, Tensor]:
    """Return rows and their true logits: a weight for each id, one product of two ids, one dense feature."""
    batch = random_batch(full_inputs(), rows, seed)
    truth = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(NUM_EMBEDDINGS, generator=truth) for name in ("s0", "s1")}
    factors = {name: torch.randn(NUM_EMBEDDINGS, 2, generator=truth) for name in ("s0", "s1")}
    ids = {name: batch.sparse[name].values() for name in ("s0", "s1")}
    logits_B = sum(weights[name][ids[name]] for name in ids) + batch.dense_BF[:, 0]
    logits_B = logits_B + (factors["s0"][ids["s0"]] * factors["s1"][ids["s1"]]).sum(dim=1)
    draws = torch.rand(rows, generator=torch.Generator().manual_seed(seed + 100))
    return replace(batch, labels_BT=(draws < logits_B.sigmoid()).float().unsqueeze(1)), logits_B


def _auc(logits_B: Tensor, batch: Batch) -> float:
    labels_B = batch.labels_BT[:, 0].double().numpy()
    return binary_metrics(logits_B.double().numpy(), labels_B, np.ones(batch.size))["auc"]


@pytest.mark.parametrize("name", POINTWISE)
def test_a_model_comes_near_the_best_auc_there_is(name: str) -> None:
    section = model_section(ModelConfig(name=name, embedding_dim=8))
    torch.manual_seed(0)
    model = build_model(section.completed(full_inputs()), section)
    fill_tables(model, scale=0.05)
    task, (held_out, truth_B) = TrainingTask(model), _planted(STEPS, HELD_OUT_ROWS)
    best = _auc(truth_B, held_out)
    assert best > 0.8
    optimizer = torch.optim.Adam(task.parameters(), lr=0.01)
    losses = []
    for step in range(STEPS):  # every row is seen once, so that there is nothing to learn by heart
        optimizer.zero_grad()
        loss, _ = task(_planted(step)[0])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-20:]) < np.mean(losses[:5]) - 0.08
    with torch.no_grad():
        auc = _auc(task.eval()(held_out)[1][1][:, 0], held_out)
    assert best - 0.05 < auc < best + 0.002
