"""Epochs of several super-batches, which at the real size need more rows than a test has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support.datasets import WrittenDataset, write_dataset
from tests.unit.trainer.data.reading import (
    counted,
    global_batches,
    open_tiny,
    row_numbers,
    rows_of_batch,
    rows_of_table,
)
from trainer.data import batching


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WrittenDataset:
    return write_dataset(tmp_path_factory.mktemp("cuts"), rows=1003, weight=True, rows_per_row_group=50)


@pytest.fixture(scope="module")
def whole(written: WrittenDataset) -> dict[str, list[set[int]]]:
    """Global batches by tail, each epoch cut as one super-batch."""
    return {tail: global_batches(written, 1, epoch=1, tail=tail) for tail in ("drop", "pad")}


@pytest.fixture(params=[64, 130, 256], autouse=True)
def small_super_batches(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, whole: dict[str, list[set[int]]]
) -> None:
    """Cut epochs after 64, 130 or 256 rows of a rank: 1 to 32 batches, and windows that straddle cuts."""
    monkeypatch.setattr(batching, "_SUPER_BATCH_ROWS", request.param)


@pytest.mark.parametrize("tail", ["drop", "pad"])
@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_cuts_change_no_batch_at_any_world_size(
    written: WrittenDataset, whole: dict[str, list[set[int]]], world_size: int, tail: str
) -> None:
    assert global_batches(written, world_size, epoch=1, tail=tail) == whole[tail]


@pytest.mark.parametrize("tail", ["drop", "pad"])
@pytest.mark.parametrize("world_size", [1, 4])
@pytest.mark.parametrize("first_step", [1, 2, 5, 8, 14, 15])
def test_resume_at_any_place_of_a_cut_continues_the_unbroken_run(
    written: WrittenDataset,
    whole: dict[str, list[set[int]]],
    world_size: int,
    first_step: int,
    tail: str,
) -> None:
    rest = global_batches(written, world_size, epoch=1, first_step=first_step, tail=tail)
    assert rest == whole[tail][first_step:]


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_every_row_comes_once_with_its_own_values(written: WrittenDataset, window: int) -> None:
    keys = [feature.name for feature in written.manifest.spec.sparse]
    table = rows_of_table(written)
    batches = list(open_tiny(written, tail="pad", shuffle_window_row_groups=window).batches(0))
    assert sorted(row for batch in batches for row in row_numbers(batch)) == list(range(1003))
    for batch in batches:
        assert rows_of_batch(batch, keys) == [table[row] for row in row_numbers(batch)]
    assert counted(batches, keys) == Counter(table)


@pytest.mark.parametrize("row_group", [7, 100, 2000])
def test_dropped_tail_gives_every_row_at_most_once(tmp_path: Path, row_group: int) -> None:
    written = write_dataset(tmp_path, rows=777, rows_per_row_group=row_group, rows_per_file=800)
    for world_size in (1, 2):
        batches = global_batches(written, world_size)
        assert [len(batch) for batch in batches] == [64] * 12
        assert len(set().union(*batches)) == 12 * 64
