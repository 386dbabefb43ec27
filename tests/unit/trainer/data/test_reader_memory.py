"""What a reader holds on to from epoch to epoch: nothing."""

from __future__ import annotations

import gc
import importlib.util
import os
import threading
import tracemalloc
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pytest

from tests.support.datasets import write_dataset
from tests.unit.trainer.data.reading import open_tiny
from trainer.data.prefetch import prefetched

EPOCHS, SETTLED = 6, 2


def _held() -> tuple[int, int, int, int]:
    """Return bytes of Arrow and of Python's objects and numpy's arrays, threads, and open files."""
    gc.collect()
    files = len(os.listdir("/proc/self/fd"))
    return pa.total_allocated_bytes(), tracemalloc.get_traced_memory()[0], threading.active_count(), files


@pytest.mark.parametrize("reader", ["arrow", "petastorm"])
def test_nothing_is_kept_from_epoch_to_epoch(tmp_path: Path, reader: Literal["arrow", "petastorm"]) -> None:
    if reader == "petastorm" and importlib.util.find_spec("petastorm") is None:
        pytest.skip("petastorm is not installed")
    # To keep one batch of each epoch would show.
    written = write_dataset(tmp_path, rows=20_000, rows_per_row_group=1000, rows_per_file=5000, mean_length=9)
    opened = open_tiny(written, reader=reader)
    held = []
    tracemalloc.start()
    try:
        for epoch in range(EPOCHS):
            for _ in prefetched(opened.batches(epoch), 2):
                pass
            held.append(_held())
    finally:
        tracemalloc.stop()
    arrow, python, threads, files = zip(*held[SETTLED:], strict=True)
    assert len(set(arrow)) == 1, arrow
    assert max(python) - min(python) < 30_000, python
    assert len(set(threads)) == 1, threads
    assert len(set(files)) == 1, files
