"""Rows that start anew, with the states of optimizers and the data types that only GPUs train with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sharding.fresh_rows import FreshRows
from sharding.id_buckets import IdPolicy
from sharding.tables import TableSpec
from sharding.weights import uniform_block

ROWS, DIM, SEED = 9, 8, 5
WEIGHT = "model.bags.embedding_bags.user.weight"
OTHER = "model.bags.embedding_bags.site.weight"
STATES = {
    "adam": {"momentum1": (ROWS, DIM), "exp_avg_sq": (ROWS, DIM)},
    "lamb": {"momentum1": (ROWS, DIM), "exp_avg_sq": (ROWS, DIM)},
    "partial_rowwise_adam": {"momentum1": (ROWS, DIM), "exp_avg_sq": (ROWS,)},
}


class Holder:
    """Gives out a state dict."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    def state_dict(self) -> dict[str, Any]:
        return self._state


@pytest.mark.parametrize("data_type", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("optimizer", STATES)
def test_every_moment_and_every_data_type_starts_anew(optimizer: str, data_type: torch.dtype) -> None:
    def learnt(*shape: int) -> Tensor:
        return torch.rand(shape) + 1

    weights = {name: learnt(ROWS, DIM).to(data_type) for name in (WEIGHT, OTHER)}
    states = {
        name: {f"{name.split('.')[-2]}.{key}": learnt(*shape) for key, shape in STATES[optimizer].items()}
        for name in weights
    }
    counter = torch.tensor(7)
    states[WEIGHT]["user.iter"] = counter
    before = {name: weight.clone() for name, weight in weights.items()}
    kept = {key: state.clone() for key, state in states[OTHER].items()}
    table = TableSpec("user", ROWS, DIM, ("user",), ids=IdPolicy())
    fresh = FreshRows(Holder(weights), Holder({"state": states}), [table], SEED)  # type: ignore[arg-type]
    rows, others = torch.tensor([2, 7]), torch.tensor([0, 1, 3, 4, 5, 6, 8])
    fresh.write("user", rows)

    start = uniform_block(SEED, "user", range(ROWS), range(DIM), table_shape=(ROWS, DIM)).to(data_type)
    assert torch.equal(weights[WEIGHT][rows], start[rows])
    assert torch.equal(weights[WEIGHT][others], before[WEIGHT][others])
    for key in STATES[optimizer]:
        state = states[WEIGHT][f"user.{key}"]
        assert not state[rows].any(), key
        assert (state[others] >= 1).all(), key
    assert counter == 7  # of the whole table
    assert torch.equal(weights[OTHER], before[OTHER])
    assert all(torch.equal(states[OTHER][key], state) for key, state in kept.items())
