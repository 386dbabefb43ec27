"""Vectors in batches are those of the files, for every reader, rank and place to start from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.damage import flip_bytes
from tests.support.datasets import WrittenDataset, plain_columns, write_dataset
from tests.unit.trainer.data.reading import open_tiny
from trainer.batch import SKIPPED_ROW, Batch
from trainer.data import ReadPolicy
from trainer.data.vectors import Vectors, open_vectors
from trainer.errors import DataError
from trainer.schema import Manifest

DIMS = (5, 1)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WrittenDataset:
    folder = tmp_path_factory.mktemp("vectors")
    return write_dataset(folder, rows={"train": 700, "valid": 90}, vector_dims=DIMS, weight=True, seed=4)


@pytest.fixture(scope="module")
def plain(written: WrittenDataset, tmp_path_factory: pytest.TempPathFactory) -> WrittenDataset:
    return plain_columns(written, tmp_path_factory.mktemp("plain"))


def same(first: Batch, second: Batch) -> bool:
    pairs = [(first.dense_BF, second.dense_BF), (first.labels_BT, second.labels_BT)]
    pairs += [(first.weights_B, second.weights_B), (first.rows_B, second.rows_B)]
    pairs += [
        (first.sparse.values(), second.sparse.values()),
        (first.sparse.lengths(), second.sparse.lengths()),
    ]
    return first.sparse.keys() == second.sparse.keys() and all(torch.equal(a, b) for a, b in pairs)


def test_ids_are_looked_up_across_parts(written: WrittenDataset) -> None:
    found, _ = open_vectors(written.manifest, written.folder)
    ids = np.array([49, 0, 2, 1, 13, 14, 25, 26, 2], np.int32)
    out = np.full((len(ids), 9), 7.0, np.float32)
    found.look_up(ids, out[:, 2:7])
    np.testing.assert_array_equal(out[:, 2:7], written.vectors["v0"][ids])
    assert (out[:, :2] == 7).all()
    assert (out[:, 7:] == 7).all()
    assert (out[[1, 3], 2:7] == 0).all()
    assert not any(part.flags.owndata for part in found._parts)  # mapped, not loaded


@pytest.mark.parametrize("reader", ["arrow", "petastorm"])
@pytest.mark.parametrize(("split", "options"), [("train", {}), ("valid", {"tail": "pad", "shuffle": False})])
def test_batches_are_those_of_plain_dense_columns(
    written: WrittenDataset, plain: WrittenDataset, reader: str, split: str, options: dict[str, Any]
) -> None:
    if reader == "petastorm":
        pytest.importorskip("petastorm")
    mine = list(open_tiny(written, split=split, reader=reader, **options).batches(1))
    theirs = list(open_tiny(plain, split=split, reader=reader, **options).batches(1))
    assert len(mine) == len(theirs) > 1
    assert mine[0].dense_BF.shape == (64, 3 + sum(DIMS)) == (64, written.manifest.spec.dense_width)
    assert all(map(same, mine, theirs))


def test_without_lists_the_ids_of_vectors_stay_out_of_the_sparse_features(tmp_path: Path) -> None:
    made = write_dataset(tmp_path, num_dense=0, num_lists=0, num_sequences=0, vector_dims=[4])
    batch = next(iter(open_tiny(made).batches(0)))
    assert batch.sparse.keys() == ["s0", "s1"]
    rows = batch.rows_B.numpy()
    table = made.tables["train"].take(rows)
    np.testing.assert_array_equal(batch.dense_BF, made.vectors["v0"][table.column("v0").to_numpy()])
    np.testing.assert_array_equal(batch.sparse["s1"].values(), table.column("s1").to_numpy())


def test_ranks_and_a_later_start_see_the_same_vectors(written: WrittenDataset) -> None:
    whole = list(open_tiny(written).batches(0))
    assert all(map(same, list(open_tiny(written).batches(0, 4)), whole[4:]))
    ranks = [open_tiny(written, rank, 4).batches(0) for rank in range(4)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        by_row = {int(r): d for part in parts for r, d in zip(part.rows_B, part.dense_BF, strict=True)}
        assert all(torch.equal(by_row[int(r)], d) for r, d in zip(batch.rows_B, batch.dense_BF, strict=True))


def test_rows_that_cannot_be_read_have_vectors_of_zeros(written: WrittenDataset, tmp_path: Path) -> None:
    shutil.copytree(written.folder, tmp_path / "data")
    damaged = WrittenDataset(tmp_path / "data", written.manifest, written.tables)
    flip_bytes(tmp_path / "data" / "train" / "part-00000.parquet", 0, "d0")
    with pytest.warns(UserWarning, match="skipping"):
        batches = list(open_tiny(damaged, policy=ReadPolicy("skip")).batches(0))
    skipped = torch.cat([batch.dense_BF[batch.rows_B == SKIPPED_ROW] for batch in batches])
    assert len(skipped) > 0
    assert (skipped == 0).all()


def test_inputs_name_the_data_set_that_holds_their_vectors(written: WrittenDataset, tmp_path: Path) -> None:
    shutil.copytree(written.folder / "train", tmp_path / "train")
    with pytest.raises(DataError, match="vectors are missing"):
        open_tiny(WrittenDataset(tmp_path, written.manifest, written.tables))
    elsewhere = written.manifest.model_copy(update={"vectors_in": str(written.folder)})
    elsewhere.save(tmp_path)
    reader = open_tiny(WrittenDataset(tmp_path, Manifest.load(tmp_path), written.tables))
    assert all(map(same, list(reader.batches(0)), list(open_tiny(written).batches(0))))


def broken(path: Path, how: str) -> None:
    part = np.load(path)
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-3])
    elif how == "no array":
        path.write_bytes(b"not an array")
    elif how == "empty":
        path.write_bytes(b"")
    else:
        np.save(path, {"narrow": part[:, 1:], "double": part.astype(float), "short": part[1:]}[how])


@pytest.mark.parametrize(
    ("how", "what", "place"),
    [
        ("missing", "48", "vectors/v0"),
        ("short", "47 vectors in 3 files", "vectors/v0"),
        ("truncated", "truncated or damaged", "part-00001.npy"),
        ("no array", "truncated or damaged", "part-00001.npy"),
        ("empty", "truncated or damaged", "part-00001.npy"),
        ("narrow", "float32 [12, 4]", "part-00001.npy"),
        ("double", "float64 [12, 5]", "part-00001.npy"),
    ],
)
def test_broken_files_of_vectors_are_named(
    written: WrittenDataset, tmp_path: Path, how: str, what: str, place: str
) -> None:
    shutil.copytree(written.folder, tmp_path / "data")
    broken(tmp_path / "data" / "vectors" / "v0" / "part-00001.npy", how)
    with pytest.raises(DataError) as error:
        open_vectors(written.manifest, tmp_path / "data")
    assert what in str(error.value)
    assert place in str(error.value)


def test_no_vectors_at_all_are_a_table_of_zeros(tmp_path: Path) -> None:
    np.save(tmp_path / "part-00000.npy", np.empty((0, 2), np.float32))
    out = np.ones((2, 2), np.float32)
    Vectors(tmp_path, 2, 0).look_up(np.array([0, 1]), out)
    assert (out == 0).all()
