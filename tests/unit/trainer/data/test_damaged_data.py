"""Damaged or wrong part files: one clear error that names the place."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.datasets import WrittenDataset, write_dataset
from tests.unit.trainer.data.reading import open_tiny
from trainer.data.columns import Columns, DecodedRows
from trainer.errors import DataError

Change = Callable[[pa.Table], pa.Table]


def dataset(folder: Path) -> WrittenDataset:
    return write_dataset(folder, rows=512, rows_per_row_group=64, rows_per_file=256, weight=True)


def second_file(written: WrittenDataset) -> Path:
    return written.folder / written.manifest.splits["train"].files[1].path


def rewrite(path: Path, change: Change) -> None:
    pq.write_table(change(pq.read_table(path)), path, row_group_size=64)


def read_all(written: WrittenDataset) -> None:
    for _ in open_tiny(written).batches(0):
        pass


def refused(written: WrittenDataset, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        read_all(written)
    text = str(caught.value)
    for word in words:
        assert word in text, text


def put(name: str, row: int, value: object) -> Change:
    """Return a change that sets one value of a column."""

    def change(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        values = table.column(name).to_pylist()
        values[row] = value
        return table.set_column(place, name, pa.array(values, table.schema.field(place).type))

    return change


def cast(name: str, kind: pa.DataType) -> Change:
    def change(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        return table.set_column(place, name, table.column(name).cast(kind))

    return change


def test_untouched_data_is_read(tmp_path: Path) -> None:
    read_all(dataset(tmp_path))


def test_missing_part_file_is_named_before_reading(tmp_path: Path) -> None:
    written = dataset(tmp_path)
    second_file(written).unlink()
    with pytest.raises(DataError, match=r"missing[\s\S]*part-00001.parquet"):
        open_tiny(written)


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_truncated_part_file_is_named(tmp_path: Path, size: int) -> None:
    written = dataset(tmp_path)
    path = second_file(written)
    path.write_bytes(path.read_bytes()[:size])
    refused(written, "cannot be read", str(path))


def test_damaged_row_group_is_named(tmp_path: Path) -> None:
    written = dataset(tmp_path)
    path = second_file(written)
    # The third row group of `m0`: its pages are overwritten, the footer stays whole.
    column = pq.ParquetFile(path).metadata.row_group(2).column(5)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(bytes(content))
    refused(written, "cannot be decoded", str(path), "row group 2")


def test_other_row_count_than_in_the_manifest_is_named(tmp_path: Path) -> None:
    written = dataset(tmp_path)
    path = second_file(written)
    rewrite(path, lambda table: table.slice(0, 200))
    refused(written, "differs from the manifest", str(path), "200 rows in 4", "256 rows in 4")


def test_other_row_groups_than_in_the_manifest_are_named(tmp_path: Path) -> None:
    written = dataset(tmp_path)
    path = second_file(written)
    pq.write_table(pq.read_table(path), path, row_group_size=128)
    refused(written, "differs from the manifest", "256 rows in 2 row groups")


@pytest.mark.parametrize("name", ["d1", "s0", "m0", "h0", "label", "weight"])
def test_missing_column_is_named(tmp_path: Path, name: str) -> None:
    written = dataset(tmp_path)
    rewrite(second_file(written), lambda table: table.drop([name]))
    refused(written, "column is missing", str(second_file(written)), repr(name))


@pytest.mark.parametrize(
    ("name", "kind", "got"),
    [
        ("d1", pa.float64(), "double"),
        ("s0", pa.int32(), "int32"),
        ("s0", pa.string(), "string"),
        ("m0", pa.list_(pa.int32()), "list<int32>"),
        ("label", pa.int64(), "int64"),
    ],
)
def test_wrong_type_is_named(tmp_path: Path, name: str, kind: pa.DataType, got: str) -> None:
    written = dataset(tmp_path)
    rewrite(second_file(written), cast(name, kind))
    refused(written, "wrong type", str(second_file(written)), repr(name), got)


@pytest.mark.parametrize(
    ("name", "value", "got"),
    [
        ("d1", float("nan"), "nan"),
        ("d0", float("inf"), "inf"),
        ("d2", float("-inf"), "-inf"),
        ("s1", -1, "-1"),
        ("s1", 50, "50"),
        ("m0", [1, 2, 50], "50"),
        ("h0", [-7], "-7"),
        ("label", 0.5, "0.5"),
        ("label", 2.0, "2.0"),
        ("weight", -0.5, "-0.5"),
        ("weight", float("nan"), "nan"),
    ],
)
def test_unusable_value_is_named_with_its_row_group(
    tmp_path: Path, name: str, value: object, got: str
) -> None:
    written = dataset(tmp_path)
    rewrite(second_file(written), put(name, 70, value))
    refused(written, str(second_file(written)), "row group 1", repr(name), f"got:     {got} ")


def test_finite_numbers_whose_sum_overflows_are_no_error(tmp_path: Path) -> None:
    written = dataset(tmp_path)
    largest = float(np.finfo(np.float32).max)
    rewrite(second_file(written), lambda table: put("d0", 1, largest)(put("d0", 2, largest)(table)))
    read_all(written)


@pytest.mark.parametrize("name", ["d0", "s0", "m0", "label", "weight"])
def test_null_is_named(tmp_path: Path, name: str) -> None:
    written = dataset(tmp_path)
    rewrite(second_file(written), put(name, 200, None))
    refused(written, "nulls", str(second_file(written)), "row group 3", repr(name))


def test_null_inside_a_list_is_named(tmp_path: Path) -> None:
    written = dataset(tmp_path)
    rewrite(second_file(written), put("m0", 0, [1, None]))
    refused(written, "nulls", "row group 0", "'m0'")


def test_column_that_occurs_twice_is_named(tmp_path: Path) -> None:
    written = dataset(tmp_path)
    rewrite(second_file(written), lambda table: table.append_column("d0", table.column("d0")))
    refused(written, "column occurs twice", "'d0'")


def test_columns_that_no_feature_uses_are_not_decoded(tmp_path: Path) -> None:
    written = dataset(tmp_path)
    for file in written.manifest.splits["train"].files:
        path = written.folder / file.path
        metadata = pq.ParquetFile(path).metadata
        content = bytearray(path.read_bytes())
        for group in range(metadata.num_row_groups):
            column = metadata.row_group(group).column(metadata.num_columns - 1)
            assert re.fullmatch(r"keep\.row", column.path_in_schema)
            start = column.dictionary_page_offset or column.data_page_offset
            content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
        path.write_bytes(bytes(content))
    read_all(written)


@pytest.mark.parametrize(
    ("offsets", "got"),
    [
        ([0, 3, 1, 4], "list number 1[\\s\\S]*from 3 to 1 of 4 values"),
        ([0, 1, 2, 5], "list number 2[\\s\\S]*from 2 to 5 of 4 values"),
        ([-1, 1, 2, 4], "list number 0[\\s\\S]*from -1 to 1 of 4 values"),
    ],
)
@pytest.mark.parametrize("width", [np.int32, np.int64])
def test_lists_of_no_possible_length_are_named(
    tmp_path: Path, offsets: list[int], got: str, width: type
) -> None:
    columns = Columns(dataset(tmp_path).manifest.spec)
    kind = pa.list_(pa.int64()) if width is np.int32 else pa.large_list(pa.int64())
    memory = np.array([0, 1, 1, 4], width)
    damaged = pa.Array.from_buffers(kind, 3, [None, pa.py_buffer(memory)], children=[pa.array([1, 2, 3, 1])])
    memory[:] = offsets  # behind pyarrow's back: it looks at the first and the last when it makes an array

    def get(name: str) -> pa.Array:
        if name == "m0":
            return damaged
        if columns.types[name] == "list<int64>":
            return pa.array([[1], [], [2, 1]])
        return pa.array([1, 1, 1], columns.types[name])

    with pytest.raises(DataError, match=rf"no possible length[\s\S]*part 1, column 'm0', {got}"):
        DecodedRows(columns, get, "part 1")
    damaged = pa.array([[1], [], [2, 1]], kind)
    assert DecodedRows(columns, get, "part 1").lists[0].offsets.tolist() == [0, 1, 1, 3]


@pytest.mark.parametrize("fill", [0x00, 0x03, 0x55, 0xFF])
def test_damaged_lengths_of_lists_are_named(tmp_path: Path, fill: int) -> None:
    """Lengths lie in a page as levels; damaged ones must not come through as other lists."""
    written = dataset(tmp_path)
    path = second_file(written)
    metadata = pq.ParquetFile(path).metadata.row_group(2)
    chunks = [metadata.column(number) for number in range(metadata.num_columns)]
    chunk = next(chunk for chunk in chunks if chunk.path_in_schema.startswith("m0."))
    content = bytearray(path.read_bytes())
    stop = (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size
    content[chunk.data_page_offset + 40 : stop] = bytes([fill]) * (stop - chunk.data_page_offset - 40)
    path.write_bytes(bytes(content))
    refused(written, str(path), "row group 2")
