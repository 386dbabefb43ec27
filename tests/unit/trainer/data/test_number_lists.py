"""Lists of numbers in a data set: batches as of plain columns, and damaged ones named."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.support.datasets import WrittenDataset, write_dataset, write_split
from tests.unit.trainer.data.reading import counted, open_tiny, rows_of_table
from tests.unit.trainer.data.test_damaged_data import cast, put, refused, rewrite, second_file
from trainer.data.policy import ReadPolicy
from trainer.schema import Feature

READERS = ["arrow"] + (["petastorm"] if importlib.util.find_spec("petastorm") else [])


def dataset(folder: Path, **options: object) -> WrittenDataset:
    return write_dataset(folder, **{"rows": 700, "num_dense": 2, "list_dims": (5, 1), **options})  # type: ignore[arg-type]


def as_columns(written: WrittenDataset, folder: Path) -> WrittenDataset:
    """Write the same rows with each number of the lists in a column of its own."""
    spec, tables = written.manifest.spec, dict(written.tables)
    features: list[Feature] = []
    for feature in spec.features:
        if feature.kind != "dense" or feature.dim is None:
            features.append(feature)
            continue
        for place in range(feature.dim):
            name = f"{feature.name}_{place}"
            features.append(Feature(name=name, kind="dense", column=name))
            for split, table in tables.items():
                column = np.stack(written.tables[split].column(feature.name).to_numpy())[:, place]
                tables[split] = table.append_column(name, pa.array(column))
    splits = {split: write_split(folder, split, table, 64, 256) for split, table in tables.items()}
    changed = {"spec": spec.model_copy(update={"features": tuple(features)}), "splits": splits}
    manifest = written.manifest.model_copy(update=changed)
    manifest.save(folder)
    return WrittenDataset(folder, manifest, tables)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_are_those_of_plain_columns(tmp_path: Path, world_size: int, shuffle: bool) -> None:
    written = dataset(tmp_path / "lists", vector_dims=(4,))
    plain = as_columns(written, tmp_path / "plain")
    (tmp_path / "lists" / "vectors").rename(tmp_path / "plain" / "vectors")
    (tmp_path / "lists" / "vectors").symlink_to(tmp_path / "plain" / "vectors")
    assert written.manifest.spec.dense_width == plain.manifest.spec.dense_width == 2 + 5 + 1 + 4
    for rank in range(world_size):
        a, b = (open_tiny(d, rank, world_size, shuffle=shuffle, tail="pad") for d in (written, plain))
        pairs = list(zip(a.batches(1), b.batches(1), strict=True))
        assert pairs
        for mine, theirs in pairs:
            assert mine.dense_BF.dtype == theirs.dense_BF.dtype
            assert mine.dense_BF.tolist() == theirs.dense_BF.tolist()
            assert mine.rows_B.tolist() == theirs.rows_B.tolist()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("lists", [0, 1])
def test_every_row_is_read_once_with_its_lists(tmp_path: Path, reader: str, lists: int) -> None:
    written = dataset(tmp_path, num_lists=lists, num_sequences=0)
    keys = [feature.name for feature in written.manifest.spec.sparse]
    read = counted(open_tiny(written, reader=reader, tail="pad").batches(0), keys)
    assert read == Counter(rows_of_table(written))
    assert len(next(iter(read))[0]) == 2 + 5 + 1


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([1.0, 2.0], ["got:     2", "lists of 5 numbers"]),
        ([1.0, 2.0, 3.0, 4.0, float("nan")], ["nan", "a finite number"]),
        ([1.0, 2.0, None, 4.0, 5.0], ["1 nulls"]),
        (None, ["1 nulls"]),
    ],
)
def test_a_damaged_list_is_named(tmp_path: Path, value: object, told: list[str]) -> None:
    written = dataset(tmp_path)
    rewrite(second_file(written), put("n0", 100, value))
    refused(written, "part-00001.parquet", "row group 1", "'n0'", *told)


def test_a_list_of_another_type_is_named(tmp_path: Path) -> None:
    written = dataset(tmp_path)
    rewrite(second_file(written), cast("n0", pa.list_(pa.float64())))
    refused(written, "wrong type", "'n0'", "list<double>", "list<float>")


def test_rows_that_cannot_be_read_are_zeros(tmp_path: Path) -> None:
    written = dataset(tmp_path)
    rewrite(second_file(written), put("n0", 100, [1.0]))
    policy = ReadPolicy(on_corrupt="skip")
    with pytest.warns(UserWarning, match="skipping 64 rows"):
        batches = list(open_tiny(written, tail="pad", policy=policy).batches(0))
    skipped = np.concatenate([b.dense_BF[b.rows_B == -2].numpy() for b in batches])
    assert skipped.shape == (64, 8)
    assert not skipped.any()
