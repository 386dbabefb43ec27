"""What a task does with sorted vectors: looks at them, and writes them as `.npy`, batch by batch."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark import TaskContext

from jobs.preparation.columns import BAD_LINE
from jobs.preparation.rows import RawColumns
from jobs.preparation.text_rows import bad_line_error
from trainer.errors import DataError
from trainer.features import raw_values

FOUND = "found string"
HASHES = ("a", "b")
_IDS = pa.schema([("value", pa.string())])
_VOCABULARY = pa.schema([("value", pa.string()), ("id", pa.int64()), ("count", pa.int64())])
_HEADER_BYTES = 128
_COPIED_BYTES = 1 << 20


class Problem(str, Enum):
    """What can be wrong with a row of a source of vectors, the most basic first."""

    LINE = "line"
    NO_ID = "no id"
    TWICE = "twice"
    NULL = "null"
    LENGTH = "length"
    NOT_FINITE = "not finite"


def problem_error(problem: Problem, count: int, quote: str, dim: int, where: str) -> DataError:
    """Return the error of a number of rows, one of which is quoted.

    Args:
        problem: of all of them.
        count: of the rows.
        quote: an id, or the line that cannot be read.
        dim: length of the vectors.
        where: the source.
    """
    if problem is Problem.LINE:
        return bad_line_error(count, quote)
    what, got, fixes = {
        Problem.NO_ID: ("{} row(s) of vectors have no id", None, ["remove those rows"]),
        Problem.TWICE: ("{} row(s) of vectors repeat an id", f"id {quote!r}", ["keep one row per id"]),
        Problem.NULL: ("{} id(s) have no vector", f"id {quote!r}: null", ["remove those rows"]),
        Problem.LENGTH: (
            f"{{}} vector(s) have another length than {dim or 'a vector can have'}",
            f"id {quote}",
            ["write lists of one length"],
        ),
        Problem.NOT_FINITE: (
            "{} vector(s) hold values that are null, NaN, infinite, or too large for 32-bit floats",
            f"id {quote!r}",
            ["mend those vectors, or remove their rows"],
        ),
    }[problem]
    return DataError(what.format(f"{count:,}"), where=where, got=got, fixes=fixes)


@dataclass
class Found:
    """What a task has seen of its part.

    Attributes:
        part: its number.
        rows: in it.
        hashes: sums of the rows' hashes.
        bad: by problem how many rows have it, and the least quote.
    """

    part: int
    rows: int = 0
    hashes: list[int] = field(default_factory=lambda: [0, 0])
    bad: dict[Problem, tuple[int, str]] = field(default_factory=dict)

    def note(self, problem: Problem, wrong: NDArray[np.bool_], quotes: pa.Array) -> None:
        """Note bad rows; `quotes` holds a text for each row."""
        if wrong.any():
            count, least = self.bad.get(problem, (0, None))
            texts = [str(text) for text in quotes.filter(pa.array(wrong)).to_pylist() if text is not None]
            quote = min([*texts, *([] if least is None else [least])], default="")
            self.bad[problem] = count + int(wrong.sum()), quote

    def as_json(self) -> str:
        """Return it as text."""
        return json.dumps([self.part, self.rows, self.hashes, {k.value: v for k, v in self.bad.items()}])

    @classmethod
    def from_json(cls, text: str) -> Found:
        """Return what `as_json` wrote."""
        part, rows, hashes, bad = json.loads(text)
        return cls(part, rows, hashes, {Problem(k): (count, quote) for k, (count, quote) in bad.items()})


def print_ids(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Make texts of the first column of batches, as of the ids of rows."""
    for batch in batches:
        tokens = raw_values.tokens(batch.column(0), "id")
        texts = tokens.texts().take(pa.array(tokens.codes, mask=tokens.missing))
        yield pa.RecordBatch.from_arrays([texts, *batch.columns[1:]], ["value", *batch.schema.names[1:]])


@dataclass(frozen=True)
class Parts:
    """Writes each partition as one part of vectors and one of ids, unless something is wrong with it.

    Attributes:
        folder: which all executors reach.
        dim: length of the vectors.
    """

    folder: str
    dim: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Write the part of this task's rows, sorted by id, and tell what was found."""
        context = TaskContext.get()
        assert context is not None, "runs in a task"
        found = Found(context.partitionId())
        last: str | None = None
        with ExitStack() as open_files:
            writer: _Writer | None = None
            for batch in batches:
                if not batch.num_rows:
                    continue
                vectors_ND = self._checked(batch, last, found)
                last = batch.column("value")[-1].as_py()
                if vectors_ND is not None and not found.bad:
                    writer = writer or _Writer(Path(self.folder), found.part, self.dim, open_files)
                    writer.write(batch.column("value"), vectors_ND)
                found.rows += batch.num_rows
            if writer is not None and not found.bad:
                writer.finish()
        if found.rows:
            yield pa.RecordBatch.from_arrays([pa.array([found.as_json()])], ["found"])

    def _checked(self, batch: pa.RecordBatch, last: str | None, found: Found) -> NDArray[np.float32] | None:
        """Note what is wrong with some rows; return the vectors, float32 [N, dim], where nothing is."""
        ids, vectors, lines = (batch.column(name) for name in ("value", "vector", BAD_LINE))
        found.note(Problem.LINE, _mask(lines.is_valid()), lines)
        whole = _mask(lines.is_null())
        found.note(Problem.NO_ID, whole & _mask(ids.is_null()), ids)
        before = pa.concat_arrays([pa.array([last], pa.string()), ids[:-1].cast(pa.string())])
        found.note(Problem.TWICE, _mask(pc.fill_null(pc.equal(ids, before), False)), ids)
        null = _mask(vectors.is_null())
        found.note(Problem.NULL, whole & null, ids)
        lengths = pc.fill_null(pc.list_value_length(vectors), -1).to_numpy(zero_copy_only=False)
        other = ~null & ((lengths != self.dim) | (lengths == 0))
        if other.any():
            shown = [f"{i!r}: {n} numbers" for i, n in zip(ids.to_pylist(), lengths.tolist(), strict=True)]
            found.note(Problem.LENGTH, other, pa.array(shown))
        fine = pa.array(~null & ~other)
        floats = pc.fill_null(vectors.filter(fine).flatten(), np.nan).to_numpy(zero_copy_only=False)
        made: NDArray[np.float32] = floats.astype(np.float32, copy=False).reshape(-1, max(self.dim, 1))
        found.note(Problem.NOT_FINITE, ~np.isfinite(made).all(axis=1), ids.filter(fine))
        for place, name in enumerate(HASHES):
            found.hashes[place] += _sum(batch.column(name).to_numpy(zero_copy_only=False).view(np.uint64))
        return made if len(made) == batch.num_rows else None


