"""Parquet files written by tasks, perhaps by two attempts of one task at once."""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def part_name(number: int) -> str:
    """Return the name of a part file; names sort like numbers."""
    return f"part-{number:05d}.parquet"


def next_part(folder: Path) -> int:
    """Return the number after the last part of a folder; parts that had no rows may be missing among them."""
    numbers = [int(path.stem.removeprefix("part-")) for path in folder.glob("part-*.parquet")]
    return max(numbers, default=-1) + 1


def remove_unfinished(folder: Path) -> None:
    """Remove what killed tasks have left below a folder."""
    for path in folder.rglob(".part-*.parquet.*"):
        path.unlink(missing_ok=True)


def write_parquet(
    table: pa.Table, path: Path, rows_per_row_group: int | None = None, ids: Collection[str] = ()
) -> None:
    """Write a file under a name of its own and rename it, so that a task that runs twice does no harm.

    Args:
        table: its rows.
        path: of the file.
        rows_per_row_group: default 1,048,576.
        ids: columns of whole numbers, or of lists of them, to be written bit-packed. Of shuffled ids that
            takes half the time of Parquet's dictionaries to write and to read, and no more bytes.
    """
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    leaves = {name: _leaf(table.schema.field(name)) for name in table.column_names}
    try:
        pq.write_table(
            table,
            unfinished,
            row_group_size=rows_per_row_group,
            compression="zstd",
            use_dictionary=[leaf for name, leaf in leaves.items() if name not in ids],
            column_encoding={leaves[name]: "DELTA_BINARY_PACKED" for name in ids} or None,
            use_compliant_nested_type=True,
        )
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _leaf(field: pa.Field) -> str:
    """Return the path of a column's values inside a Parquet file."""
    return f"{field.name}.list.element" if pa.types.is_list(field.type) else str(field.name)
