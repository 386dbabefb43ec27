"""DCN, the mixture of DCN-v2, FinalMLP, MaskNet and Wukong, against their formulas written out in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tests.unit.trainer.models.examples import example_model, pooled_inputs, random_batch
from trainer.errors import ConfigError
from trainer.models.final_mlp import BilinearFusion

Array = NDArray[np.float64]
INPUTS = pooled_inputs(dim=4)
ROWS = 5


def _built(name: str, **keys: Any) -> tuple[nn.Module, dict[str, Array]]:
    model = example_model(name, INPUTS, embedding_dim=4, **keys)
    torch.manual_seed(3)
    for key, parameter in model.named_parameters():
        if "embedding_bag" not in key:
            nn.init.normal_(parameter, std=0.4)
    return model, {key: value.double().numpy() for key, value in model.state_dict().items()}


def _vectors(state: dict[str, Array], batch: Any) -> Array:
    """Return the vectors of s0 and s1, [B, 2, 4]."""
    bags = "sparse_arch.embedding_bag_collection.embedding_bags"
    ids = batch.sparse.to_dict()
    return np.stack(
        [state[f"{bags}.{name}.weight"][ids[name].values().numpy()] for name in ("s0", "s1")], axis=1
    )


def _linear(state: dict[str, Array], name: str, x: Array) -> Array:
    return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", np.zeros(1))


def _norm(x: Array) -> Array:
    variance = ((x - x.mean(-1, keepdims=True)) ** 2).mean(-1, keepdims=True)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + 1e-5)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _close(model: nn.Module, batch: Any, expected: Array) -> bool:
    return np.allclose(model(batch).detach().numpy(), expected, rtol=1e-3, atol=1e-3)


def test_dcn_crosses_with_one_vector_for_each_layer() -> None:
    model, state = _built("dcn", deep_layer_sizes=[6])
    batch = random_batch(INPUTS, ROWS)
    x0 = np.concatenate([_vectors(state, batch).reshape(ROWS, -1), batch.dense_BF.numpy()], axis=1)
    x = x0
    for layer in range(3):
        w, b = state[f"cross_net.kernels.{layer}"], state[f"cross_net.bias.{layer}"]
        x = np.stack([x0[r] * float(x[r] @ w[:, 0]) + b[:, 0] + x[r] for r in range(ROWS)])
    deep = np.maximum(_linear(state, "deep._mlp.0._linear", x0), 0)
    assert _close(model, batch, _linear(state, "over_arch.logits", np.concatenate([x, deep], axis=1)))


def test_dcn_v2_mixes_experts_by_a_gate() -> None:
    model, state = _built("dcn_v2", low_rank_dim=3, num_experts=2, num_cross_layers=2, deep_layer_sizes=[])
    batch = random_batch(INPUTS, ROWS)
    x0 = np.concatenate([_vectors(state, batch).reshape(ROWS, -1), batch.dense_BF.numpy()], axis=1)
    x = x0
    for layer in range(2):
        u, v, c = (state[f"cross_net.{name}_kernels.{layer}"] for name in "UVC")
        gates = np.concatenate([_linear(state, f"cross_net.gates.{e}", x) for e in range(2)], axis=1)
        shares = np.exp(gates) / np.exp(gates).sum(axis=1, keepdims=True)
        experts = [
            x0 * (np.tanh(np.tanh(x @ v[e].T) @ c[e].T) @ u[e].T + state[f"cross_net.bias.{layer}"][:, 0])
            for e in range(2)
        ]
        x = x + sum(shares[:, e : e + 1] * experts[e] for e in range(2))
    assert _close(model, batch, _linear(state, "over_arch.logits", x))


def test_experts_need_a_low_rank() -> None:
    with pytest.raises(ConfigError, match="low rank"):
        example_model("dcn_v2", INPUTS, num_experts=2)


@pytest.mark.parametrize("features", [None, ["s1"]])
def test_final_mlp_joins_two_gated_networks_by_a_bilinear_form(features: list[str] | None) -> None:
    keys = {"first": {"layer_sizes": [6], "gate_features": features}, "second": {"layer_sizes": [4]}}
    model, state = _built("final_mlp", **keys, gate_layer_sizes=[5], num_heads=2)
    batch = random_batch(INPUTS, ROWS)
    vectors = _vectors(state, batch)
    x = np.concatenate([vectors.reshape(ROWS, -1), batch.dense_BF.numpy()], axis=1)
    if features is None:
        first_gate = state["gates.0.constant_N"]
    else:
        hidden = np.maximum(_linear(state, "gates.0.network.0._mlp.0._linear", vectors[:, 1]), 0)
        first_gate = _linear(state, "gates.0.network.1", hidden)
    seen = [x * 2 * _sigmoid(first_gate), x * 2 * _sigmoid(state["gates.1.constant_N"])]
    outputs = [
        np.maximum(_linear(state, f"{name}._mlp.0._linear", x_BN), 0)
        for name, x_BN in zip(("first", "second"), seen, strict=True)
    ]
    expected = _linear(state, "fusion.linear", np.concatenate(outputs, axis=1))
    products = state["fusion.products_HXY"]
    for row in range(ROWS):
        for head in range(2):
            first, second = outputs[0][row].reshape(2, 3)[head], outputs[1][row].reshape(2, 2)[head]
            expected[row] += first @ products[head] @ second
    assert _close(model, batch, expected)


def test_heads_of_final_mlp_divide_both_networks() -> None:
    with pytest.raises(ConfigError, match="heads"):
        BilinearFusion(6, 4, 4)


def _mask_block(state: dict[str, Array], name: str, features: Array, x: Array) -> Array:
    mask = _linear(state, f"{name}.mask.2", np.maximum(_linear(state, f"{name}.mask.0", features), 0))
    hidden = _norm(_linear(state, f"{name}.output.0", mask * x))
    return np.maximum(hidden * state[f"{name}.output.1.weight"] + state[f"{name}.output.1.bias"], 0)


@pytest.mark.parametrize("structure", ["serial", "parallel"])
def test_mask_net_multiplies_by_masks_of_the_rows_own_features(structure: str) -> None:
    model, state = _built(
        "mask_net", structure=structure, num_blocks=2, block_size=6, over_arch_layer_sizes=[5]
    )
    batch = random_batch(INPUTS, ROWS)
    vectors, dense = _vectors(state, batch), batch.dense_BF.double().numpy()
    features = np.concatenate([vectors.reshape(ROWS, -1), dense], axis=1)
    normed = _norm(vectors) * state["norm.scale_FD"] + state["norm.shift_FD"]
    x = np.concatenate([normed.reshape(ROWS, -1), dense], axis=1)
    if structure == "serial":
        for block in range(2):
            x = _mask_block(state, f"blocks.{block}", features, x)
    else:
        x = np.concatenate([_mask_block(state, f"blocks.{b}", features, x) for b in range(2)], axis=1)
        x = np.maximum(_linear(state, "over_arch.hidden._mlp.0._linear", x), 0)
    assert _close(model, batch, _linear(state, "over_arch.logits", x))


def test_wukong_stacks_factorization_machines() -> None:
    sizes = {"num_fm_vectors": 2, "num_linear_vectors": 3, "fm_rank": 2, "fm_layer_sizes": [6]}
    model, state = _built(
        "wukong", **sizes, dense_arch_layer_sizes=[5], over_arch_layer_sizes=[], num_dense_vectors=2
    )
    batch = random_batch(INPUTS, ROWS)
    dense = batch.dense_BF.double().numpy()
    for layer in range(2):
        dense = np.maximum(_linear(state, f"dense_arch.model._mlp.{layer}._linear", dense), 0)
    x = np.concatenate([dense.reshape(ROWS, 2, 4), _vectors(state, batch)], axis=1)
    for layer in range(2):
        name = f"layers.{layer}"
        products = (x @ x.transpose(0, 2, 1)) @ state[f"{name}.projection.weight"].T
        flat = _norm(products.reshape(ROWS, -1)) * state[f"{name}.fm.0.weight"] + state[f"{name}.fm.0.bias"]
        hidden = np.maximum(_linear(state, f"{name}.fm.1._mlp.0._linear", flat), 0)
        fm = _linear(state, f"{name}.fm.2", hidden).reshape(ROWS, 2, 4)
        linear = state[f"{name}.linear.mix.weight"] @ x
        shortcut = x if layer else state[f"{name}.shortcut.mix.weight"] @ x
        summed = np.concatenate([fm, linear], axis=1) + shortcut
        x = _norm(summed) * state[f"{name}.norm.weight"] + state[f"{name}.norm.bias"]
    assert _close(model, batch, _linear(state, "over_arch.logits", x.reshape(ROWS, -1)))


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_hidden_units_are_normalised_before_their_relu(norm: str) -> None:
    model, state = _built("deep_fm", norm=norm, deep_layer_sizes=[6])
    batch = random_batch(INPUTS, 50)
    seen: list[Any] = []
    model.deep.hidden[0][1].register_forward_hook(
        lambda module, inputs, output: seen.extend([inputs[0], output])
    )
    model(batch)
    before, after = (x.detach().double().numpy() for x in seen)
    axis = 0 if norm == "batch" else 1
    variance = before.var(axis=axis, keepdims=True)
    normed = (before - before.mean(axis=axis, keepdims=True)) / np.sqrt(variance + 1e-5)
    scale, shift = ("scale_N", "shift_N") if norm == "batch" else ("weight", "bias")
    name = "deep.hidden.0.1"
    assert np.allclose(after, normed * state[f"{name}.{scale}"] + state[f"{name}.{shift}"], atol=1e-4)
