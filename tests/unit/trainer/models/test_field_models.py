"""FM, DeepFM, xDeepFM and Wide & Deep, against their formulas written out in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tests.unit.trainer.models.examples import example_section, fill_tables, full_inputs, random_batch, table
from trainer.batch import Batch
from trainer.errors import ConfigError
from trainer.modules.cin import CompressedInteraction
from trainer.modules.fm import fm_pairs
from trainer.registry import ModelInputs, build_model

Array = NDArray[np.float64]
ROWS = 6
DIM = 8


def _built(name: str, **keys: Any) -> tuple[nn.Module, dict[str, Array], ModelInputs]:
    """Return a model with random weights everywhere, and these by name."""
    section = example_section(name, sequence_pooling="mean", **keys)
    inputs = section.completed(full_inputs())
    model = build_model(inputs, section)
    fill_tables(model, seed=1)
    torch.manual_seed(2)
    for key, parameter in model.named_parameters():
        if "embedding" not in key:
            nn.init.normal_(parameter, std=0.4)
    return model, {key: value.double().numpy() for key, value in model.state_dict().items()}, inputs


def _tables(state: dict[str, Array]) -> dict[str, Array]:
    return {key.split(".")[-2]: value for key, value in state.items() if "embedding_" in key}


def _mean(table_ED: Array, ids: Array) -> Array:
    return table_ED[ids].mean(axis=0) if len(ids) else np.zeros(table_ED.shape[1])


def _fields(state: dict[str, Array], batch: Batch) -> tuple[list[list[Array]], list[float]]:
    """Return the vectors and the first-order term of each row, features in the order s0 s1 m0 h0."""
    of, tables = {"s0": "s0", "s1": "s1", "m0": "m0", "h0": "s1"}, _tables(state)
    ids = {key: [x.numpy() for x in lists.to_dense()] for key, lists in batch.sparse.to_dict().items()}
    vectors, linear = [], []
    for row in range(ROWS):
        dense = batch.dense_BF[row].double().numpy()
        found = []
        for name in ("s0", "s1", "m0", "h0"):
            pool = _mean if name == "h0" else lambda table_ED, ids_N: table_ED[ids_N].sum(axis=0)
            found.append(pool(tables[of[name]], ids[name][row]))
        own = state["field_arch.dense_fields.vectors_FD"]
        vectors.append([x * v for x, v in zip(dense, own, strict=True)] + [f[:DIM] for f in found])
        first = state["field_arch.bias"] + state["field_arch.dense_fields.weights.weight"] @ dense
        linear.append(float(first[0] + sum(f[DIM] for f in found)))
    return vectors, linear


def _pairs(vectors: list[Array]) -> float:
    count = len(vectors)
    return float(sum(vectors[i] @ vectors[j] for i in range(count) for j in range(i + 1, count)))


def _mlp(state: dict[str, Array], prefix: str, x: Array) -> float:
    layer = 0
    while f"{prefix}.hidden._mlp.{layer}._linear.weight" in state:
        name = f"{prefix}.hidden._mlp.{layer}._linear"
        x = np.maximum(state[f"{name}.weight"] @ x + state[f"{name}.bias"], 0)
        layer += 1
    assert layer == 2
    return float((state[f"{prefix}.logits.weight"] @ x + state[f"{prefix}.logits.bias"])[0])


def _cin(state: dict[str, Array], vectors: list[Array], sizes: list[int]) -> float:
    outputs, maps = [], vectors
    for layer, size in enumerate(sizes):
        weights = state[f"cin.layers.{layer}.weight"].reshape(size, len(maps), len(vectors))
        maps = [
            sum(
                weights[h, i, j] * maps[i] * vectors[j] for i in range(len(maps)) for j in range(len(vectors))
            )
            for h in range(size)
        ]
        outputs += [m.sum() for m in maps]
    return float((state["cin_logit.weight"] @ np.array(outputs))[0])


def test_fm_is_a_weight_for_each_feature_and_a_product_for_each_pair() -> None:
    model, state, inputs = _built("fm")
    batch = random_batch(inputs, ROWS)
    vectors, linear = _fields(state, batch)
    expected = [first + _pairs(row) for first, row in zip(linear, vectors, strict=True)]
    assert np.allclose(model(batch).detach().numpy()[:, 0], expected, atol=1e-4)


def test_deep_fm_adds_a_deep_network_over_the_same_vectors() -> None:
    model, state, inputs = _built("deep_fm")
    batch = random_batch(inputs, ROWS)
    vectors, linear = _fields(state, batch)
    expected = [
        first + _pairs(row) + _mlp(state, "deep", np.concatenate(row))
        for first, row in zip(linear, vectors, strict=True)
    ]
    assert np.allclose(model(batch).detach().numpy()[:, 0], expected, rtol=1e-4, atol=1e-3)


def test_xdeep_fm_adds_maps_of_products_of_every_order() -> None:
    sizes = [5, 3, 2]
    model, state, inputs = _built("xdeep_fm", cin_layer_sizes=sizes)
    batch = random_batch(inputs, ROWS)
    vectors, linear = _fields(state, batch)
    expected = [
        first + _cin(state, row, sizes) + _mlp(state, "deep", np.concatenate(row))
        for first, row in zip(linear, vectors, strict=True)
    ]
    assert np.allclose(model(batch).detach().numpy()[:, 0], expected, rtol=1e-3, atol=1e-3)


def test_wide_and_deep_adds_a_linear_and_a_deep_part() -> None:
    model, state, inputs = _built("wide_deep")
    batch = random_batch(inputs, ROWS)
    vectors, linear = _fields(state, batch)
    expected = [
        first + _mlp(state, "deep", np.concatenate(row)) for first, row in zip(linear, vectors, strict=True)
    ]
    assert np.allclose(model(batch).detach().numpy()[:, 0], expected, rtol=1e-4, atol=1e-3)


def test_a_table_holds_what_its_features_need() -> None:
    section = example_section("wide_deep", wide_features=["m0", "s1"], deep_features=["s*", "h0"])
    widths = {table.name: table.embedding_dim for table in section.completed(full_inputs()).tables}
    assert widths == {"s0": DIM, "m0": 4, "s1": DIM + 4}
    model = build_model(section.completed(full_inputs()), section)
    fill_tables(model)
    batch = random_batch(full_inputs(), ROWS)
    model(batch).sum().backward()
    gradients = {key.split(".")[-2]: p.grad for key, p in model.named_parameters() if "embedding_" in key}
    ids = batch.sparse["m0"].values()
    assert gradients["m0"][:, 0].nonzero().squeeze(1).tolist() == sorted(set(ids.tolist()))
    assert not gradients["m0"][:, 1:].any()
    assert not gradients["s1"][:, DIM + 1 :].any()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"wide_features": ["x*"]}, "no sparse feature matches"),
        ({"wide_features": ["s0"], "deep_features": ["s*", "m0"]}, "in neither part"),
    ],
)
def test_wide_and_deep_names_features_that_do_not_fit(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        example_section("wide_deep", **keys).completed(full_inputs())


def test_pairs_of_one_field_are_none() -> None:
    assert fm_pairs(torch.randn(3, 1, 4)).abs().max() < 1e-6


def test_the_first_cin_layer_is_quadratic_and_the_next_cubic() -> None:
    cin, x_BFD = CompressedInteraction(3, [4, 2]), torch.randn(2, 3, 5)
    grown = cin(2 * x_BFD) / cin(x_BFD)
    assert torch.allclose(grown, torch.tensor([4.0] * 4 + [8.0] * 2).expand(2, 6), rtol=1e-3)


def test_fm_of_one_wide_table_shared_by_a_list_counts_every_id() -> None:
    section = example_section("fm")
    inputs = section.completed(ModelInputs(0, ("m0",), (table("m0", ["m0"]),), frozenset({"m0"})))
    model = build_model(inputs, section)
    weights, batch = fill_tables(model)["m0"], random_batch(inputs, ROWS)
    expected = [float(weights[ids][:, DIM].sum()) for ids in batch.sparse["m0"].to_dense()]
    assert np.allclose(model(batch).detach().numpy()[:, 0], expected, atol=1e-5)
