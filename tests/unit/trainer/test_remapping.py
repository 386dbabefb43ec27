"""Tensors of a checkpoint moved to other rows, against indexing by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import state_dict_saver

from sharding.moved_ids import FRESH
from sharding.tables import TableSpec
from sharding.weights import uniform_rows
from trainer import stored_tensors
from trainer.errors import CheckpointError
from trainer.remapping import RowOrigins, TablePair, check_dense, write_remapped
from trainer.stored_tensors import StoredTensors

WEIGHT = "m.embedding_bags.user.weight"
STATE = f"optimizer.state.{WEIGHT}"
SEED = 3


@pytest.fixture
def stored(tmp_path: Path) -> StoredTensors:
    """A table of 5 rows and 4 columns, trained in two column shards."""
    moments: dict[str, Any] = {
        "user.momentum1": torch.arange(10.0),  # one number for a row: of both shards, end to end
        "user.exp_avg": torch.arange(20.0).reshape(5, 4) + 100,
        "user.iter": torch.tensor(7),
    }
    state = {
        "model": {WEIGHT: torch.arange(20.0).reshape(5, 4), "over.bias": torch.tensor([2.5])},
        "average": {"over.bias": torch.tensor([1.5])},
        "optimizer": {"state": {WEIGHT: moments, "over.bias": {"step": torch.tensor(9.0)}}},
    }
    state_dict_saver.save(state, checkpoint_id=tmp_path / "old", no_dist=True)
    return StoredTensors(tmp_path / "old")


@pytest.mark.parametrize("piece_bytes", [1 << 26, 40, 1])
def test_rows_take_their_weights_and_every_kind_of_state_along(
    stored: StoredTensors, tmp_path: Path, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_tensors, "_PIECE_BYTES", piece_bytes)
    pair = TablePair(*(TableSpec("user", rows, 4, ("user",)) for rows in (5, 7)))
    origin = torch.tensor([0, 1, 4, FRESH, 2, FRESH, 3])
    asked: list[str] = []

    def origins(table: str) -> RowOrigins:
        asked.append(table)
        return RowOrigins(origin, 3, 2, 0)

    told = write_remapped(stored, tmp_path / "new", {"user": pair}, origins, SEED)
    assert asked == ["user"]
    assert (told["user"].kept, told["user"].new, told["user"].dropped) == (3, 2, 0)
    new = StoredTensors(tmp_path / "new")
    assert new.places == {name: new.places[name] for name in stored.places} == stored.places
    fresh = uniform_rows(SEED, "user", torch.tensor([3, 5]), range(4), table_shape=(7, 4))
    weights = new.read(f"model.{WEIGHT}")
    assert torch.equal(weights[[3, 5]], fresh)
    assert weights[[0, 1, 2, 4, 6], 0].tolist() == [0, 4, 16, 8, 12]
    assert new.read(f"{STATE}.user.momentum1").tolist() == [0, 1, 4, 0, 2, 0, 3, 5, 6, 9, 0, 7, 0, 8]
    assert new.read(f"{STATE}.user.exp_avg")[:, 3].tolist() == [103, 107, 119, 0, 111, 0, 115]
    assert new.read(f"{STATE}.user.iter").item() == 7
    assert new.read("model.over.bias").tolist() == [2.5]
    assert new.read("average.over.bias").tolist() == [1.5]
    assert new.read("optimizer.state.over.bias.step").item() == 9


def test_what_goes_wrong_while_writing_is_told_as_it_is(stored: StoredTensors, tmp_path: Path) -> None:
    def origins(table: str) -> RowOrigins:
        raise CheckpointError(f"no rows of {table}")

    pair = TablePair(*(TableSpec("user", rows, 4, ("user",)) for rows in (5, 7)))
    with pytest.raises(CheckpointError, match="no rows of user"):
        write_remapped(stored, tmp_path / "new", {"user": pair}, origins, SEED)


def test_a_parameter_of_another_shape_is_named(stored: StoredTensors) -> None:
    check_dense(stored, {"over.bias": [1], WEIGHT: [9, 9]}, "here")
    with pytest.raises(CheckpointError, match=r"over\.bias"):
        check_dense(stored, {"over.bias": [2]}, "here")
    with pytest.raises(CheckpointError, match=r"over\.weight"):
        check_dense(stored, {"over.bias": [1], "over.weight": [1]}, "here")
