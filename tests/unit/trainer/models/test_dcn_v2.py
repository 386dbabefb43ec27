from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.trainer.models.examples import example_model, random_batch, table
from trainer.registry import ModelInputs

INPUTS = ModelInputs(2, ("s0", "s1"), (table("s0", ["s0"], 4), table("s1", ["s1"], 6)))
WIDTH = 4 + 6 + 2


def _cross(state: dict[str, np.ndarray], x0: np.ndarray, layers: int, low_rank: bool) -> np.ndarray:
    x = x0
    for layer in range(layers):
        if low_rank:
            weight = state[f"cross_net.W_kernels.{layer}"] @ state[f"cross_net.V_kernels.{layer}"]
        else:
            weight = state[f"cross_net.kernels.{layer}"]
        x = x0 * (x @ weight.T + state[f"cross_net.bias.{layer}"].reshape(-1)) + x
    return x


def _deep(state: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    for layer in range(2):
        x = x @ state[f"deep._mlp.{layer}._linear.weight"].T + state[f"deep._mlp.{layer}._linear.bias"]
        x = np.maximum(x, 0)
    return x


@pytest.mark.parametrize("low_rank_dim", [None, 3])
@pytest.mark.parametrize("structure", ["stacked", "parallel"])
def test_logits_equal_the_papers_formulas(low_rank_dim: int | None, structure: str) -> None:
    model = example_model(
        "dcn_v2", INPUTS, low_rank_dim=low_rank_dim, structure=structure, deep_layer_sizes=[9, 5]
    )
    for key, parameter in model.named_parameters():
        if "bias" in key:
            torch.nn.init.normal_(parameter)
    batch = random_batch(INPUTS, 6)
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    ids = batch.sparse.to_dict()
    bags = "sparse_arch.embedding_bag_collection.embedding_bags"
    vectors = [state[f"{bags}.{name}.weight"][ids[name].values().numpy()] for name in ("s0", "s1")]
    x0 = np.concatenate([*vectors, batch.dense_BF.numpy()], axis=1)
    crossed = _cross(state, x0, 3, low_rank_dim is not None)
    if structure == "stacked":
        last = _deep(state, crossed)
    else:
        last = np.concatenate([crossed, _deep(state, x0)], axis=1)
    expected = last @ state["over_arch.logits.weight"].T + state["over_arch.logits.bias"]
    assert np.allclose(model(batch).detach().numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("structure", ["stacked", "parallel"])
def test_without_deep_layers_the_cross_network_stands_alone(structure: str) -> None:
    model = example_model("dcn_v2", INPUTS, structure=structure, deep_layer_sizes=[])
    assert model.over_arch.logits.in_features == WIDTH
    assert model(random_batch(INPUTS, 3)).shape == (3, 1)


def test_number_of_cross_parameters_follows_the_formula() -> None:
    full = example_model("dcn_v2", INPUTS, num_cross_layers=2).cross_net
    low = example_model("dcn_v2", INPUTS, num_cross_layers=2, low_rank_dim=3).cross_net
    assert sum(p.numel() for p in full.parameters()) == 2 * (WIDTH * WIDTH + WIDTH)
    assert sum(p.numel() for p in low.parameters()) == 2 * (2 * WIDTH * 3 + WIDTH)
