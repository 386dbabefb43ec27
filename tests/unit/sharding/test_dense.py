"""Which ranks hold the dense part, and in which units."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sharding.dense import dense_layout, dense_units
from sharding.errors import PlanError
from tests.unit.trainer.models.examples import example_section, full_inputs
from trainer.registry import build_model


@pytest.mark.parametrize(
    ("parallel", "group", "expected"),
    [("ddp", None, 1), ("fsdp", None, 16), ("hsdp", None, 8), ("hsdp", 4, 4), ("hsdp", 16, 16)],
)
def test_a_mode_says_how_many_ranks_share_a_copy(parallel: Any, group: int | None, expected: int) -> None:
    layout = dense_layout(parallel, world_size=16, local_world_size=8, shard_group_size=group)
    assert layout.shard_group_size == expected
    assert layout.replicas == 16 // expected
    assert layout.is_sharded == (expected > 1)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp", "hsdp"])
def test_one_rank_alone_holds_everything(parallel: Any) -> None:
    layout = dense_layout(parallel, world_size=1, local_world_size=1, shard_group_size=None)
    assert not layout.is_sharded
    # A config for a cluster is tried out in one process.
    assert layout == dense_layout("hsdp", world_size=1, local_world_size=1, shard_group_size=8)


@pytest.mark.parametrize(
    ("world_size", "local", "group", "words"),
    [
        (12, 4, 8, ["does not divide", "8, 12 ranks", "2, 3, 4, 6, 12", "dense_shard_group_size: 6"]),
        (4, 2, 8, ["does not divide", "8, 4 ranks", "dense_shard_group_size: 4"]),
        (4, 1, None, ["has one rank", "1 (the ranks of one host), 4 ranks", "dense_shard_group_size: 2"]),
    ],
)
def test_groups_that_do_not_make_up_the_ranks_are_refused(
    world_size: int, local: int, group: int | None, words: list[str]
) -> None:
    with pytest.raises(PlanError) as error:
        dense_layout("hsdp", world_size=world_size, local_world_size=local, shard_group_size=group)
    for word in [*words, "train.dense_parallel: fsdp"]:
        assert word in str(error.value)


def test_every_layer_of_dhen_is_a_unit() -> None:
    model = build_model(full_inputs(), example_section("dhen", num_layers=3))
    names = {module: name for name, module in model.named_modules()}
    assert [names[unit] for unit in dense_units(model)] == [
        "sparse_arch.vectors",
        "dense_arch",
        "layers.0",
        "layers.1",
        "layers.2",
        "over_arch",
    ]


def test_what_is_never_called_is_no_unit() -> None:
    model = nn.Module()
    model.weights = nn.ParameterList([torch.ones(2)])
    model.towers = nn.ModuleList([nn.Linear(2, 2), nn.ReLU()])
    assert list(dense_units(model)) == [model.towers[0]]
