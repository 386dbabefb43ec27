"""Readers of several labels: each row has those that were written, NaN where it does not count."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.datasets import WrittenDataset, with_tasks, write_dataset
from tests.unit.trainer.data.reading import open_tiny
from trainer.errors import DataError

COLUMNS = ("label", "label__second", "label__third")
READERS = [
    "arrow",
    pytest.param(
        "petastorm",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("petastorm") is None, reason="petastorm is not installed"
        ),
    ),
]


@pytest.fixture
def written(tmp_path: Path) -> WrittenDataset:
    return with_tasks(write_dataset(tmp_path / "one", rows=203), tmp_path / "data")


def expected(written: WrittenDataset) -> np.ndarray:
    table = written.tables["train"]
    return np.column_stack([table.column(name).to_numpy() for name in COLUMNS])


@pytest.mark.parametrize("reader", READERS)
def test_a_row_has_the_labels_of_all_its_tasks(written: WrittenDataset, reader: str) -> None:
    first = written.manifest.spec.dense[0].name
    row_of = {value: row for row, value in enumerate(written.tables["train"].column(first).to_pylist())}
    labels, seen = expected(written), []
    for batch in open_tiny(written, reader=reader, tail="pad").batches(0):
        assert batch.labels_BT.shape == (64, 3)
        assert not batch.labels_BT[batch.weights_B == 0].any()  # padding
        for dense_F, labels_T in zip(
            batch.dense_BF[batch.weights_B > 0], batch.labels_BT[batch.weights_B > 0], strict=True
        ):
            row = row_of[dense_F[0].item()]
            np.testing.assert_array_equal(labels_T.numpy(), labels[row].astype(np.float32))
            seen.append(row)
    assert sorted(seen) == list(range(203))
    assert np.isnan(labels[:, 1:]).any(axis=0).all()


@pytest.mark.parametrize(
    ("column", "value", "allowed"),
    [
        ("label", None, "no nulls"),
        ("label__second", 2.0, "0 or 1"),
        ("label__third", np.inf, "a finite number"),
    ],
)
def test_a_label_that_its_task_cannot_have_is_named(
    written: WrittenDataset, column: str, value: float | None, allowed: str
) -> None:
    path = written.folder / written.manifest.splits["train"].files[0].path
    table = pq.read_table(path)
    values = [value, *table.column(column).to_pylist()[1:]]
    place = table.column_names.index(column)
    table = table.set_column(place, column, pa.array(values, pa.float32()))
    pq.write_table(table, path, row_group_size=64)
    with pytest.raises(DataError) as error:
        list(open_tiny(written).batches(0))
    assert f"column '{column}'" in str(error.value)
    assert allowed in str(error.value)
