"""Writes one file of synthetic rows with Arrow, and counts its rows by their true probability.

This is what Spark's tasks run: a task gets numbers of files, and hands back counts, never rows.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.preparation.failures import RAISED
from jobs.synthesis.blocks import Values, make_block
from jobs.synthesis.draws import BLOCK_ROWS, Ids, uniforms
from jobs.synthesis.shape import Shape
from jobs.synthesis.truth import LEVELS, Truth, probabilities

ROWS_FOLDER = "rows"
METADATA_KEY = "shardrec.synthetic"
LABEL = "synthetic rows made by shardrec synth; no real users, items or events"
_BLOCKS_PER_ROW_GROUP = 8
_HEX = np.array([f"{number:02x}".encode() for number in range(256)], dtype="S2")

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class FileWriter:
    """Writes files of a shape into a folder that all tasks and the driver share."""

    shape: Shape
    truth: Truth
    folder: str

    def __call__(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Write the files that the column of the batches numbers; yield counts by level (`mapInArrow`)."""
        for batch in batches:
            for number in batch.column(0).to_pylist():
                rows, positives = write_file(self.shape, self.truth, Path(self.folder), number)
                levels = np.flatnonzero(rows)
                arrays = [pa.array(values) for values in (levels, rows[levels], positives[levels])]
                yield pa.RecordBatch.from_arrays(arrays, names=["level", "rows", "positives"])


def file_name(shape: Shape, number: int) -> str:
    """Return the name of a file; it says by itself that the rows are synthetic."""
    return f"synthetic-{number:06d}.{shape.format}"


def write_file(shape: Shape, truth: Truth, folder: Path, number: int) -> tuple[Counts, Counts]:
    """Write one file whole or not at all, the same whoever writes it, however often.

    Returns:
        Rows and positives of the file by level of their true probability, [LEVELS] each.

    Raises:
        FileNotFoundError: the folder is not there.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{RAISED}a task does not see the output folder {folder}: it must be mounted on every host"
        )
    name = file_name(shape, number)
    unfinished = folder / f".{name}.{secrets.token_hex(4)}"
    rows, positives = np.zeros(LEVELS, np.int64), np.zeros(LEVELS, np.int64)
    groups = _row_groups(shape, truth, *shape.rows_of_file(number))
    first = next(groups)
    try:
        with _writer(shape, unfinished, first[0].schema) as writer:
            for table, levels, labels in chain([first], groups):
                writer.write_table(table)
                rows += np.bincount(levels, minlength=LEVELS)
                positives += np.bincount(levels[labels], minlength=LEVELS)
        unfinished.replace(folder / name)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
    return rows, positives


def batch_of(shape: Shape, truth: Truth, number: int) -> tuple[Any, Counts, NDArray[np.bool_]]:
    """Return a block of rows as an Arrow batch, with the levels of their probabilities and their labels."""
    block = make_block(shape, number)
    levels = truth.levels(block.signal)
    labels = uniforms(shape.seed, "label", number) < probabilities(levels)
    arrays = {"label": pa.array(labels.astype(np.int32))}
    for name, column in block.columns.items():
        arrays[name] = _array(column, hex_ids=shape.hex_ids)
    if shape.format == "tsv":
        for name in shape.list_columns:
            arrays[name] = pc.binary_join(arrays[name].cast(pa.list_(pa.string())), "|")
    return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays)), levels, labels


def _writer(shape: Shape, path: Path, schema: Any) -> Any:
    if shape.format == "parquet":
        return pq.ParquetWriter(path, schema, compression="zstd", version="2.6")
    options = pa_csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    return pa_csv.CSVWriter(str(path), schema, write_options=options)


def _row_groups(
    shape: Shape, truth: Truth, start: int, stop: int
) -> Iterator[tuple[Any, Counts, NDArray[np.bool_]]]:
    """Yield tables of whole blocks, cut to the rows from `start` to `stop`, with levels and labels."""
    blocks = range(start // BLOCK_ROWS, -(-stop // BLOCK_ROWS))
    for first in range(blocks.start, blocks.stop, _BLOCKS_PER_ROW_GROUP):
        parts = []
        for number in range(first, min(first + _BLOCKS_PER_ROW_GROUP, blocks.stop)):
            low = max(start - number * BLOCK_ROWS, 0)
            high = min(stop - number * BLOCK_ROWS, BLOCK_ROWS)
            batch, levels, labels = batch_of(shape, truth, number)
            parts.append((batch.slice(low, high - low), levels[low:high], labels[low:high]))
        table = pa.Table.from_batches([part[0] for part in parts])
        yield (
            table.replace_schema_metadata({METADATA_KEY: LABEL}),
            np.concatenate([part[1] for part in parts]),
            np.concatenate([part[2] for part in parts]),
        )


def _array(column: Values, *, hex_ids: bool) -> Any:
    values, items_missing = column.values, None if column.lengths is not None else column.missing
    if values.dtype != np.uint32:
        array = pa.array(values, mask=items_missing)
    elif hex_ids:
        array = _hex_array(values, items_missing)
    else:
        array = pa.array(values.astype(np.int64), mask=items_missing)
    if column.lengths is None:
        return array
    offsets = np.concatenate([[0], np.cumsum(column.lengths)]).astype(np.int32)
    # A null offset makes a null list; the last one ends the column.
    mask = None if column.missing is None else np.append(column.missing, False)
    return pa.ListArray.from_arrays(pa.array(offsets, mask=mask), array)


def _hex_array(ids: Ids, missing: NDArray[np.bool_] | None) -> Any:
    """Return eight hex digits for each id, made by looking up its four bytes."""
    digits = _HEX[ids.astype(">u4").view(np.uint8)]
    offsets = np.arange(len(ids) + 1, dtype=np.int32) * 8
    present = None if missing is None else pa.py_buffer(np.packbits(~missing, bitorder="little"))
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(digits), present)
