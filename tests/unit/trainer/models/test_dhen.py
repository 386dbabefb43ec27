from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import layer_norm

from tests.unit.trainer.models.examples import example_model, full_inputs, pooled_inputs, random_batch
from trainer.config import ModelConfig
from trainer.errors import ConfigError
from trainer.models.dhen import DhenConfig
from trainer.registry import model_section

ALL_MODULES = ["dot", "attention", "convolution", "linear", "cross"]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize(("ensemble", "vectors"), [("concat", 15), ("sum", 3), ("weighted_sum", 3)])
def test_every_depth_and_ensemble_gives_the_expected_vectors(depth: int, ensemble: str, vectors: int) -> None:
    inputs = full_inputs()
    model = example_model(
        "dhen", inputs, num_layers=depth, modules=ALL_MODULES, num_outputs=3, ensemble=ensemble
    )
    batch = random_batch(inputs, 5)
    assert model(batch).shape == (5, 1)
    assert len(model.layers) == depth
    x = torch.randn(5, 1 + 4, 8)
    for layer in model.layers:
        x = layer(x)
        assert x.shape == (5, vectors, 8)


def test_layers_may_differ_in_modules_outputs_and_ensemble() -> None:
    inputs = pooled_inputs()
    layers: list[dict[str, Any]] = [
        {"modules": ["dot", "linear"], "num_outputs": [2, 5]},
        {"modules": ["attention"], "ensemble": "sum", "num_outputs": 7},
        {"modules": ["cross", "convolution"], "ensemble": "weighted_sum"},
    ]
    model = example_model("dhen", inputs, layers=layers, num_outputs=4)
    x, shapes = torch.randn(3, 3, 8), []
    for layer in model.layers:
        x = layer(x)
        shapes.append(x.shape[1])
    assert shapes == [7, 7, 4]
    assert isinstance(model.layers[1].shortcut, torch.nn.Identity)
    assert model.layers[2].shortcut.mix.weight.shape == (4, 7)
    assert model(random_batch(inputs, 3)).shape == (3, 1)


def test_logits_equal_the_layers_composed_by_hand() -> None:
    inputs = pooled_inputs()
    model = example_model("dhen", inputs, num_dense_vectors=2, num_outputs=3)
    batch = random_batch(inputs, 4)
    bags = model.sparse_arch.embedding_bag_collection.embedding_bags
    ids = batch.sparse.to_dict()
    sparse = [bags[name].weight[ids[name].values()] for name in ("s0", "s1")]
    dense = model.dense_arch(batch.dense_BF)
    x = torch.stack([dense[:, :8], dense[:, 8:], *sparse], dim=1)
    for layer in model.layers:
        joined = torch.cat([module(x) for module in layer.interactions], dim=1)
        shortcut = (
            x if x.shape[1] == joined.shape[1] else torch.einsum("lm,bmd->bld", layer.shortcut.mix.weight, x)
        )
        x = layer_norm(joined + shortcut, (8,), layer.norm.weight, layer.norm.bias)
    expected = model.over_arch(torch.cat([x[:, i] for i in range(x.shape[1])], dim=1))
    assert torch.allclose(model(batch), expected, atol=1e-5)


@pytest.mark.parametrize("module", ALL_MODULES)
def test_each_module_alone_learns_in_a_single_vector(module: str) -> None:
    inputs = pooled_inputs(num_dense=0, num_features=1)
    model = example_model("dhen", inputs, modules=[module], num_outputs=2)
    model(random_batch(inputs, 4)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        ({"modules": ["dot"], "num_outputs": [1, 2]}, "model.num_outputs"),
        ({"modules": ["dot", "linear"], "num_outputs": [1, 2], "ensemble": "sum"}, "model.num_outputs"),
        ({"layers": [{}, {"modules": ["dot"], "num_outputs": [1, 2]}]}, "model.layers.1.num_outputs"),
        ({"layers": [{}], "num_layers": 2}, "model.num_layers"),
        (
            {"embedding_dim": 10, "modules": ["attention"], "interactions": {"attention": {"num_heads": 4}}},
            "model.interactions.attention.num_heads",
        ),
        ({"modules": []}, "config: model.modules"),
        ({"layers": [{"modules": ["dott"]}]}, "config: model.layers.0.modules.0"),
        ({"interactions": {"convolution": {"kernel_size": 2}}}, "interactions.convolution.kernel_size"),
        ({"num_layer": 2}, "config: model.num_layer"),
    ],
)
def test_wrong_config_names_the_key(keys: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as error:
        model_section(ModelConfig(name="dhen", **keys))
    assert where in error.value.where


def test_heads_are_not_checked_where_no_layer_has_attention() -> None:
    keys = {"embedding_dim": 10, "modules": ["dot"], "interactions": {"attention": {"num_heads": 4}}}
    section = model_section(ModelConfig(name="dhen", **keys))
    assert isinstance(section, DhenConfig)
    assert [plan.modules for plan in section.layer_plans()] == [("dot",), ("dot",)]
