from __future__ import annotations

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import JaggedTensor

from trainer.modules.sequence_pooling import SequencePooling, sequence_pooling

LENGTHS = [2, 0, 1, 4]


def _jagged(lengths: list[int], dtype: torch.dtype = torch.int64) -> JaggedTensor:
    torch.manual_seed(0)
    values = torch.randn(sum(lengths), 5, requires_grad=True)
    return JaggedTensor(values=values, lengths=torch.tensor(lengths, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_attention_equals_a_softmax_per_sequence(dtype: torch.dtype) -> None:
    jagged = _jagged(LENGTHS, dtype)
    pooling = sequence_pooling("attention", 5)
    w = {key: value.numpy() for key, value in pooling.state_dict().items()}
    start, expected = 0, []
    for length in LENGTHS:
        items = jagged.values().detach().numpy()[start : start + length]
        start += length
        scores = np.exp(np.tanh(items @ w["hidden.weight"].T + w["hidden.bias"]) @ w["query.weight"][0])
        expected.append(items.T @ (scores / scores.sum()) if length else np.zeros(5))
    assert np.allclose(pooling(jagged).detach().numpy(), np.stack(expected), atol=1e-6)


def test_mean_equals_numpy() -> None:
    jagged = _jagged(LENGTHS)
    values = jagged.values().detach().numpy()
    expected = [values[:2].mean(axis=0), np.zeros(5), values[2], values[3:].mean(axis=0)]
    assert np.allclose(sequence_pooling("mean", 5)(jagged).detach().numpy(), np.stack(expected), atol=1e-6)


@pytest.mark.parametrize("kind", ["attention", "mean"])
def test_batch_of_empty_sequences_gives_zeros_and_finite_gradients(kind: SequencePooling) -> None:
    pooling, jagged = sequence_pooling(kind, 5), _jagged([0, 0, 0])
    output = pooling(jagged)
    assert torch.equal(output, torch.zeros(3, 5))
    output.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in pooling.parameters() if p.grad is not None)


def test_one_item_comes_out_as_it_is() -> None:
    jagged = _jagged([1, 1])
    assert torch.allclose(sequence_pooling("attention", 5)(jagged), jagged.values())


def test_huge_scores_stay_finite() -> None:
    pooling, jagged = sequence_pooling("attention", 5), _jagged(LENGTHS)
    pooling.query.weight.data.fill_(1e4)
    output = pooling(jagged)
    output.sum().backward()
    assert torch.isfinite(output).all()
    assert torch.isfinite(jagged.values().grad).all()


def test_gradients_equal_finite_differences() -> None:
    pooling, jagged = sequence_pooling("attention", 5), _jagged(LENGTHS)
    jagged_values, weights = jagged.values(), torch.randn(4, 5)

    def total(values: torch.Tensor) -> torch.Tensor:
        return (pooling(JaggedTensor(values=values, lengths=jagged.lengths())) * weights).sum()

    total(jagged_values).backward()
    for row, column in [(0, 0), (2, 3), (5, 1)]:
        step = torch.zeros_like(jagged_values)
        step[row, column] = 1e-2  # float32: a smaller step drowns in rounding
        with torch.no_grad():
            slope = (total(jagged_values + step) - total(jagged_values - step)) / 2e-2
        assert abs(slope - jagged_values.grad[row, column]) < 1e-2
