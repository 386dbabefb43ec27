"""The arrow reader on real files: every row once, the same batches at every world size, exact resume."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.datasets import WrittenDataset, write_dataset
from tests.unit.trainer.data.reading import (
    counted,
    global_batches,
    open_tiny,
    row_numbers,
    rows_of_batch,
    rows_of_table,
)
from trainer.errors import UserError


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WrittenDataset:
    folder = tmp_path_factory.mktemp("mixed")
    return write_dataset(folder, rows={"train": 1003, "valid": 21, "test": 5}, weight=True)


@pytest.fixture(scope="module")
def keys(written: WrittenDataset) -> list[str]:
    return [feature.name for feature in written.manifest.spec.sparse]


@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_hold_the_values_that_were_written(
    written: WrittenDataset, keys: list[str], shuffle: bool
) -> None:
    table = rows_of_table(written)
    for batch in open_tiny(written, shuffle=shuffle, tail="pad").batches(0):
        expected = [table[row] for row in batch.rows_B.tolist() if row >= 0]
        assert rows_of_batch(batch, keys) == expected


def test_padded_tail_gives_every_row_once_and_pads_with_zero_weight(
    written: WrittenDataset, keys: list[str]
) -> None:
    batches = list(open_tiny(written, tail="pad").batches(0))
    assert len(batches) == 16  # 126 rows in the longest lane, 8 at a time
    assert {batch.size for batch in batches} == {64}
    assert sorted(row for batch in batches for row in row_numbers(batch)) == list(range(1003))
    last = batches[-1]
    padding = last.rows_B < 0
    assert int(padding.sum()) == 16 * 64 - 1003
    for values in (last.weights_B, last.labels_BT[:, 0], last.dense_BF.abs().sum(1)):
        assert torch.all(values[padding] == 0)
    for key in ("m0", "h0"):
        assert torch.all(last.sparse[key].lengths()[padding] == 0)
    assert torch.all(last.sparse["s0"].values()[padding] == 0)
    assert counted(batches, keys) == Counter(rows_of_table(written))


def test_dropped_tail_gives_every_row_at_most_once(written: WrittenDataset) -> None:
    reader = open_tiny(written, tail="drop")
    assert reader.steps_per_epoch == 15  # 125 rows in the shortest lane
    rows = [row for batch in reader.batches(0) for row in batch.rows_B.tolist()]
    assert len(rows) == len(set(rows)) == 15 * 64
    assert min(rows) >= 0


@pytest.mark.parametrize("tail", ["drop", "pad"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_global_batches_are_the_same_at_every_world_size(
    written: WrittenDataset, tail: str, shuffle: bool
) -> None:
    one = global_batches(written, 1, tail=tail, shuffle=shuffle)
    for world_size in (2, 4, 8):
        assert global_batches(written, world_size, tail=tail, shuffle=shuffle) == one


def test_a_rank_gives_the_rows_of_its_lanes_in_lane_order(written: WrittenDataset) -> None:
    reader = open_tiny(written, rank=1, world_size=2, shuffle=False)
    first = next(iter(reader.batches(0)))
    starts = [lane * 1003 // 8 for lane in (1, 3, 5, 7)]
    assert first.rows_B.tolist() == [start + i for start in starts for i in range(8)]


@pytest.mark.parametrize("world_size", [1, 2, 8])
@pytest.mark.parametrize("first_step", [1, 7, 14, 15])
def test_resume_inside_an_epoch_continues_the_unbroken_run(
    written: WrittenDataset, world_size: int, first_step: int
) -> None:
    unbroken = global_batches(written, 4, epoch=2)
    assert global_batches(written, world_size, epoch=2, first_step=first_step) == unbroken[first_step:]


def test_resume_decodes_no_row_group_before_its_window(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, rows=640, rows_per_row_group=16, rows_per_file=160)
    (tmp_path / "train" / "part-00000.parquet").write_bytes(b"gone")  # rows 0 to 159
    reader = open_tiny(written, num_lanes=1, global_batch_size=32, shuffle=False, shuffle_window_row_groups=1)
    rows = [row for batch in reader.batches(0, first_step=5) for row in batch.rows_B.tolist()]
    assert rows == list(range(160, 640))


def test_epochs_differ_and_repeat_exactly(written: WrittenDataset) -> None:
    epochs = [[batch.rows_B.tolist() for batch in open_tiny(written).batches(epoch)] for epoch in (0, 1, 0)]
    assert epochs[0] != epochs[1]
    assert epochs[0] == epochs[2]


def test_seeds_give_different_orders(written: WrittenDataset) -> None:
    first = [next(iter(open_tiny(written, seed=seed).batches(0))).rows_B.tolist() for seed in (1, 2)]
    assert first[0] != first[1]


def test_shuffled_batches_draw_from_all_over_each_lane(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, rows=4096, rows_per_row_group=256, rows_per_file=4096, num_lists=0)
    reader = open_tiny(written, num_lanes=2, global_batch_size=256, shuffle_window_row_groups=8)
    for batch in reader.batches(0):
        for lane, numbers in enumerate(batch.rows_B.reshape(2, 128).numpy()):
            place = (numbers - lane * 2048) / 2048
            # Mean of 128 uniform numbers: standard deviation 1 / sqrt(12 * 128) = 0.026.
            assert abs(place.mean() - 0.5) < 5 * 0.026
            assert len(np.unique(numbers // 256)) == 8


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_split_smaller_than_a_batch_is_padded(written: WrittenDataset, split: str) -> None:
    rows = written.manifest.split(split).rows
    for world_size in (1, 2, 4):
        batches = global_batches(written, world_size, split=split, tail="pad", shuffle=False)
        assert batches == [set(range(rows))]


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
@pytest.mark.parametrize("rows", [1, 3])
def test_fewer_rows_than_ranks_are_padded_on_ranks_without_rows(
    tmp_path: Path, rows: int, world_size: int
) -> None:
    written = write_dataset(tmp_path, rows={"train": 64, "valid": rows}, weight=True)
    keys = [feature.name for feature in written.manifest.spec.sparse]
    options = {"split": "valid", "tail": "pad", "shuffle": False}
    ranks = [list(open_tiny(written, rank, world_size, **options).batches(0)) for rank in range(world_size)]
    assert [[batch.size for batch in batches] for batches in ranks] == [[64 // world_size]] * world_size
    read = sum((counted(batches, keys) for batches in ranks), Counter())
    assert read == Counter(rows_of_table(written, "valid"))
    for batches in ranks:
        assert torch.all((batches[0].rows_B >= 0) == (batches[0].weights_B > 0))


@pytest.mark.parametrize(
    ("row_group", "window"), [(10_000, 1), (1000, 4), (100, 1), (100, 3), (7, 2), (7, 100)]
)
def test_row_groups_of_any_size_give_every_row_once(tmp_path: Path, row_group: int, window: int) -> None:
    written = write_dataset(tmp_path, rows=1500, rows_per_row_group=row_group, rows_per_file=2000)
    reader = open_tiny(written, tail="pad", shuffle_window_row_groups=window)
    rows = [row for batch in reader.batches(1) for row in row_numbers(batch)]
    assert sorted(rows) == list(range(1500))


@pytest.mark.parametrize(
    ("dense", "sparse", "lists"), [(0, 2, 0), (2, 0, 0), (0, 0, 1), (1, 0, 2), (3, 3, 3)]
)
def test_any_mix_of_feature_kinds_is_read(tmp_path: Path, dense: int, sparse: int, lists: int) -> None:
    written = write_dataset(
        tmp_path, rows=200, num_dense=dense, num_sparse=sparse, num_lists=lists, num_sequences=0
    )
    keys = [feature.name for feature in written.manifest.spec.sparse]
    batches = list(open_tiny(written, tail="pad").batches(0))
    assert batches[0].dense_BF.shape == (64, dense)
    if keys:
        assert counted(batches, keys) == Counter(rows_of_table(written))
    else:
        assert batches[0].sparse.keys() == []
        assert sum(len(row_numbers(batch)) for batch in batches) == 200


def test_lists_are_read_the_same_with_ids_too_large_for_32_bits(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, rows=300, num_embeddings=2**40)
    keys = [feature.name for feature in written.manifest.spec.sparse]
    batches = list(open_tiny(written, tail="pad").batches(0))
    assert counted(batches, keys) == Counter(rows_of_table(written))


def test_sparse_ids_need_no_device_sync_for_their_lengths(written: WrittenDataset) -> None:
    sparse = next(iter(open_tiny(written).batches(0))).sparse
    given = sparse.length_per_key_or_none()
    assert sparse.stride() == 64
    assert given == sparse.lengths().reshape(4, 64).sum(1).tolist()
    assert sparse.values().dtype == torch.int64


def test_batch_moves_and_keeps_its_fields(written: WrittenDataset) -> None:
    batch = next(iter(open_tiny(written).batches(0)))
    moved = batch.to(torch.device("cpu"))
    assert torch.equal(moved.dense_BF, batch.dense_BF)
    assert moved.sparse.length_per_key_or_none() == batch.sparse.length_per_key_or_none()
    assert moved.dense_BF.is_contiguous()
    assert [t.dtype for t in (moved.dense_BF, moved.labels_BT, moved.weights_B, moved.rows_B)] == [
        torch.float32,
        torch.float32,
        torch.float32,
        torch.int64,
    ]


def test_a_place_outside_the_epoch_is_refused(written: WrittenDataset) -> None:
    reader = open_tiny(written)
    assert list(reader.batches(0, first_step=15)) == []
    with pytest.raises(UserError, match="outside the epoch"):
        reader.batches(0, first_step=16)


def test_windows_shrink_when_wide_rows_would_fill_the_memory(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, rows=2000, rows_per_row_group=500, rows_per_file=2000, num_lists=1)
    statistics = dict(written.manifest.statistics)
    statistics["m0"] = statistics["m0"].model_copy(update={"mean_length": 30_000.0})
    wide = WrittenDataset(
        written.folder, written.manifest.model_copy(update={"statistics": statistics}), written.tables
    )
    sizes = [open_tiny(data).window_row_groups for data in (written, wide)]  # type: ignore[attr-defined]
    assert sizes == [4, 2]
    assert global_batches(wide, 1) == global_batches(wide, 4)
