"""Writes splits as Parquet parts in a fixed, shuffled order with row groups of a fixed size."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.preparation.columns import HASH, ORDER, SPLIT, column
from jobs.preparation.measures import SplitMeasure
from jobs.preparation.part_writing import part_name, write_parquet
from jobs.preparation.rows import RawColumns, mapped
from jobs.preparation.spark_paths import spark_path
from jobs.preparation.statistics import Answers
from jobs.preparation.streams import Streams, received
from jobs.preparation.transform import Encodable, encoder
from trainer.features.raw_values import one_array, require_utf8, with_nulls_uncovered
from trainer.schema import SPLITS, Feature, FeatureSpec, PartFile

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_RAW = "_rows"
_PIECES = "file int, rows binary"
# One part at most, in memory: a task sorts a part as a whole, and Arrow's binary columns end at 2 GiB.
_PART_BYTES = 256 * 2**20
# A reader of all lanes holds a row group of each.
_LANES_BYTES = 2**30
_LEAST_ROWS_PER_ROW_GROUP = 1024
_INT32_ROWS = 2**31
ROW_BYTES = 32.0
"""What a prepared row takes in memory beside its features: hashes, label, weight."""


@dataclass(frozen=True)
class Layout:
    """How many parts each split gets, numbered through: those of train first.

    Attributes:
        parts: of each split, in the order of `SPLITS`.
        first: number of each split's first part in its folder, which may hold others.
    """

    parts: tuple[int, ...]
    first: tuple[int, ...] = (0,) * len(SPLITS)

    @classmethod
    def of(
        cls,
        counts: Mapping[str, int],
        rows_per_file: int,
        bytes_per_row: float,
        first: Mapping[str, int],
    ) -> Layout:
        """Return as many parts as rows per file or the bytes of a part ask for."""
        most = max(1, min(rows_per_file, int(_PART_BYTES / max(bytes_per_row, 1.0))))
        parts = tuple(math.ceil(counts.get(split, 0) / most) for split in SPLITS)
        return cls(parts, tuple(first.get(split, 0) for split in SPLITS))

    def place(self, number: int) -> tuple[str, int]:
        """Return the split of a part, and its number in the split's folder."""
        for split, parts, first in zip(SPLITS, self.parts, self.first, strict=True):
            if number < parts:
                return split, first + number
            number -= parts
        raise AssertionError("no such part")

    def part_of(self, splits: pa.Array, orders: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the part of each row: ranges of its hash, which rises through the parts of a split."""
        share = orders.astype(np.float64) / 2.0**64 + 0.5
        part = np.zeros(len(orders), dtype=np.int64)
        first = 0
        for split, parts in zip(SPLITS, self.parts, strict=True):
            mine = pc.equal(splits, split).to_numpy(zero_copy_only=False)
            within = np.minimum((share * parts).astype(np.int64), max(parts - 1, 0))
            part[mine] = first + within[mine]
            first += parts
        return part

    def by_part(
        self, splits: pa.Array, orders: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], list[tuple[int, int, int]]]:
        """Return rows in the order of their parts, and the number, start and stop of each part.

        Args:
            splits: of N rows.
            orders: their hashes `ORDER`, int64 [N].

        Returns:
            The rows' places, int64 [N], and a triple for each part that has some.
        """
        parts = self.part_of(splits, orders)
        # Numbers of 8 or 16 bits are sorted digit by digit, several times as fast as larger ones.
        by_part = np.argsort(parts.astype(np.min_scalar_type(sum(self.parts))), kind="stable")
        numbers, starts = np.unique(parts[by_part], return_index=True)
        bounds = zip(numbers.tolist(), starts.tolist(), [*starts[1:].tolist(), len(parts)], strict=True)
        return by_part, list(bounds)


def rows_in_row_group(asked: int, num_lanes: int, bytes_per_row: float) -> int:
    """Return the rows of a row group: fewer than asked for where those of all lanes would take over 1 GiB."""
    most = int(_LANES_BYTES / (num_lanes * max(bytes_per_row, 1.0)))
    return min(asked, max(_LEAST_ROWS_PER_ROW_GROUP, most))


def write_splits(
    rows: Encodable,
    others: Mapping[str, str],
    layout: Layout,
    dataset: Path,
    streams: Streams,
    spec: FeatureSpec,
    *,
    rows_per_row_group: int,
) -> Answers:
    """Write `train/`, `valid/` and `test/`, rows ordered by their seeded hash.

    A row's hash says which part it belongs to and where, so the parts are the same however Spark divided the
    work; their lengths differ a little from each other.

    Args:
        rows: with `SPLIT`, `HASH`, `ORDER`.
        others: columns of the rows to write beside the features, and their names in the data set.
        layout: parts of each split.
        dataset: folder of the data set under construction, which all executors reach.
        streams: how tasks hand rows on.
        spec: of the features.
        rows_per_row_group: of every row group but the last of each part.

    Returns:
        The measure of what was written, by split.
    """
    make_folders(dataset)
    needed = [*rows.columns, *others, SPLIT, HASH, ORDER]
    encode = Encode(rows.features, str(dataset), dict(others))
    pieces = mapped(rows.rows, needed, _Deal(encode, layout, streams), _PIECES)
    write = WritePart(str(dataset), layout, spec, rows_per_row_group)
    # Spark counts the parameters, and would count `self` as one.
    parts = pieces.repartition(max(1, sum(layout.parts)), "file").groupBy("file")
    written = parts.applyInPandas(lambda rows: _written(write, rows), "found string").collect()
    return added_up([row["found"] for row in written], spec)


def make_folders(dataset: Path) -> None:
    """Make the folders of the splits."""
    for split in SPLITS:
        (dataset / split).mkdir(exist_ok=True)


def added_up(found: Sequence[str], spec: FeatureSpec) -> Answers:
    """Add up what `WritePart` said of each part, by split.

    The parts in order, for the last digits of sums depend on it.
    """
    answers: Answers = {}
    for _, split, measured in sorted(json.loads(text) for text in found):
        answers.setdefault(split, SplitMeasure.nothing(spec)).add(SplitMeasure.from_json(measured))
    return answers


def _written(write: WritePart, pieces: pd.DataFrame) -> pd.DataFrame:
    table = pa.concat_tables(map(received, pieces["rows"]))
    return pd.DataFrame({"found": [write(table, int(pieces["file"].iloc[0]))]})


@dataclass(frozen=True)
class Encode:
    """Makes the prepared columns of some rows, and names the others to be written.

    Attributes:
        features: to make.
        dataset: folder with the vocabularies.
        others: columns of the rows and their names in the data set.
    """

    features: tuple[Feature, ...]
    dataset: str
    others: Mapping[str, str]

    def __call__(self, columns: RawColumns) -> pa.Table:
        """Return features, other columns, `ORDER` and `HASH`."""
        narrow = narrow_features(self.features)
        made = self.made(columns)
        made |= {name: _as_type(made[name], np.int32) for name in narrow}
        return pa.table(made | self.besides(columns))

    def made(self, columns: RawColumns) -> dict[str, pa.Array]:
        """Return the features."""
        return encoder(self.features, self.dataset, tuple(columns)).encode(columns)

    def besides(self, columns: RawColumns) -> dict[str, pa.Array]:
        """Return the other columns, `ORDER` and `HASH`."""
        for raw in self.others:
            require_utf8(columns[raw], raw)
        others = {name: columns[raw] for raw, name in self.others.items()}
        return {**others, ORDER: columns[ORDER], HASH: columns[HASH]}


@dataclass(frozen=True)
class _Deal:
    """Makes the prepared columns, and hands on the rows of each part."""

    encode: Encode
    layout: Layout
    streams: Streams

    def __call__(self, batches: Iterator[RawColumns]) -> Iterator[pa.RecordBatch]:
        with self.streams.sender() as sender:
            for columns in batches:
                table = self.encode(columns)
                by_part, bounds = self.layout.by_part(columns[SPLIT], table[ORDER].to_numpy())
                names = table.column_names
                table = pa.table({name: taken(one_array(table[name]), by_part) for name in names})
                for number, start, stop in bounds:
                    piece = sender.send(table.slice(start, stop - start))
                    row = [pa.array([number], pa.int32()), pa.array([piece])]
                    yield pa.RecordBatch.from_arrays(row, ["file", "rows"])


@dataclass(frozen=True)
class WritePart:
    """Sorts the rows of one part, writes and measures them."""

    dataset: str
    layout: Layout
    spec: FeatureSpec
    rows_per_row_group: int

    def __call__(self, table: pa.Table, number: int) -> str:
        """Write a part of rows as `Encode` makes them; return its number, split and measure."""
        order = _shuffled(table[ORDER].to_numpy(), table[HASH].to_numpy())
        narrow = narrow_features(self.spec.features)
        columns = {}
        for name in table.column_names:
            if name not in (ORDER, HASH):
                column = taken(one_array(table[name]), order)
                columns[name] = _as_type(column, np.int64) if name in narrow else column
        split, place = self.layout.place(number)
        path = Path(self.dataset) / split / part_name(place)
        ids = [f.name for f in self.spec.features if f.kind != "dense"]
        write_parquet(pa.table(columns), path, self.rows_per_row_group, ids)
        measured = SplitMeasure.nothing(self.spec)
        measured.see(self.spec, columns)
        return json.dumps([number, split, measured.as_json()])


def taken(column: pa.Array, rows: NDArray[np.int64]) -> pa.Array:
    """Return some rows of a column; NumPy takes plain numbers several times as fast as Arrow."""
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return pc.take(column, pa.array(rows), boundscheck=False)
    numbers = pa.array(with_nulls_uncovered(column).to_numpy().take(rows), kind)
    if not column.null_count:
        return numbers
    there = column.is_valid().to_numpy(zero_copy_only=False).take(rows)
    bits = pa.py_buffer(np.packbits(there, bitorder="little"))
    return pa.Array.from_buffers(kind, len(rows), [bits, numbers.buffers()[1]])


def _as_type(ids: pa.Array, kind: type[np.int32 | np.int64]) -> pa.Array:
    """Return ids of a type that holds them; Arrow would look at each of them first."""
    return pa.array(ids.to_numpy().astype(kind))


def narrow_features(features: Sequence[Feature]) -> frozenset[str]:
    """Return the features whose ids, one a row, are handed on as int32: half as much to move."""
    ids = [f for f in features if f.kind != "dense" and not f.is_list]
    return frozenset(f.name for f in ids if 0 < (f.num_embeddings or 0) <= _INT32_ROWS)


def _shuffled(orders: NDArray[np.int64], hashes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the order by `ORDER`, ties by `HASH` and then as the rows stand."""
    order = np.argsort(orders)
    ordered = orders[order]
    tied = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(tied):  # equal rows, but for collisions: few, and all of a run come along
        places = np.union1d(tied, tied + 1)
        rows = order[places]
        order[places] = rows[np.lexsort((rows, hashes[rows], orders[rows]))]
    return order


def write_in_order(
    rows: DataFrame, folder: Path, *, order_by: Sequence[str], rows_per_row_group: int, partitions: int
) -> None:
    """Write rows as parts of one folder, in the order of some of their columns, or as they come.

    Args:
        rows: what to write.
        folder: to be made.
        order_by: columns to sort by; none keeps the order of the rows.
        rows_per_row_group: of every row group but the last of each part.
        partitions: parts when sorting.
    """
    if order_by:
        keys = [column(name) for name in order_by]
        rows = rows.repartitionByRange(partitions, *keys).sortWithinPartitions(*keys)
    raw = folder.with_name(_RAW)
    # parquet-java has no setting for rows per row group. It looks at the size every so many rows, and closes
    # the group when it is over the limit: with a limit of one byte, looking every n rows gives groups of n.
    writer = (
        rows.write.option("compression", "zstd")
        .option("parquet.block.size", 1)
        .option("parquet.page.size.row.check.min", rows_per_row_group)
        .option("parquet.page.size.row.check.max", rows_per_row_group)
    )
    writer.parquet(spark_path(raw))
    folder.mkdir()
    # Spark numbers the parts by partition, and partitions are in order.
    written = sorted(raw.glob("part-*.parquet"))
    filled = [path for path in written if pq.read_metadata(path).num_rows > 0]
    for number, path in enumerate(filled):
        path.replace(folder / f"part-{number:05d}.parquet")
    shutil.rmtree(raw)


def part_files(dataset: Path, split: str) -> tuple[PartFile, ...]:
    """Return the parts of a split with their row groups, as their footers say."""
    paths = sorted((dataset / split).glob("part-*.parquet"))
    with ThreadPoolExecutor(8) as pool:
        return tuple(pool.map(lambda path: _part_file(path, dataset), paths))


def _part_file(path: Path, dataset: Path) -> PartFile:
    footer = pq.read_metadata(path)
    groups = tuple(footer.row_group(number).num_rows for number in range(footer.num_row_groups))
    return PartFile(
        path=path.relative_to(dataset).as_posix(),
        rows=footer.num_rows,
        row_groups=groups,
        bytes=path.stat().st_size,
    )
