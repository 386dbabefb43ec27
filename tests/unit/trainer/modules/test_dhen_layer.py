from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from trainer.modules.dhen_layer import DhenLayer, Ensemble, EnsembleName, LayerNormName
from trainer.modules.interactions import LinearInteraction

B, D = 3, 4


def _norm(x: np.ndarray, layer: DhenLayer) -> np.ndarray:
    if isinstance(layer.norm, nn.Identity):
        return x
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + layer.norm.eps)
    return scaled * layer.norm.weight.detach().numpy() + layer.norm.bias.detach().numpy()


@pytest.mark.parametrize("ensemble", ["concat", "sum", "weighted_sum"])
@pytest.mark.parametrize("num_inputs", [2, 4, 5])
@pytest.mark.parametrize("norm", ["layer", "none"])
def test_layer_is_norm_of_ensemble_plus_shortcut(
    ensemble: EnsembleName, num_inputs: int, norm: LayerNormName
) -> None:
    torch.manual_seed(0)
    width = 4 if ensemble == "concat" else 2
    modules = [LinearInteraction(num_inputs, 2), LinearInteraction(num_inputs, 2)]
    layer = DhenLayer(modules, ensemble, num_inputs, width, D, norm)
    assert isinstance(layer.norm, nn.LayerNorm) == (norm == "layer")
    for parameter in [*layer.norm.parameters(), *layer.ensemble.parameters()]:
        nn.init.normal_(parameter)
    x_tensor = torch.randn(B, num_inputs, D)
    x = x_tensor.numpy()
    outputs = [np.einsum("lm,bmd->bld", module.mix.weight.detach().numpy(), x) for module in modules]
    if ensemble == "concat":
        joined = np.concatenate(outputs, axis=1)
    elif ensemble == "sum":
        joined = outputs[0] + outputs[1]
    else:
        weights = layer.ensemble.weights_K.detach().numpy()
        joined = weights[0] * outputs[0] + weights[1] * outputs[1]
    if num_inputs == width:
        assert isinstance(layer.shortcut, nn.Identity)
        shortcut = x
    else:
        shortcut = np.einsum("lm,bmd->bld", layer.shortcut.mix.weight.detach().numpy(), x)
    expected = _norm(joined + shortcut, layer)
    assert np.allclose(layer(x_tensor).detach().numpy(), expected, atol=1e-5)


def test_weighted_sum_starts_as_the_sum() -> None:
    outputs = [torch.randn(B, 2, D) for _ in range(3)]
    weighted = Ensemble("weighted_sum", 3)
    assert torch.allclose(weighted(outputs), Ensemble("sum", 3)(outputs))
    assert weighted.weights_K.requires_grad


def test_concat_joins_different_numbers_of_vectors_in_order() -> None:
    first, second = torch.randn(B, 1, D), torch.randn(B, 3, D)
    joined = Ensemble("concat", 2)([first, second])
    assert torch.equal(joined[:, :1], first)
    assert torch.equal(joined[:, 1:], second)
