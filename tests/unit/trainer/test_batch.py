"""Cutting a batch into parts."""

from __future__ import annotations

import pytest
import torch

from tests.unit.trainer.models.examples import full_inputs, random_batch


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_parts_hold_the_rows_in_order_with_their_ids(count: int) -> None:
    batch = random_batch(full_inputs(), 6)
    parts = list(batch.parts(count))
    assert [part.size for part in parts] == [6 // count] * count
    for name in ("dense_BF", "labels_BT", "weights_B", "rows_B"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    for key, whole in batch.sparse.to_dict().items():
        rows = [ids.tolist() for part in parts for ids in part.sparse[key].to_dense()]
        assert rows == [ids.tolist() for ids in whole.to_dense()]


def test_parts_of_unequal_size_are_refused() -> None:
    with pytest.raises(ValueError, match="4 parts of 6 rows"):
        next(random_batch(full_inputs(), 6).parts(4))
