"""Vocabularies: the counted values numbered by a distributed sort, and stored as Parquet.

Values travel between tasks as Arrow streams: dealt by hash they are added up, dealt by rank they are numbered
and written. Neither the driver nor the JVM looks at one.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.preparation.handed_rows import Columns, HandedRows, Row
from jobs.preparation.mixing import mixed
from jobs.preparation.part_writing import next_part, part_name, write_parquet
from jobs.preparation.rows import RawColumns
from jobs.preparation.streams import Sender, Streams
from jobs.preparation.survey import Survey
from jobs.preparation.value_counts import BUCKETS, COUNTS_SCHEMA, ROW_SCHEMA, Counts, as_rows
from jobs.preparation.value_order import Border, borders, cut, ordered, sample
from trainer.features.raw_values import one_array
from trainer.schema import FIRST_VOCABULARY_ID

VOCABULARY_FOLDER = "vocabulary"
# Values sorted by one task.
_VALUES_PER_PARTITION = 4_000_000
# Counts that one task adds up, by which buckets become more; a worker must hold all of a bucket.
_COUNTS_PER_TASK = 4_000_000
_MOST_SHARES = 2_000
# Values of each bucket that the borders between partitions are chosen from.
_SAMPLED = 256
# Added to the count of a value that a vocabulary has already: it then reaches no `min_count`.
_KNOWN = -(1 << 60)
_STREAMS = ("numbers", "texts")
_MERGED = f"part int, size bigint, sample string, {COUNTS_SCHEMA}"
_PLACED = f"part int, sizes string, {COUNTS_SCHEMA}"


@dataclass(frozen=True)
class FittedVocabulary:
    """A stored vocabulary: its folder inside the data set, number of values, and digest."""

    folder: str
    size: int
    digest: str


@dataclass(frozen=True)
class WantedVocabulary:
    """What to make of the counted values of a table: the limits, and the id of the most frequent value."""

    table: str
    min_count: int
    max_size: int | None
    first_id: int = FIRST_VOCABULARY_ID


@dataclass(frozen=True)
class GrownVocabulary:
    """A stored vocabulary to be grown, its limits, and the id of its first new value."""

    stored: FittedVocabulary
    wanted: WantedVocabulary
    first_new: int


def plain_folders(names: Sequence[str], parent: str) -> dict[str, str]:
    """Return a folder below `parent` for each name, with characters outside A-Z a-z 0-9 _ . - replaced."""
    folders: dict[str, str] = {}
    for own in names:
        plain = re.sub(r"[^A-Za-z0-9_.-]", "_", own).lstrip("._") or "table"
        name, number = plain, 1
        while f"{parent}/{name}" in folders.values():
            number += 1
            name = f"{plain}_{number}"
        folders[own] = f"{parent}/{name}"
    return folders


def fit_vocabularies(
    counted: Survey, wanted: Sequence[WantedVocabulary], dataset: Path
) -> dict[str, FittedVocabulary]:
    """Number the values of all tables and write `vocabulary/<table>/`; no value passes through the driver.

    Args:
        counted: `table` is the place in `wanted`.
        wanted: one per table.
        dataset: folder of the data set under construction, which all executors reach.

    Returns:
        The vocabularies by table: ids in order of frequency, ties by value.
    """
    folders = plain_folders([v.table for v in wanted], VOCABULARY_FOLDER)
    limits = [_Limits(v.min_count, v.first_id, v.first_id, v.max_size, folders[v.table]) for v in wanted]
    found = _stored(counted.values, counted.num_counts, limits, dataset, counted.streams)
    return {
        v.table: FittedVocabulary(folders[v.table], size, _digest(a, b))
        for v, (size, a, b) in zip(wanted, found, strict=True)
    }


def grow_vocabularies(
    counted: Survey, grown: Sequence[GrownVocabulary], dataset: Path
) -> dict[str, FittedVocabulary]:
    """Give the values that vocabularies lack the ids after their last ones, and add them as new parts.

    Args:
        counted: the new rows; `table` is the place in `grown`.
        grown: one per table.
        dataset: folder of the data set under construction, which holds the vocabularies.

    Returns:
        The vocabularies by table: old ids as they were, new ones in order of frequency, ties by value.
    """
    limits = [
        _Limits(g.wanted.min_count, g.first_new, g.wanted.first_id, g.wanted.max_size, g.stored.folder)
        for g in grown
    ]
    parts = [
        {"table": table, "path": str(path)}
        for table, g in enumerate(grown)
        for path in sorted((dataset / g.stored.folder).glob("*.parquet"))
    ]
    values = counted.values.with_rows(parts, _Known(counted.streams), "table int, path string")
    num_counts = counted.num_counts + sum(g.stored.size for g in grown)
    found = _stored(values, num_counts, limits, dataset, counted.streams)
    result = {}
    for g, (size, a, b) in zip(grown, found, strict=True):
        old = g.stored
        digest = _digest(a + int(old.digest[:16], 16), b + int(old.digest[16:], 16))
        result[g.wanted.table] = FittedVocabulary(old.folder, old.size + size, digest)
    return result


@dataclass(frozen=True)
class _Limits:
    """Which values a table takes, the ids of its first new and of its very first value, and its folder."""

    min_count: int
    first_new: int
    first_id: int
    max_size: int | None
    folder: str


def _stored(
    values: HandedRows, num_counts: int, limits: Sequence[_Limits], dataset: Path, streams: Streams
) -> list[tuple[int, int, int]]:
    """Write new parts of all vocabularies; return the number of new values and two digests by table."""
    if not limits:
        return []
    buckets = BUCKETS * max(1, min(_MOST_SHARES, math.ceil(num_counts / BUCKETS / _COUNTS_PER_TASK)))
    if buckets > BUCKETS:
        values = values.mapped(_STREAMS, _Deal(buckets, streams), ROW_SCHEMA)
    merge = _Merge(
        tuple(limit.min_count for limit in limits), _VALUES_PER_PARTITION // (2 * buckets), streams
    )
    merged = values.grouped("bucket", merge, _MERGED).kept()
    placed = None
    try:
        told = merged.rows("size", "sample")
        parts = max(1, math.ceil(sum(row["size"] for row in told) / _VALUES_PER_PARTITION))
        if parts == 1:
            whole, shares = merged.shared("part")
            starts = [[0] * len(limits)]
        else:
            at = borders([tuple(one) for row in told for one in json.loads(row["sample"])], parts)
            placed = merged.mapped(_STREAMS, _Place(at, streams), _PLACED).kept()
            whole, shares, starts = placed, 1, _starts(placed, len(limits), parts)
        before = tuple(next_part(dataset / limit.folder) for limit in limits)
        write = _Write(tuple(limits), str(dataset), starts, before, shares)
        written = whole.grouped("part", write, "found string").rows("found")
    finally:
        merged.release()
        if placed is not None:
            placed.release()
    found = [[0, 0, 0] for _ in limits]
    for row in written:
        for table, *numbers in json.loads(row["found"]):
            found[table] = [a + b for a, b in zip(found[table], numbers, strict=True)]
    for limit in limits:
        _require_part(dataset / limit.folder)
    return [(size, a, b) for size, a, b in found]


def digest_of(values: pa.Array, ids: NDArray[np.int64]) -> str:
    """Return the digest of a vocabulary from its values (Arrow array of text) and their ids."""
    return _digest(*_digests(values, ids))


def _digest(a: int, b: int) -> str:
    mask = (1 << 64) - 1
    return f"{a & mask:016x}{b & mask:016x}"


def _require_part(folder: Path) -> None:
    """Write an empty part where a table has no value at all."""
    if not any(folder.glob("*.parquet")):
        folder.mkdir(parents=True, exist_ok=True)
        schema = pa.schema([("value", pa.string()), ("id", pa.int64()), ("count", pa.int64())])
        pq.write_table(schema.empty_table(), folder / "part-00000.parquet")


@dataclass(frozen=True)
class _Deal:
    """Deals the counts of each bucket into smaller ones, a multiple of them."""

    buckets: int
    streams: Streams

    def __call__(self, batches: Iterator[RawColumns]) -> Iterator[pa.RecordBatch]:
        with self.streams.sender() as sender:
            for counts in _counts(batches):
                yield from as_rows(counts, sender, self.buckets)


@dataclass(frozen=True)
class _Known:
    """Reads values that vocabularies have, as counts that reach no limit."""

    streams: Streams

    def __call__(self, batches: Iterator[RawColumns]) -> Iterator[pa.RecordBatch]:
        with self.streams.sender() as sender:
            for columns in batches:
                for table, path in zip(
                    *(columns[name].to_pylist() for name in ("table", "path")), strict=True
                ):
                    for batch in pq.ParquetFile(path).iter_batches(columns=["value"]):
                        values = batch.column(0).cast(pa.string())
                        counts = Counts.of(table, values, pa.array(np.full(len(values), _KNOWN)))
                        yield from as_rows(counts, sender)


def _counts(batches: Iterator[RawColumns]) -> Iterator[Counts]:
    """Read what tasks have handed on, row by row."""
    for columns in batches:
        for numbers, texts in zip(*(columns[name].to_pylist() for name in _STREAMS), strict=True):
            yield Counts.read({"numbers": [numbers], "texts": [texts]})


@dataclass(frozen=True)
class _Merge:
    """Adds up the counts of a bucket."""

    min_counts: tuple[int, ...]
    sample_above: int
    streams: Streams

    def __call__(self, rows: Columns) -> Row:
        counts = Counts.read(rows).added_up()
        frequent = Counts(*(kind.filter(self._enough(kind)) for kind in counts.kinds))
        size = len(frequent)
        told = json.dumps(sample(ordered(frequent), _SAMPLED) if size > self.sample_above else [])
        with self.streams.sender() as sender:
            numbers, texts = frequent.sent(sender)
        return {"part": 0, "size": size, "sample": told, "numbers": numbers, "texts": texts}

    def _enough(self, counts: pa.Table) -> pa.Array:
        least = np.array(self.min_counts)[counts["table"].to_numpy()]
        return pa.array(counts["count"].to_numpy() >= least)


@dataclass(frozen=True)
class _Place:
    """Cuts the values of each bucket at the borders between parts."""

    at: Sequence[Border]
    streams: Streams

    def __call__(self, batches: Iterator[RawColumns]) -> Iterator[pa.RecordBatch]:
        with self.streams.sender() as sender:
            for counts in _counts(batches):
                for part, placed in enumerate(self._cut(counts)):
                    yield self._row(part, placed, sender)

    def _row(self, part: int, placed: Counts, sender: Sender) -> pa.RecordBatch:
        sizes = Counter[int]()
        for kind in placed.kinds:
            found = pc.value_counts(kind["table"]).to_pylist()
            sizes.update({row["values"]: row["counts"] for row in found})
        columns = [pa.array([part], pa.int32()), pa.array([json.dumps(list(sizes.items()))])]
        columns += [pa.array([stream]) for stream in placed.sent(sender)]
        return pa.RecordBatch.from_arrays(columns, ["part", "sizes", *_STREAMS])

    def _cut(self, counts: Counts) -> list[Counts]:
        if not self.at:
            return [counts]
        return [Counts.of_rows(rows) for rows in cut(ordered(counts), self.at)]


def _starts(placed: HandedRows, tables: int, parts: int) -> list[list[int]]:
    """Return how many values of each table stand before each part, int [parts][tables]."""
    sizes = np.zeros((parts + 1, tables), dtype=np.int64)
    for row in placed.rows("part", "sizes"):
        for table, size in json.loads(row["sizes"]):
            sizes[row["part"] + 1, table] += size
    starts: list[list[int]] = np.cumsum(sizes, axis=0)[:-1].tolist()
    return starts


@dataclass(frozen=True)
class _Write:
    """Numbers the values of a part and writes them, table by table.

    Tables of a single part are dealt to several tasks instead (`shares`).
    """

    limits: tuple[_Limits, ...]
    dataset: str
    starts: list[list[int]]
    parts_before: tuple[int, ...]
    shares: int = 1

    def __call__(self, rows: Columns) -> Row:
        part = int(rows["part"][0])
        counts = Counts.read(rows)
        if self.shares > 1:
            counts, part = counts.of_share(part, self.shares), 0
        values = ordered(counts)
        tables = values["table"].to_numpy()
        stops = np.searchsorted(tables, np.arange(len(self.limits) + 1))
        found = []
        for table, limit in enumerate(self.limits):
            size = int(stops[table + 1] - stops[table])
            first = limit.first_new + self.starts[part][table]
            if limit.max_size is not None:
                size = max(0, min(size, limit.first_id + limit.max_size - first))
            if size:
                chosen = values.slice(stops[table], size).drop(["table"])
                ids = np.arange(first, first + size)
                chosen = chosen.add_column(1, "id", pa.array(ids))
                _write_part(chosen, Path(self.dataset) / limit.folder, self.parts_before[table] + part)
                found.append([table, size, *_digests(one_array(chosen["value"]), ids)])
        return {"found": json.dumps(found)}


def _write_part(values: pa.Table, folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_parquet(values, folder / part_name(number))


def _digests(values: pa.Array, ids: NDArray[np.int64]) -> tuple[int, int]:
    """Return two sums over all pairs of value and id, which need no order."""
    hashes = pd.util.hash_array(values.to_numpy(zero_copy_only=False), categorize=False)
    numbers = ids.astype(np.uint64)
    with np.errstate(over="ignore"):
        pairs = mixed(hashes + mixed(numbers)), mixed(hashes ^ mixed(~numbers))
        return int(pairs[0].sum(dtype=np.uint64)), int(pairs[1].sum(dtype=np.uint64))
