"""Work of the dense layers, against sums over their shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sharding.tables import TableSpec
from tests.unit.trainer.models.item_examples import event_inputs, user_inputs
from trainer.config import ModelConfig
from trainer.dense_work import dense_work
from trainer.modules.item_model import ItemModel
from trainer.registry import ModelInputs, model_section, models

DIM = 4
OF_ITEMS = [name for name, entry in models().items() if issubclass(entry.build, ItemModel)]


def inputs(features: int = 3, num_dense: int = 5, ids: float = 2.5, **settings: object) -> ModelInputs:
    tables = tuple(
        TableSpec(f"t{i}", 10**12, DIM, (f"t{i}",), pooling_factors=(ids,), **settings)  # type: ignore[arg-type]
        for i in range(features)
    )
    return ModelInputs(num_dense, tuple(table.name for table in tables), tables)


def dlrm(**keys: object) -> object:
    sizes = {"dense_arch_layer_sizes": [8], "over_arch_layer_sizes": [6]}
    return model_section(ModelConfig(name="dlrm", embedding_dim=DIM, **{**sizes, **keys}))


def test_flops_are_two_for_each_multiply_add_of_every_layer() -> None:
    work = dense_work(inputs(), dlrm())  # type: ignore[arg-type]
    # Layers 5 -> 8 -> 4, then 4 vectors with each other, then 4 + 6 pairs -> 6 -> 1.
    layers = 5 * 8 + 8 * 4 + 10 * 6 + 6 * 1
    assert work.forward_flops == 2 * (layers + 4 * 4 * DIM)


def test_activations_are_what_autograd_keeps_of_the_layers() -> None:
    work = dense_work(inputs(), dlrm())  # type: ignore[arg-type]
    # At least the inputs of every layer, and no more than a few tensors of each.
    least = 4 * (5 + 8 + 4 * DIM + 10 + 6)
    assert least <= work.activation_bytes <= 4 * least


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_ids_and_their_offsets_are_no_activations(pooling: str) -> None:
    one, many = (dense_work(inputs(ids=n, pooling=pooling), dlrm()) for n in (1, 500))  # type: ignore[arg-type]
    assert one == many


def test_very_long_lists_of_ids_take_no_memory() -> None:
    one, many = (dense_work(inputs(features=50, ids=n), dlrm()) for n in (1, 1_000_000))  # type: ignore[arg-type]
    assert one == many  # 3.2 GB of ids in a batch


def test_a_wider_layer_keeps_more_and_works_more_but_takes_no_memory() -> None:
    narrow, wide = (dense_work(inputs(), dlrm(over_arch_layer_sizes=[n, n])) for n in (100, 40_000))  # type: ignore[arg-type]
    assert wide.forward_flops > 2 * 40_000**2  # 6.4 GB of weights
    assert wide.activation_bytes > narrow.activation_bytes + 4 * 2 * 39_900 - 1


def with_history() -> ModelInputs:
    """Return inputs in which a history shares the table of the feature that it is for."""
    table = TableSpec("t0", 10**12, DIM, ("t0", "h0"), "none", pooling_factors=(1, 2.5))
    return ModelInputs(5, ("t0", "h0"), (table,), frozenset({"h0"}))


def with_items(name: str) -> ModelInputs:
    """Return inputs of a model that scores items: rows of events where it needs a row's item."""
    made = event_inputs(DIM) if name in ("mf", "ncf", "two_tower") else user_inputs(DIM)
    tables = (
        replace(t, pooling_factors=tuple(5.0 if name in made.lists else 1.0 for name in t.features))
        for t in made.tables
    )
    return replace(made, tables=tuple(tables))


@pytest.mark.parametrize("pooling", ["sum", "mean", "none"])
@pytest.mark.parametrize("name", [name for name in models() if name not in OF_ITEMS])
def test_every_model_is_counted_as_a_real_forward_pass_would_be(name: str, pooling: str) -> None:
    _check_counted(name, with_history() if name == "din" else inputs(pooling=pooling))


@pytest.mark.parametrize("name", OF_ITEMS)
def test_every_model_of_items_is_counted_as_a_real_forward_pass_would_be(name: str) -> None:
    _check_counted(name, with_items(name))


def _check_counted(name: str, given: ModelInputs) -> None:
    section = model_section(ModelConfig(name=name, embedding_dim=DIM))
    made = section.completed(given)
    before = torch.random.get_rng_state()
    work = dense_work(made, section)
    assert work.forward_flops > 0
    assert work.activation_bytes > 0
    assert torch.equal(before, torch.random.get_rng_state())
    halves = dense_work(made, section, bf16=True)
    assert halves.forward_flops == pytest.approx(work.forward_flops, rel=1e-9)
    assert halves.activation_bytes < work.activation_bytes


def test_autocast_keeps_bf16_copies_of_the_weights_whose_input_needs_a_gradient() -> None:
    assert dense_work(inputs(), dlrm()).weight_copy_bytes == 0  # type: ignore[arg-type]
    # Layers 8 -> 4 and 10 -> 6 -> 1; the input of the first layer, 5 -> 8, needs no gradient.
    kept = 2 * (8 * 4 + 10 * 6 + 6 * 1)
    assert dense_work(inputs(), dlrm(), bf16=True).weight_copy_bytes == kept  # type: ignore[arg-type]
