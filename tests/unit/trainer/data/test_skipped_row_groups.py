"""`on_corrupt: skip`: zero-weight rows stand in for damaged row groups, and no other row moves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support.damage import flip_bytes, truncate
from tests.support.datasets import WrittenDataset, write_dataset
from tests.unit.trainer.data.reading import global_batches, open_tiny
from trainer.batch import SKIPPED_ROW, Batch
from trainer.config import RunConfig
from trainer.data import ReadPolicy
from trainer.errors import ConfigError, DamagedError, DataError

SKIP = ReadPolicy(on_corrupt="skip")

pytestmark = pytest.mark.filterwarnings("ignore:skipping .* rows:UserWarning")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> WrittenDataset:
    """1,003 rows in files of 256 and row groups of 64: lanes share row groups."""
    return write_dataset(tmp_path_factory.mktemp("whole"), rows=1003, weight=True)


def copy_of(whole: WrittenDataset, folder: Path) -> tuple[WrittenDataset, Path]:
    """Return a copy of the data set, and the path of its second part file."""
    copy = WrittenDataset(shutil.copytree(whole.folder, folder / "copy"), whole.manifest, whole.tables)
    return copy, copy.folder / whole.manifest.splits["train"].files[1].path


def put_unusable_id(path: Path) -> None:
    """Write an id beyond the table into the third row group, as flipped bytes of a plain page may."""
    table = pq.read_table(path)
    values = table.column("s0").to_numpy().copy()
    values[130] = 1 << 40
    pq.write_table(
        table.set_column(table.schema.get_field_index("s0"), "s0", [values]), path, row_group_size=64
    )


DAMAGES: dict[str, tuple[Callable[[Path], None], range]] = {
    "flipped bytes": (lambda path: flip_bytes(path, 2, "m0"), range(384, 448)),
    "unusable value": (put_unusable_id, range(384, 448)),
    "truncated": (lambda path: truncate(path, 5000), range(256, 512)),
    "empty": (lambda path: truncate(path, 0), range(256, 512)),
    "missing": (lambda path: path.unlink(), range(256, 512)),
}


def contents(batch: Batch) -> list[np.ndarray]:
    """Return everything that a batch holds with one row per row of the batch; short lists end in -1."""
    lists = [jagged.to_padded_dense(100, -1.0).numpy() for jagged in batch.sparse.to_dict().values()]
    assert all(int(jagged.lengths().max()) <= 100 for jagged in batch.sparse.to_dict().values())
    return [getattr(batch, n).numpy() for n in ("dense_BF", "labels_BT", "weights_B", "rows_B")] + lists


def blank(batch: Batch) -> list[np.ndarray]:
    """Return what stands in for one row: zeros, id 0, empty lists."""
    dense = [np.zeros(batch.dense_BF.shape[1]), np.zeros(1), np.zeros(()), np.full((), SKIPPED_ROW)]
    lists = [np.where(np.arange(100) < key.startswith("s"), 0, -1) for key in batch.sparse.keys()]  # noqa: SIM118
    return dense + lists


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_rows_are_blank_and_all_others_keep_their_places(
    whole: WrittenDataset, tmp_path: Path, damage: str
) -> None:
    copy, part = copy_of(whole, tmp_path)
    do, lost = DAMAGES[damage]
    do(part)
    seen = []
    for tail in ("drop", "pad"):
        good = open_tiny(whole, tail=tail).batches(1)
        for batch, other in zip(open_tiny(copy, tail=tail, policy=SKIP).batches(1), good, strict=True):
            skipped = np.isin(other.rows_B, lost)
            seen += other.rows_B[skipped].tolist()
            for found, expected, empty in zip(contents(batch), contents(other), blank(batch), strict=True):
                assert np.array_equal(found[~skipped], expected[~skipped])
                assert np.array_equal(found[skipped], np.broadcast_to(empty, found[skipped].shape))
    assert set(seen) == set(lost)


def test_global_batches_are_the_same_at_every_world_size_and_after_a_resume(
    whole: WrittenDataset, tmp_path: Path
) -> None:
    copy, part = copy_of(whole, tmp_path)
    flip_bytes(part, 2, "d1")
    alone = global_batches(copy, 1, policy=SKIP)
    assert sum(map(len, alone)) < 64 * len(alone)
    for world_size in (2, 4, 8):
        assert global_batches(copy, world_size, policy=SKIP) == alone
    assert global_batches(copy, 2, first_step=5, policy=SKIP) == alone[5:]


def test_skipped_rows_are_counted_once_over_all_ranks(whole: WrittenDataset, tmp_path: Path) -> None:
    copy, part = copy_of(whole, tmp_path)
    part.unlink()
    for world_size in (1, 4):
        ranks = [
            open_tiny(copy, rank, world_size, tail="pad", shuffle=False, policy=SKIP)
            for rank in range(world_size)
        ]
        numbers = np.concatenate([batch.rows_B.numpy() for reader in ranks for batch in reader.batches(0)])
        assert (numbers == SKIPPED_ROW).sum() == 256
        assert (numbers >= 0).sum() == 1003 - 256


def test_what_is_skipped_is_told_with_file_and_row_group(whole: WrittenDataset, tmp_path: Path) -> None:
    copy, part = copy_of(whole, tmp_path)
    flip_bytes(part, 2, "d1")
    with pytest.warns(UserWarning, match=rf"skipping 64 rows: .*{part.name}, row group 2"):
        list(open_tiny(copy, policy=SKIP).batches(0))
    part.unlink()
    with pytest.warns(UserWarning, match=rf"skipping 256 rows: .*missing.*{part.name}"):
        open_tiny(copy, policy=SKIP)


@pytest.mark.parametrize("damage", DAMAGES)
def test_by_default_damage_is_an_error_that_names_the_place(
    whole: WrittenDataset, tmp_path: Path, damage: str
) -> None:
    copy, part = copy_of(whole, tmp_path)
    DAMAGES[damage][0](part)
    with pytest.raises(DamagedError) as caught:
        list(open_tiny(copy).batches(0))
    assert str(part) in str(caught.value)
    assert len(DAMAGES[damage][1]) == 256 or "row group 2" in str(caught.value)


def test_file_of_another_data_set_is_never_skipped(whole: WrittenDataset, tmp_path: Path) -> None:
    copy, part = copy_of(whole, tmp_path)
    pq.write_table(pq.read_table(part).slice(0, 200), part, row_group_size=64)
    with pytest.raises(DataError, match="differs from the manifest"):
        list(open_tiny(copy, policy=SKIP).batches(0))


def test_petastorm_refuses_to_skip(whole: WrittenDataset) -> None:
    with pytest.raises(ConfigError, match="needs `reader: arrow`"):
        RunConfig.from_dict(
            {
                "name": "x",
                "data": {"label": {"column": "y"}, "reader": "petastorm", "on_corrupt": "skip"},
                "features": {"dense": [{"columns": "d*"}]},
                "model": {"name": "dlrm"},
            },
            where="test",
        )
    pytest.importorskip("petastorm")
    with pytest.raises(ConfigError, match="cannot skip"):
        open_tiny(whole, reader="petastorm", policy=SKIP)
