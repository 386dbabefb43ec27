"""The petastorm reader: the same rows as the arrow reader, equal steps on all ranks, honest refusals."""

from __future__ import annotations

import importlib.util
import re
import sys
import threading
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.datasets import WrittenDataset, write_dataset
from tests.unit.trainer.data.reading import counted, open_tiny, rows_of_table
from tests.unit.trainer.data.test_damaged_data import Change, put, rewrite, second_file
from trainer.errors import DataError, UserError

installed = pytest.mark.skipif(
    importlib.util.find_spec("petastorm") is None, reason="petastorm is not installed"
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WrittenDataset:
    # A blank in the path: petastorm takes URLs.
    return write_dataset(tmp_path_factory.mktemp("for petastorm"), rows=1003, weight=True)


@pytest.fixture(scope="module")
def keys(written: WrittenDataset) -> list[str]:
    return [feature.name for feature in written.manifest.spec.sparse]


@installed
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_padded_ranks_together_read_every_row_once(
    written: WrittenDataset, keys: list[str], world_size: int
) -> None:
    readers = [
        open_tiny(written, rank, world_size, reader="petastorm", tail="pad") for rank in range(world_size)
    ]
    shares = [list(reader.batches(0)) for reader in readers]
    assert {len(share) for share in shares} == {readers[0].steps_per_epoch}
    assert {batch.size for share in shares for batch in share} == {64 // world_size}
    read = sum((counted(share, keys) for share in shares), Counter())
    assert read == Counter(rows_of_table(written))
    arrow = counted(open_tiny(written, tail="pad").batches(0), keys)
    assert read == arrow


@installed
@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_dropped_tail_gives_all_ranks_the_same_steps(
    written: WrittenDataset, keys: list[str], world_size: int
) -> None:
    readers = [open_tiny(written, rank, world_size, reader="petastorm") for rank in range(world_size)]
    shares = [list(reader.batches(0)) for reader in readers]
    assert {len(share) for share in shares} == {readers[0].steps_per_epoch}
    read = sum((counted(share, keys) for share in shares), Counter())
    assert sum(read.values()) == readers[0].steps_per_epoch * 64
    assert not read - Counter(rows_of_table(written))


@installed
def test_scalar_only_data_is_read_without_a_transform(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, rows=300, num_lists=0, num_sequences=0)
    reader = open_tiny(written, reader="petastorm", tail="pad")
    assert counted(reader.batches(0), ["s0", "s1"]) == Counter(rows_of_table(written))


@installed
@pytest.mark.parametrize("shuffle", [True, False])
def test_several_lists_and_sequences_are_read_as_arrow_reads_them(tmp_path: Path, shuffle: bool) -> None:
    written = write_dataset(
        tmp_path, rows=700, num_dense=0, num_sparse=1, num_lists=3, num_sequences=2, mean_length=20.0
    )
    # The second file holds no id at all in one of the lists, as a rare column does.
    rewrite(second_file(written), _without_ids("m1"))
    keys = [feature.name for feature in written.manifest.spec.sparse]
    readers = [
        open_tiny(written, reader=reader, tail="pad", shuffle=shuffle) for reader in ("arrow", "petastorm")
    ]
    arrow, petastorm = (counted(reader.batches(0), keys) for reader in readers)
    assert petastorm == arrow
    assert sum(arrow.values()) == 700
    assert sum(not row[1][keys.index("m1")] for row in arrow.elements()) >= 256


def _without_ids(name: str) -> Change:
    def change(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        return table.set_column(place, name, pa.array([[]] * len(table), pa.list_(pa.int64())))

    return change


@installed
def test_epochs_are_shuffled_differently_and_unshuffled_keeps_file_order(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, rows=512, num_lists=0, num_sequences=0)

    def dense(epoch: int, shuffle: bool) -> list[float]:
        reader = open_tiny(written, reader="petastorm", shuffle=shuffle)
        return [value for batch in reader.batches(epoch) for value in batch.dense_BF[:, 0].tolist()]

    in_order = written.tables["train"].column("d0").to_pylist()
    assert dense(0, shuffle=False) == in_order
    assert dense(0, shuffle=True) != in_order
    assert dense(0, shuffle=True) == dense(0, shuffle=True) != dense(1, shuffle=True)


@installed
def test_resume_inside_an_epoch_is_refused(written: WrittenDataset) -> None:
    reader = open_tiny(written, reader="petastorm")
    assert not reader.resumes_exactly
    with pytest.raises(UserError, match=r"cannot resume inside an epoch[\s\S]*data.reader: arrow"):
        reader.batches(0, first_step=1)


@installed
def test_fewer_row_groups_than_ranks_is_refused(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, rows=512, rows_per_row_group=256)
    with pytest.raises(UserError, match=r"2 row groups for 4 ranks[\s\S]*rows_per_row_group: 128"):
        open_tiny(written, world_size=4, reader="petastorm")


@installed
@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("rows", [1, 40])
def test_fewer_row_groups_than_ranks_are_padded_in_evaluation(
    tmp_path: Path, rows: int, world_size: int
) -> None:
    written = write_dataset(tmp_path, rows={"train": 64, "valid": rows}, rows_per_row_group=64, weight=True)
    keys = [feature.name for feature in written.manifest.spec.sparse]
    options = {"split": "valid", "tail": "pad", "shuffle": False, "reader": "petastorm"}
    readers = [open_tiny(written, rank, world_size, **options) for rank in range(world_size)]
    shares = [list(reader.batches(0)) for reader in readers]
    assert {len(share) for share in shares} == {readers[0].steps_per_epoch}
    read = sum((counted(share, keys) for share in shares), Counter())
    assert read == Counter(rows_of_table(written, "valid"))


@installed
def test_many_rows_left_out_are_told_with_a_size_that_leaves_out_fewer(tmp_path: Path) -> None:
    def steps(row_group: int, rank: int = 0, **options: Any) -> int:
        written = write_dataset(tmp_path / str(row_group), rows=1000, rows_per_row_group=row_group, **files)
        return open_tiny(written, rank, 2, reader="petastorm", **options).steps_per_epoch

    files: dict[str, Any] = {"rows_per_file": 1000, "num_lists": 0, "num_sequences": 0}
    # Ranks get 655 and 345 rows: the second ends the epoch after 10 batches of 32.
    with pytest.warns(UserWarning, match=r"640 of the 1,000 rows of split 'train'.*2 ranks") as caught:
        assert steps(655) == 10
    better = int(re.search(r"rows_per_row_group: (\d+)", str(caught[0].message))[1])  # type: ignore[index]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert steps(better) == 15
        assert steps(655, rank=1) == 10  # told once
        assert steps(655, tail="pad") == 21


@installed
def test_the_suggested_size_knows_that_row_groups_end_with_their_file(tmp_path: Path) -> None:
    # Groups of 500 would give 500 and 400, 100: ranks of 600 and 400 rows.
    written = write_dataset(tmp_path, rows=1000, rows_per_row_group=900, rows_per_file=900)
    with pytest.warns(UserWarning, match="192 of the 1,000 rows") as caught:
        open_tiny(written, 0, 2, reader="petastorm")
    size = int(re.search(r"rows_per_row_group: (\d+)", str(caught[0].message))[1])  # type: ignore[index]
    groups = [min(size, file - start) for file in (900, 100) for start in range(0, file, size)]
    assert min(sum(groups[::2]), sum(groups[1::2])) // 32 * 64 >= 1000 - 64


@installed
def test_too_few_rows_on_one_rank_is_refused(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, rows=100, rows_per_row_group=90)
    with pytest.raises(UserError, match=r"10 rows, a batch takes 32"):
        open_tiny(written, world_size=2, reader="petastorm")


@installed
def test_damaged_values_and_files_are_refused(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, rows=512, weight=True)
    rewrite(second_file(written), put("s0", 3, 99))
    with pytest.raises(DataError, match=r"'s0'[\s\S]*99"):
        list(open_tiny(written, reader="petastorm").batches(0))
    rewrite(second_file(written), put("s0", 3, None))
    with pytest.raises(DataError, match=r"'s0'"):
        list(open_tiny(written, reader="petastorm").batches(0))
    rewrite(second_file(written), lambda table: put("s0", 3, 1)(put("m0", 3, None)(table)))
    with pytest.raises(DataError, match=r"nulls[\s\S]*'m0'"):
        list(open_tiny(written, reader="petastorm").batches(0))
    second_file(written).write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"part-00001"):
        list(open_tiny(written, reader="petastorm").batches(0))


@installed
def test_leaving_early_stops_all_threads_and_prints_nothing(
    written: WrittenDataset, capfd: pytest.CaptureFixture[str]
) -> None:
    before = set(threading.enumerate())
    batches = open_tiny(written, reader="petastorm").batches(0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before
    assert capfd.readouterr().out == ""


@installed
def test_column_name_that_petastorm_cannot_take_is_refused(written: WrittenDataset) -> None:
    first, *others = written.manifest.spec.features
    spec = written.manifest.spec.model_copy(
        update={"features": (first.model_copy(update={"name": "price (EUR)"}), *others)}
    )
    renamed = WrittenDataset(
        written.folder, written.manifest.model_copy(update={"spec": spec}), written.tables
    )
    with pytest.raises(UserError, match=r"price \(EUR\)"):
        open_tiny(renamed, reader="petastorm")


def test_missing_petastorm_is_named_with_its_extra(
    written: WrittenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "petastorm", None)
    with pytest.raises(UserError, match=r"shardrec\[petastorm\]"):
        open_tiny(written, reader="petastorm")
