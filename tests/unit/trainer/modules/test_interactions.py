"""Each interaction module against its formula in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from trainer.modules.interactions import (
    AttentionConfig,
    ConvolutionConfig,
    CrossConfig,
    DotConfig,
    InteractionsConfig,
    build_interaction,
)

M, D, L, B = 5, 6, 3, 4


def _run(module: nn.Module) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return input, output and weights, biases made random first so that none hides at zero."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(B, M, D)
    output = module(x).detach().numpy()
    assert output.shape == (B, L, D)
    return x.numpy(), output, {key: value.numpy() for key, value in module.state_dict().items()}


def test_linear_mixes_vectors() -> None:
    x, output, w = _run(build_interaction("linear", M, D, L, InteractionsConfig()))
    for row in range(B):
        assert np.allclose(output[row], w["mix.weight"] @ x[row], atol=1e-5)


@pytest.mark.parametrize("sizes", [[], [7], [7, 8]])
def test_dot_takes_every_pair_through_the_layers(sizes: list[int]) -> None:
    config = InteractionsConfig(dot=DotConfig(layer_sizes=sizes))
    x, output, w = _run(build_interaction("dot", M, D, L, config))
    for row in range(B):
        hidden = np.array([x[row, i] @ x[row, j] for i in range(M) for j in range(i, M)])
        for layer in range(len(sizes)):
            key = f"hidden._mlp.{layer}._linear"
            hidden = np.maximum(w[f"{key}.weight"] @ hidden + w[f"{key}.bias"], 0)
        expected = (w["output.weight"] @ hidden + w["output.bias"]).reshape(L, D)
        assert np.allclose(output[row], expected, atol=1e-4)


def test_convolution_slides_kernels_over_the_matrix() -> None:
    config = InteractionsConfig(convolution=ConvolutionConfig(kernel_size=3, channels=2))
    x, output, w = _run(build_interaction("convolution", M, D, L, config))
    for row in range(B):
        padded = np.pad(x[row], 1)
        picture = np.zeros((2, M, D))
        for c in range(2):
            for i in range(M):
                for j in range(D):
                    window = padded[i : i + 3, j : j + 3]
                    picture[c, i, j] = (w["convolution.weight"][c, 0] * window).sum() + w["convolution.bias"][
                        c
                    ]
        expected = w["output.mix.weight"] @ picture.reshape(2 * M, D)
        assert np.allclose(output[row], expected, atol=1e-4)


def test_cross_multiplies_all_numbers_with_their_weighted_sums() -> None:
    config = InteractionsConfig(cross=CrossConfig(rank=4))
    x, output, w = _run(build_interaction("cross", M, D, L, config))
    for row in range(B):
        flat = x[row].reshape(-1)
        crossed = flat * (w["u.weight"] @ (w["v.weight"] @ flat)) + w["bias_N"]
        assert np.allclose(output[row], w["output.mix.weight"] @ crossed.reshape(M, D), atol=1e-4)


def test_cross_holds_the_first_cross_network_as_a_special_case() -> None:
    module = build_interaction("cross", M, D, M, InteractionsConfig(cross=CrossConfig(rank=1)))
    nn.init.ones_(module.u.weight)
    nn.init.eye_(module.output.mix.weight)
    x = torch.randn(1, M, D)
    outer = torch.outer(x.reshape(-1), x.reshape(-1))
    assert torch.allclose(module(x).reshape(-1), outer @ module.v.weight[0], atol=1e-5)


def _layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * weight + bias


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_a_transformer_encoder_layer(heads: int) -> None:
    config = InteractionsConfig(attention=AttentionConfig(num_heads=heads, feedforward_dim=9))
    x, output, w = _run(build_interaction("attention", M, D, L, config))
    e = {key.removeprefix("encoder."): value for key, value in w.items()}
    width = D // heads
    for row in range(B):
        q, k, v = np.split(x[row] @ e["self_attn.in_proj_weight"].T + e["self_attn.in_proj_bias"], 3, axis=1)
        parts = []
        for head in range(heads):
            s = slice(head * width, (head + 1) * width)
            scores = np.exp(q[:, s] @ k[:, s].T / np.sqrt(width))
            parts.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, s])
        mixed = (
            np.concatenate(parts, axis=1) @ e["self_attn.out_proj.weight"].T + e["self_attn.out_proj.bias"]
        )
        y = _layer_norm(x[row] + mixed, e["norm1.weight"], e["norm1.bias"])
        hidden = np.maximum(y @ e["linear1.weight"].T + e["linear1.bias"], 0)
        y = _layer_norm(
            y + hidden @ e["linear2.weight"].T + e["linear2.bias"], e["norm2.weight"], e["norm2.bias"]
        )
        assert np.allclose(output[row], w["output.mix.weight"] @ y, atol=1e-4)


def test_attention_gives_the_same_in_evaluation() -> None:
    module = build_interaction("attention", M, D, L, InteractionsConfig())
    x = torch.randn(B, M, D)
    trained = module(x)
    with torch.no_grad():
        assert torch.allclose(module.eval()(x), trained, atol=1e-5)


def test_even_kernel_is_refused() -> None:
    with pytest.raises(ValidationError, match="must be odd"):
        ConvolutionConfig(kernel_size=4)
