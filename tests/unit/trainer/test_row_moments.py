"""Row moments of column shards joined into those of whole rows, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import state_dict_saver

from trainer.checkpoint import load_checkpoint
from trainer.errors import CheckpointError
from trainer.row_moments import _shares, load_recut_moments
from trainer.stored_tensors import StoredTensors

WEIGHT = "m.embedding_bags.user.weight"
ROWS = 5


def state(moments: torch.Tensor, **dense: torch.Tensor) -> dict[str, Any]:
    states: dict[str, Any] = {WEIGHT: {"user.momentum1": moments}}
    states.update({name: {"step": value} for name, value in dense.items()})
    return {"model": {WEIGHT: torch.zeros(ROWS, 4)}, "optimizer": {"state": states}}


@pytest.mark.parametrize("dense", [{}, {"over": torch.tensor(3.0)}])
def test_shards_are_joined_to_their_mean_and_the_rest_is_left_to_load(
    tmp_path: Path, dense: dict[str, torch.Tensor]
) -> None:
    saved = state(torch.arange(10.0), **dense)
    saved["model"][WEIGHT] += 7
    state_dict_saver.save(saved, checkpoint_id=tmp_path, no_dist=True)
    new = state(torch.zeros(ROWS), **{name: torch.tensor(0.0) for name in dense})
    load_checkpoint(tmp_path, load_recut_moments(tmp_path, new))
    assert new["optimizer"]["state"][WEIGHT]["user.momentum1"].tolist() == [2.5, 3.5, 4.5, 5.5, 6.5]
    assert (new["model"][WEIGHT] == 7).all()
    assert all(new["optimizer"]["state"][name]["step"] == value for name, value in dense.items())


def test_another_number_of_rows_is_refused_as_before(tmp_path: Path) -> None:
    state_dict_saver.save(state(torch.arange(7.0)), checkpoint_id=tmp_path, no_dist=True)
    new = state(torch.zeros(ROWS))
    with pytest.raises(CheckpointError, match="Size mismatch"):
        load_checkpoint(tmp_path, load_recut_moments(tmp_path, new))


def test_some_rows_of_a_tensor_are_read_across_its_pieces(tmp_path: Path) -> None:
    values = torch.arange(24.0).reshape(6, 4)
    state_dict_saver.save({"a": values, "b": torch.ones(3)}, checkpoint_id=tmp_path, no_dist=True)
    stored = StoredTensors(tmp_path)
    assert torch.equal(stored.read_rows("a", 1, 4), values[1:4])
    assert torch.equal(stored.read_rows("b", 2, 3), torch.ones(1))


def test_each_new_shard_takes_the_old_ones_under_it_by_their_columns() -> None:
    assert list(_shares(0, before=4, after=2)) == [(0, 0.5), (1, 0.5)]
    assert list(_shares(1, before=4, after=2)) == [(2, 0.5), (3, 0.5)]
    assert list(_shares(3, before=2, after=4)) == [(1, 1.0)]
    assert list(_shares(1, before=2, after=3)) == [(0, 0.5), (1, 0.5)]
    assert list(_shares(0, before=3, after=2)) == [(0, pytest.approx(2 / 3)), (1, pytest.approx(1 / 3))]
