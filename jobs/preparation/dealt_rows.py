"""Raw rows dealt by the pass that looks at them, so that writing neither reads nor hashes them again.

Which part a row belongs to depends on how many rows each split has, which nobody knows before that pass. So
it deals by a guess; where that was wrong, a part takes its rows out of the guessed parts that overlap it.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.preparation.columns import ORDER, SPLIT
from jobs.preparation.rows import RawColumns, rows_at_once, run_tasks
from jobs.preparation.statistics import Answers
from jobs.preparation.streams import append_stream, stream_at
from jobs.preparation.transform import Encodable
from jobs.preparation.writing import (
    Encode,
    Layout,
    WritePart,
    added_up,
    make_folders,
    narrow_features,
    taken,
)
from trainer.features.raw_values import one_array
from trainer.schema import SPLITS, FeatureSpec

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_INDEX = ".npy"


@dataclass(frozen=True)
class Dealing:
    """Where tasks of this machine deal rows to, and into which parts.

    Attributes:
        folder: of a file per task, and of an index per task: part, start and size of each stream in its file.
        layout: the parts by guess.
    """

    folder: str
    layout: Layout

    @contextmanager
    def dealer(self, task: object) -> Iterator[Dealer]:
        """Return what deals the rows of a task; they count when all are dealt, and once if it runs twice."""
        name = hashlib.sha256(repr(task).encode()).hexdigest()
        path = Path(self.folder) / f"{name}.{uuid.uuid4().hex}"
        with pa.OSFile(str(path), "wb") as file:
            dealer = Dealer(self.layout, file)
            yield dealer
        index = path.with_name(f"{path.name}.index")
        with index.open("wb") as places:
            np.save(places, np.array(sorted(dealer.streams), dtype=np.int64).reshape(-1, 3))
        os.replace(path, path.with_name(name))
        os.replace(index, path.with_name(name + _INDEX))

    def is_whole(self, tasks: int) -> bool:
        """Return whether so many tasks have dealt their rows."""
        return len(list(Path(self.folder).glob(f"*{_INDEX}"))) == tasks

    def rows(self, layout: Layout, number: int) -> pa.Table | None:
        """Return the rows of a part of the true layout, None where there are none."""
        split, overlapping = self._overlapping(layout, number)
        found = []
        for index in sorted(Path(self.folder).glob(f"*{_INDEX}")):
            streams = np.load(index, mmap_mode="r")
            first, last = np.searchsorted(streams[:, 0], [overlapping.start, overlapping.stop])
            path = str(index).removesuffix(_INDEX)
            found += [stream_at(path, int(start), int(size)) for _, start, size in streams[first:last]]
        if layout.parts != self.layout.parts:
            found = [_of_part(table, split, layout, number) for table in found]
        rows = pa.concat_tables(found) if found else None
        return rows if rows is not None and rows.num_rows else None

    def _overlapping(self, layout: Layout, number: int) -> tuple[str, range]:
        """Return the split of a part, and the guessed parts that may hold rows of it."""
        first = 0
        for split, parts, guessed in zip(SPLITS, layout.parts, self.layout.parts, strict=True):
            if number < parts:
                # One more on each side: shares are rounded.
                low, high = number * guessed // parts - 1, -(-(number + 1) * guessed // parts) + 1
                if parts == guessed:
                    low, high = number, number + 1
                return split, range(first + max(0, low), first + min(guessed, high))
            number -= parts
            first += guessed
        raise AssertionError("no such part")


class Dealer:
    """Deals the rows of one task into streams of one file."""

    def __init__(self, layout: Layout, file: pa.NativeFile) -> None:
        self.streams: list[tuple[int, int, int]] = []
        self._layout, self._file = layout, file

    def deal(self, columns: RawColumns, unsent: Collection[str] = (SPLIT,)) -> RawColumns:
        """Deal rows with `SPLIT` and `ORDER`; return them in the order of their parts, those of train first.

        Args:
            columns: the rows.
            unsent: columns not to hand on.
        """
        by_part, bounds = self._layout.by_part(columns[SPLIT], columns[ORDER].to_numpy())
        ordered = {name: taken(column, by_part) for name, column in columns.items()}
        table = pa.table({name: column for name, column in ordered.items() if name not in unsent})
        for number, start, stop in bounds:
            self.streams.append((number, *append_stream(table.slice(start, stop - start), self._file)))
        return ordered


def _of_part(table: pa.Table, split: str, layout: Layout, number: int) -> pa.Table:
    splits = pa.array([split]).take(pa.array(np.zeros(table.num_rows, dtype=np.int64)))
    parts = layout.part_of(splits, table[ORDER].to_numpy())
    return table.filter(pa.array(parts == number))


def write_dealt(
    dealing: Dealing,
    rows: Encodable,
    others: Mapping[str, str],
    layout: Layout,
    dataset: Path,
    spark: SparkSession,
    spec: FeatureSpec,
    *,
    rows_per_row_group: int,
) -> Answers:
    """Do what `write_splits` does with rows that were dealt.

    Args:
        dealing: of all rows.
        rows: the features to make of them.
        others: see `write_splits`, as for what follows.
        layout: parts of each split.
        dataset: folder of the data set under construction.
        spark: the session.
        spec: of the features.
        rows_per_row_group: of every row group but the last of each part.
    """
    make_folders(dataset)
    encode = Encode(rows.features, str(dataset), dict(others))
    write = WritePart(str(dataset), layout, spec, rows_per_row_group)
    numbers = range(sum(layout.parts))
    return added_up(run_tasks(spark, numbers, _WriteDealt(dealing, encode, layout, write)), spec)


@dataclass(frozen=True)
class _WriteDealt:
    dealing: Dealing
    encode: Encode
    layout: Layout
    write: WritePart

    def __call__(self, number: int) -> Iterator[str]:
        rows = self.dealing.rows(self.layout, number)
        if rows is not None:
            yield self.write(self._encoded(rows), number)

    def _encoded(self, rows: pa.Table) -> pa.Table:
        """Encode some rows at a time; what is a number a row goes where all of its column will stand."""
        features = self.encode.features
        narrow = narrow_features(features)
        whole: dict[str, NDArray[Any]] = {}
        for f in features:
            if not f.is_list and f.dim is None:
                kind = np.float32 if f.kind == "dense" else np.int32 if f.name in narrow else np.int64
                whole[f.name] = np.empty(rows.num_rows, kind)
        others = []
        size = rows_at_once(features)
        for start in range(0, rows.num_rows, size):
            some = rows.slice(start, size)
            columns = {name: one_array(some[name]) for name in some.column_names}
            made = self.encode.made(columns)
            for name, column in whole.items():
                column[start : start + size] = made.pop(name).to_numpy()
            others.append(pa.table(made | self.encode.besides(columns)))
        joined = pa.concat_tables(others)
        found = dict(zip(joined.column_names, joined.columns, strict=True))
        found |= {name: pa.array(column) for name, column in whole.items()}
        return pa.table({name: found[name] for name in [*(f.name for f in features), *found]})
