"""Ways in which a part file gets damaged."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq


def flip_bytes(path: Path, row_group: int, column: str) -> None:
    """Overwrite the pages of one column of a row group; the footer stays whole."""
    metadata = pq.ParquetFile(path).metadata.row_group(row_group)
    chunks = [metadata.column(number) for number in range(metadata.num_columns)]
    chunk = next(c for c in chunks if c.path_in_schema.partition(".")[0] == column)
    content = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(bytes(content))


def truncate(path: Path, size: int) -> None:
    """Keep the first bytes of a file."""
    path.write_bytes(path.read_bytes()[:size])
