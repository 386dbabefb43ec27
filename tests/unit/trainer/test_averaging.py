"""The moving average of weights; the ranks' parts of it are in tests/distributed/test_dense_layouts.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.averaging import DenseAverage


def test_early_steps_forget_the_initial_weights_and_later_ones_keep_the_decay() -> None:
    weight = torch.zeros(1)
    average = DenseAverage(nn.Module(), {"w": weight}, decay=0.3)
    expected = 0.0
    for step in range(6):
        weight += 1.0
        average.update(step)
        kept = min(0.3, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * (step + 1)
        assert average.averages["w"].item() == pytest.approx(expected)
    assert kept == 0.3


def test_the_model_has_its_weights_again_after_the_averages() -> None:
    weight = torch.tensor([1.0, 2.0])
    average = DenseAverage(nn.Module(), {"w": weight}, decay=0.5)
    weight += 3.0
    with average.in_place():
        assert weight.tolist() == [1.0, 2.0]
    assert weight.tolist() == [4.0, 5.0]
    with pytest.raises(ZeroDivisionError), average.in_place():
        _ = 1 / 0
    assert weight.tolist() == [4.0, 5.0]
    average.restart()
    assert average.averages["w"].tolist() == [4.0, 5.0]
