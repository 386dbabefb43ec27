"""LAMB against its paper's algorithm, written out in float64 with NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from trainer.lamb import Lamb

RATE, BETAS, EPS = 0.1, (0.8, 0.9), 1e-3


def written_out(weight: np.ndarray, gradients: list[np.ndarray], decay: float) -> np.ndarray:
    """You et al. 2020, algorithm 2."""
    mean, square = np.zeros_like(weight), np.zeros_like(weight)
    for number, gradient in enumerate(gradients, start=1):
        mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
        square = BETAS[1] * square + (1 - BETAS[1]) * gradient**2
        step = mean / (1 - BETAS[0] ** number) / (np.sqrt(square / (1 - BETAS[1] ** number)) + EPS)
        step = step + decay * weight
        norms = np.linalg.norm(weight), np.linalg.norm(step)
        weight = weight - RATE * (norms[0] / norms[1] if all(norms) else 1.0) * step
    return weight


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_steps_are_those_of_the_paper(decay: float) -> None:
    rng = np.random.default_rng(0)
    # Weights of zeros have no norm, and so a plain step at first.
    start = {"matrix": rng.standard_normal((3, 4)), "bias": np.zeros(3)}
    gradients = {name: [rng.standard_normal(w.shape) for _ in range(4)] for name, w in start.items()}
    weights = {name: nn.Parameter(torch.tensor(w)) for name, w in start.items()}
    optimizer = Lamb(weights.values(), lr=RATE, betas=BETAS, eps=EPS, weight_decay=decay)
    for step in range(4):
        for name, weight in weights.items():
            weight.grad = torch.tensor(gradients[name][step])
        optimizer.step()
    for name, weight in weights.items():
        expected = written_out(start[name], gradients[name], decay)
        np.testing.assert_allclose(weight.detach().numpy(), expected, atol=1e-6)


def test_a_gradient_of_zeros_moves_nothing_and_makes_the_state() -> None:
    weight, frozen = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    weight.grad = torch.zeros(2)
    optimizer = Lamb([weight, frozen])
    optimizer.step()
    assert weight.tolist() == frozen.tolist() == [1.0, 1.0]
    assert optimizer.state[weight].keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert frozen not in optimizer.state
