"""The bound of the norm of a unit's weights, against norms worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.errors import ConfigError
from trainer.max_norm import MaxNorm


def test_long_units_are_scaled_to_the_bound_and_short_ones_stay() -> None:
    layer = nn.Linear(2, 3)
    layer.weight.data = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    layer.bias.data.fill_(7.0)
    MaxNorm(nn.Sequential(nn.LayerNorm(2), layer), 1.0).apply()
    assert layer.weight.flatten().tolist() == pytest.approx([0.6, 0.8, 0.3, 0.4, 0.0, 0.0])
    assert layer.bias.tolist() == [7.0] * 3


def test_a_kernel_is_a_unit() -> None:
    layer = nn.Conv2d(1, 2, 2, bias=False)
    layer.weight.data = torch.tensor([[[[1.0, 1.0], [1.0, 1.0]]], [[[0.1, 0.0], [0.0, 0.0]]]])
    MaxNorm(layer, 0.5).apply()
    assert layer.weight.flatten().tolist() == pytest.approx([0.25] * 4 + [0.1, 0.0, 0.0, 0.0])


def test_frozen_layers_and_other_modules_stay() -> None:
    frozen, norm, recurrent = nn.Linear(2, 2), nn.LayerNorm(4), nn.GRU(2, 2)
    frozen.weight.requires_grad_(False)
    model = nn.ModuleList([frozen, norm, recurrent])
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    MaxNorm(model, 1e-3).apply()
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]), name


@pytest.mark.parametrize("dims", [{}, {"kdim": 3, "vdim": 5}], ids=str)
def test_projections_of_attention_are_bounded(dims: dict[str, int]) -> None:
    attention = nn.MultiheadAttention(4, 2, **dims)
    MaxNorm(attention, 0.1).apply()
    matrices = {name: weight for name, weight in attention.named_parameters() if weight.ndim == 2}
    assert len(matrices) == (4 if dims else 2)
    for name, weight in matrices.items():
        assert weight.norm(dim=1).tolist() == pytest.approx([0.1] * len(weight), abs=1e-6), name


def test_a_model_of_tables_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="no layer"):
        MaxNorm(nn.EmbeddingBag(4, 2), 1.0)
