"""Batches for a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.datasets import write_dataset
from tests.unit.trainer.data.reading import counted, open_tiny, rows_of_table
from trainer.data import prefetched

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]


def test_prefetched_batches_are_page_locked_and_reach_the_gpu_whole(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, rows=1000)
    keys = [feature.name for feature in written.manifest.spec.sparse]
    arrived = []
    for batch in prefetched(open_tiny(written, tail="pad").batches(0), 2, pin_memory=True):
        parts = (batch.dense_BF, batch.labels_BT, batch.weights_B, batch.rows_B, batch.sparse.values())
        assert all(part.is_pinned() for part in parts)
        on_gpu = batch.to(torch.device("cuda"), non_blocking=True)
        assert on_gpu.labels_BT.is_cuda
        arrived.append(on_gpu.to(torch.device("cpu")))
    rows = rows_of_table(written)
    assert counted(arrived, keys) == {row: rows.count(row) for row in rows}
