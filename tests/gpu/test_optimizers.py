"""The first step of every table optimizer, against its formula and the gradient that SGD on CPU tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs import Cluster, Dataset, RunConfig, train
from sharding.weights import uniform_block
from trainer.stored_tensors import StoredTensors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]

DEVICE = "cuda"
RATE, EPS, DECAY = 0.1, 1e-4, 0.05
Formula = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _adam(weight_RD: np.ndarray, gradient_RD: np.ndarray, decay: float = 0.0) -> np.ndarray:
    # The corrected moments of the first step are the gradient and its square.
    return weight_RD - RATE * (gradient_RD / (np.abs(gradient_RD) + EPS) + decay * weight_RD)


def _rowwise_adam(weight_RD: np.ndarray, gradient_RD: np.ndarray) -> np.ndarray:
    root_R1 = np.sqrt((gradient_RD**2).mean(axis=1, keepdims=True)) + EPS
    return weight_RD - RATE * (gradient_RD / root_R1 + DECAY * weight_RD)


def _lamb(weight_RD: np.ndarray, gradient_RD: np.ndarray) -> np.ndarray:
    step_RD = gradient_RD / (np.abs(gradient_RD) + EPS) + DECAY * weight_RD
    norms = (np.linalg.norm(each, axis=1, keepdims=True) for each in (weight_RD, step_RD))
    return weight_RD - RATE * next(norms) / next(norms) * step_RD


def _rowwise_adagrad(weight_RD: np.ndarray, gradient_RD: np.ndarray) -> np.ndarray:
    gradient_RD = gradient_RD + DECAY * weight_RD
    return weight_RD - RATE * gradient_RD / (np.sqrt((gradient_RD**2).mean(axis=1, keepdims=True)) + EPS)


FORMULAS: dict[str, tuple[float, Formula]] = {
    "sgd": (0.0, lambda w, g: w - RATE * g),
    "adagrad": (0.0, _adam),
    "adam": (0.0, _adam),
    "adamw": (DECAY, lambda w, g: _adam(w, g, DECAY)),
    "partial_rowwise_adam": (DECAY, _rowwise_adam),
    "lamb": (DECAY, _lamb),
    "rowwise_adagrad": (DECAY, _rowwise_adagrad),
}


def first_step(run: RunConfig, data: Dataset, device: str, out: Path, optimizer: str) -> np.ndarray:
    """Return the weights of a table after a step."""
    run = run.override("train.max_steps=1", f"train.embedding_optimizer={optimizer}")
    result = train(run, data, Cluster.local(1, device=device), out=out, show_progress=False)  # type: ignore[arg-type]
    stored = StoredTensors(result.path / "checkpoints" / "step_00000001")
    (name,) = (name for name in stored.places if name.startswith("model.") and ".m0.weight" in name)
    return stored.read(name).double().numpy()


@pytest.mark.parametrize("name", FORMULAS)
def test_the_first_step_is_that_of_the_formula(
    run: RunConfig, data: Dataset, tmp_path: Path, name: str
) -> None:
    decay, formula = FORMULAS[name]
    start = uniform_block(run.seed, "m0", range(50), range(8), table_shape=(50, 8)).double().numpy()
    # A large rate, so that little of the gradient is rounded away.
    gradient = start - first_step(run, data, "cpu", tmp_path / "told", "{name: sgd, learning_rate: 1000.0}")
    gradient /= 1000.0
    settings = f"{{name: {name}, learning_rate: {RATE}, eps: {EPS}, weight_decay: {decay}}}"
    found = first_step(run, data, DEVICE, tmp_path / name, settings)
    touched = (gradient != 0).any(axis=1)
    assert 5 < touched.sum() < 50
    np.testing.assert_array_equal(found[~touched], start[~touched])
    np.testing.assert_allclose(found[touched], formula(start, gradient)[touched], atol=1e-3 * RATE)