class _Writer:
    """Writes under names of its own, so that a task that runs twice does no harm."""

    def __init__(self, folder: Path, part: int, dim: int, open_files: ExitStack) -> None:
        self._dim, self._rows = dim, 0
        mark = uuid.uuid4().hex
        self._vectors, self._ids = folder / part_name(part), folder / "ids" / id_part(part)
        self._unfinished = [path.with_name(f".{path.name}.{mark}") for path in (self._vectors, self._ids)]
        for path in self._unfinished:
            open_files.callback(path.unlink, missing_ok=True)
        # The header, which comes first, tells how many vectors there are; and volumes of Databricks take no
        # file that is not written from front to back.
        self._body = open_files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed with it
        self._table = open_files.enter_context(pq.ParquetWriter(self._unfinished[1], _IDS))

    def write(self, ids: pa.Array, vectors_ND: NDArray[np.float32]) -> None:
        """Add N vectors."""
        self._body.write(np.ascontiguousarray(vectors_ND, dtype="<f4").data)
        self._table.write_table(pa.table([ids.cast(pa.string())], schema=_IDS))
        self._rows += len(ids)

    def finish(self) -> None:
        """Put the files in place."""
        self._body.seek(0)
        with self._unfinished[0].open("wb") as file:
            file.write(_header(self._rows, self._dim))
            shutil.copyfileobj(self._body, file, _COPIED_BYTES)
        self._table.close()
        for path, name in zip(self._unfinished, (self._vectors, self._ids), strict=True):
            os.replace(path, name)


def part_name(number: int) -> str:
    """Return the file name of a part of vectors."""
    return f"part-{number:05d}.npy"


def id_part(number: int) -> str:
    """Return the file name of the ids of a part."""
    return f"part-{number:05d}.parquet"


def number_ids(batches: Iterator[RawColumns]) -> Iterator[pa.RecordBatch]:
    """Write the ids of parts with their numbers as parts of a vocabulary; tell two sums over their hashes."""
    for columns in batches:
        for source, target, first in zip(*(columns[n].to_pylist() for n in columns), strict=True):
            sums = _numbered(Path(source), Path(target), first)
            yield pa.RecordBatch.from_arrays([pa.array([str(part)]) for part in sums], ["a", "b"])


def _numbered(source: Path, target: Path, first: int) -> tuple[int, int]:
    unfinished, sums = target.with_name(f".{target.name}.{uuid.uuid4().hex}"), (0, 0)
    try:
        with (
            pq.ParquetFile(source) as file,
            pq.ParquetWriter(unfinished, _VOCABULARY, compression="zstd") as writer,
        ):
            for batch in file.iter_batches():
                values = batch.column(0)
                ids = np.arange(first, first + len(values), dtype=np.int64)
                ones = np.ones(len(values), np.int64)
                writer.write_table(pa.table([values, pa.array(ids), pa.array(ones)], schema=_VOCABULARY))
                a, b = _pair_hashes(values, ids)
                sums = sums[0] + a, sums[1] + b
                first += len(values)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
    return sums


def _pair_hashes(values: pa.Array, ids: NDArray[np.int64]) -> tuple[int, int]:
    """Return two sums over all pairs of value and id, which need no order."""
    texts = pd.util.hash_array(values.to_numpy(zero_copy_only=False), categorize=False)
    numbers = [pd.util.hash_array(part) for part in (ids, ~ids)]
    return _sum(pd.util.hash_array(texts + numbers[0])), _sum(pd.util.hash_array(texts ^ numbers[1]))


def _sum(hashes: NDArray[np.uint64]) -> int:
    return int(hashes.sum(dtype=np.uint64))


def _header(rows: int, dim: int) -> bytes:
    """Return the head of a `.npy` file of version 1.0, padded so that its length is known beforehand."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim}), }}"
    body = text.ljust(_HEADER_BYTES - 11).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body


def _mask(found: pa.Array) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = found.to_numpy(zero_copy_only=False)
    return mask
