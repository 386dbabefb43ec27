"""Which row groups of a local Parquet file cannot be decoded, and copies of files without them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True)
class DamagedRowGroup:
    """A row group that cannot be decoded: its number, its rows, and why."""

    number: int
    rows: int
    reason: str


def damaged_row_groups(path: str) -> Iterator[DamagedRowGroup]:
    """Yield the row groups that cannot be decoded.

    Args:
        path: of a Parquet file whose footer can be read.
    """
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            try:
                file.read_row_group(number, use_threads=False)
            except (pa.ArrowException, OSError) as error:
                rows = file.metadata.row_group(number).num_rows
                yield DamagedRowGroup(number, rows, str(error).splitlines()[0])


def first_damage(path: str) -> DamagedRowGroup | None:
    """Return the first row group that cannot be decoded; None where all can, or the file cannot be opened."""
    try:
        return next(damaged_row_groups(path), None)
    except (pa.ArrowException, OSError):
        return None


def copied(path: str, row_groups: Sequence[int]) -> str:
    """Copy row groups of a file into a folder that lives as long as the process.

    Args:
        path: of the file.
        row_groups: numbers of those to copy.

    Returns:
        The path of the copy: that of the file below another root, so that patterns match it as well.
    """
    copy = in_copies(path)
    Path(copy).parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetFile(path) as file:
        columns = [file.schema.column(number) for number in range(len(file.schema))]
        # What was INT96 stays so: as another type, Spark would read another kind of timestamp.
        old = any(column.physical_type == "INT96" for column in columns)
        writer = pq.ParquetWriter(
            copy, file.schema_arrow, compression="snappy", use_deprecated_int96_timestamps=old
        )
        with writer:
            for number in row_groups:
                writer.write_table(file.read_row_group(number))
    return copy


def in_copies(path: str) -> str:
    """Return where the copy of a file or folder lies."""
    return f"{_copies()}{Path(path).absolute().as_posix()}"


@cache
def _copies() -> str:
    folder = tempfile.mkdtemp(prefix="shardrec-copies-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
