"""The background thread: order, errors, and that nothing of it is left behind."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from tests.support.datasets import write_dataset
from tests.unit.trainer.data.reading import open_tiny
from trainer.batch import Batch
from trainer.data import prefetched
from trainer.errors import DataError


def batch(number: int) -> Batch:
    sparse = KeyedJaggedTensor(
        keys=["s0"], values=torch.tensor([number]), lengths=torch.tensor([1]), stride=1
    )
    ones = torch.ones(1)
    return Batch(torch.full((1, 1), float(number)), sparse, ones[:, None], ones, torch.tensor([number]))


class Source:
    """Counts what is asked of it, and remembers where it was closed."""

    def __init__(self, count: int, fail_at: int | None = None) -> None:
        self.made = 0
        self.closed_in: str | None = None
        self.threads: set[str] = set()
        self._count = count
        self._fail_at = fail_at

    def __call__(self) -> Iterator[Batch]:
        try:
            for number in range(self._count):
                if number == self._fail_at:
                    raise DataError("part file is damaged", where="part-00003.parquet")
                self.threads.add(threading.current_thread().name)
                self.made += 1
                yield batch(number)
        finally:
            self.closed_in = threading.current_thread().name


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("depth", [0, 1, 5, 50])
def test_batches_come_in_order(depth: int) -> None:
    source = Source(20)
    assert [int(b.rows_B[0]) for b in prefetched(source(), depth)] == list(range(20))
    assert ("MainThread" in source.threads) == (depth == 0)


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_error_reaches_the_consumer_after_the_batches_before_it(depth: int) -> None:
    batches = prefetched(Source(10, fail_at=3)(), depth)
    assert [int(next(batches).rows_B[0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="part-00003") as caught:
        next(batches)
    # The traceback still shows where in the source it was raised.
    assert "in __call__" in "".join(traceback.format_exception(caught.value))


def test_no_more_than_depth_batches_wait() -> None:
    source = Source(100)
    batches = prefetched(source(), 3)
    next(batches)
    ready = threading.Event()
    ready.wait(0.2)  # time enough for a thread without a bound to run on
    assert 1 <= source.made <= 4
    batches.close()  # type: ignore[attr-defined]


def test_closing_early_stops_the_thread_and_closes_the_source() -> None:
    source = Source(1000)
    batches = prefetched(source(), 4)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert source.closed_in == "shardrec-prefetch"
    assert source.made < 10


def test_leaving_a_loop_by_an_error_stops_the_thread() -> None:
    source = Source(1000)

    def train() -> None:
        for _ in prefetched(source(), 2):
            raise ValueError("loss is not finite")

    with pytest.raises(ValueError, match="not finite"):
        train()
    assert source.closed_in is not None


def test_reader_that_is_left_early_leaves_no_thread(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, rows=2000)
    for depth in (0, 2):
        batches = prefetched(open_tiny(written).batches(0), depth)
        next(batches)
        batches.close()  # type: ignore[attr-defined]


def test_error_of_a_damaged_file_passes_both_threads(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, rows=2000)
    path = tmp_path / written.manifest.splits["train"].files[-1].path
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=path.name):
        list(prefetched(open_tiny(written).batches(0), 2))
