"""The learning-rate factor and the clipping of gradients, against updates worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchrec.optim.keyed import KeyedOptimizerWrapper

from trainer.config import DenseOptimizerConfig
from trainer.optimizers import Optimizers


def optimizers(dense: nn.Parameter, table: nn.Parameter, rate: float = 0.5) -> Optimizers:
    tables = KeyedOptimizerWrapper({"table": table}, lambda p: torch.optim.SGD(p, lr=0.1))
    return Optimizers(tables, {"dense": dense}, DenseOptimizerConfig(name="sgd", learning_rate=rate))


def step(
    both: Optimizers, dense: nn.Parameter, table: nn.Parameter, factor: float, norm: float | None
) -> None:
    both.begin_step(factor)
    (3.0 * dense.sum() + 2.0 * table.sum()).backward()
    both.end_step(norm)


def test_the_factor_scales_the_rate_of_dense_part_and_tables() -> None:
    dense, table = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(2, 3))
    both = optimizers(dense, table)
    for factor, moved in ((1.0, 1.0), (0.25, 1.25), (0.0, 1.25)):
        step(both, dense, table, factor, None)
        assert dense.detach().tolist() == pytest.approx([-0.5 * 3.0 * moved] * 4)
        assert table.detach().flatten().tolist() == pytest.approx([-0.1 * 2.0 * moved] * 6)


def test_clipping_takes_the_norm_of_the_dense_gradients_only() -> None:
    dense, table = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(2, 3))
    step(optimizers(dense, table, rate=1.0), dense, table, 1.0, norm=1.5)
    # Gradient (3, 3, 3, 3) of norm 6, clipped to norm 1.5.
    assert dense.detach().tolist() == pytest.approx([-0.75] * 4, rel=1e-5)
    assert table.detach().flatten().tolist() == pytest.approx([-0.2] * 6)


def test_a_norm_below_the_limit_is_left_alone() -> None:
    dense, table = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(2, 3))
    step(optimizers(dense, table, rate=1.0), dense, table, 1.0, norm=100.0)
    assert dense.detach().tolist() == pytest.approx([-3.0] * 4)
