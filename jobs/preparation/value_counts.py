"""Counts of the values of many vocabularies: kept by a task until they are too many, and how they travel.

Text that is the usual form of a whole number is counted as the number: an eighth of the work, and a column
of numbers and a column of their texts can share a vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.preparation.mixing import mixed
from jobs.preparation.streams import Sender, received
from trainer.features.raw_values import one_array
from trainer.features.values import Tokens
from trainer.features.vocabularies import INTEGER

COUNTS_SCHEMA = "numbers binary, texts binary"
ROW_SCHEMA = f"bucket int, {COUNTS_SCHEMA}"
BUCKETS = 32
"""What tasks deal the values they have counted into, for other tasks to add up."""
# Distinct values that one task keeps of all tables before it hands them on: about 100 MB.
_KEPT = 2_000_000
# Counts of batches that wait to be added up.
_WAITING = 500_000
# Whole numbers of more digits than `INTEGER` takes are counted as text.
_LARGEST = 10**18 - 1


@dataclass(frozen=True)
class Counts:
    """How often values of several tables were seen; a value may stand in several rows.

    Attributes:
        numbers: `table` int32, `value` int64, `count` int64.
        texts: the same with `value` text that is no such number.
    """

    numbers: pa.Table
    texts: pa.Table

    @classmethod
    def of(cls, table: int, values: pa.Array, counts: pa.Array) -> Counts:
        """Return the counts of some values (text or int64) of one table."""
        if pa.types.is_integer(values.type):
            small = pc.and_(pc.less_equal(values, _LARGEST), pc.greater_equal(values, -_LARGEST))
        else:
            small = pc.match_substring_regex(values, INTEGER)
        other = pc.invert(small)
        return cls(
            _table(table, values.filter(small).cast(pa.int64()), counts.filter(small)),
            _table(table, values.filter(other).cast(pa.string()), counts.filter(other)),
        )

    @classmethod
    def of_rows(cls, rows: pa.Table) -> Counts:
        """Return the counts in rows of table, value (text) and count."""
        small = pc.match_substring_regex(rows["value"], INTEGER)
        numbers = rows.filter(small)
        numbers = numbers.set_column(1, "value", numbers["value"].cast(pa.int64()))
        return cls(numbers, rows.filter(pc.invert(small)))

    @classmethod
    def joined(cls, parts: Sequence[Counts]) -> Counts:
        """Return all of several counts, one after the other."""
        if not parts:
            return cls(_NUMBERS.empty_table(), _TEXTS.empty_table())
        return cls(
            pa.concat_tables([part.numbers for part in parts]),
            pa.concat_tables([part.texts for part in parts]),
        )

    @property
    def kinds(self) -> tuple[pa.Table, pa.Table]:
        """Return numbers and texts."""
        return self.numbers, self.texts

    def __len__(self) -> int:
        return int(self.numbers.num_rows + self.texts.num_rows)

    def of_share(self, share: int, shares: int) -> Counts:
        """Return the counts of the tables that are dealt to one of several shares."""
        chosen = [pa.array(kind["table"].to_numpy() % shares == share) for kind in self.kinds]
        return Counts(self.numbers.filter(chosen[0]), self.texts.filter(chosen[1]))

    def added_up(self) -> Counts:
        """Return each value of each table once."""
        return Counts(_added_up(self.numbers), _added_up(self.texts))

    def by_bucket(self, buckets: int) -> Iterator[tuple[int, Counts]]:
        """Deal the values by a hash of theirs, so that equal ones meet."""
        numbers = _dealt(self.numbers, mixed(self.numbers["value"].to_numpy().view(np.uint64)), buckets)
        objects = self.texts["value"].to_numpy()
        texts = _dealt(self.texts, pd.util.hash_array(objects, categorize=False), buckets)
        for number in range(buckets):
            part = Counts(numbers[number], texts[number])
            if len(part):
                yield number, part

    def sent(self, sender: Sender) -> tuple[bytes, bytes]:
        """Hand both kinds on; returns the columns of `COUNTS_SCHEMA`."""
        return sender.send(self.numbers), sender.send(self.texts)

    @classmethod
    def read(cls, columns: Mapping[str, Sequence[bytes]]) -> Counts:
        """Return all counts in some rows of `COUNTS_SCHEMA`."""
        numbers, texts = ([received(data) for data in columns[name]] for name in ("numbers", "texts"))
        return cls.joined([cls(a, b) for a, b in zip(numbers, texts, strict=True)])


def as_rows(counts: Counts, sender: Sender, buckets: int = BUCKETS) -> Iterator[pa.RecordBatch]:
    """Return counts as rows of `ROW_SCHEMA`, one per bucket."""
    for bucket, part in counts.by_bucket(buckets):
        numbers, texts = part.sent(sender)
        columns = [pa.array([bucket], pa.int32()), pa.array([numbers]), pa.array([texts])]
        yield pa.RecordBatch.from_arrays(columns, ["bucket", "numbers", "texts"])


class ValueCounts:
    """Adds up how often each value of each table was seen."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[int, bool], list[pa.Table]] = {}
        self._sizes: dict[tuple[int, bool], int] = {}

    def add(self, table: int, tokens: Tokens) -> None:
        """Count the tokens of a batch."""
        counts = tokens.counts()
        used = np.flatnonzero(counts)
        self.add_counts(table, tokens.values.take(pa.array(used)), pa.array(counts[used]))

    def add_counts(self, table: int, values: pa.Array, counts: pa.Array) -> None:
        """Add values (text or int64) that were counted, each of them perhaps several times."""
        key = table, pa.types.is_integer(values.type)
        waiting = self._waiting.setdefault(key, [])
        waiting.append(_table(table, values, counts))
        self._sizes[key] = self._sizes.get(key, 0) + len(values)
        if self._sizes[key] > _WAITING and len(waiting) > 1 and len(waiting[0]) < self._sizes[key] / 2:
            self._add_up(key)

    def too_many(self) -> Iterator[Counts]:
        """Hand on everything where too many distinct values have come together."""
        if sum(self._sizes.values()) <= _KEPT:
            return
        for key, waiting in self._waiting.items():
            if len(waiting) > 1:
                self._add_up(key)
        if sum(self._sizes.values()) > _KEPT // 2:  # with less room left it would be added up all the time
            yield self.all()

    def all(self) -> Counts:
        """Hand on everything, and start anew."""
        found = []
        for key in list(self._waiting):
            self._add_up(key)
            added = self._waiting.pop(key)[0]
            found.append(Counts.of(key[0], one_array(added["value"]), one_array(added["count"])))
        self._sizes = {}
        return Counts.joined(found)

    def _add_up(self, key: tuple[int, bool]) -> None:
        if len(self._waiting[key]) == 1:  # a batch has most values once
            return
        added = _added_up(pa.concat_tables(self._waiting[key]), ["value"])
        self._waiting[key] = [_table(key[0], added["value"], added["count"])]
        self._sizes[key] = added.num_rows


def _table(table: int, values: pa.Array, counts: pa.Array) -> pa.Table:
    tables = pa.array(np.full(len(values), table, np.int32))
    return pa.table({"table": tables, "value": values, "count": counts})


_NUMBERS = _table(0, pa.array([], pa.int64()), pa.array([], pa.int64())).schema
_TEXTS = _table(0, pa.array([], pa.string()), pa.array([], pa.int64())).schema


def _added_up(counts: pa.Table, keys: Sequence[str] = ("table", "value")) -> pa.Table:
    summed = counts.group_by(list(keys)).aggregate([("count", "sum")])
    # The order of a group-by's columns changed between versions of pyarrow.
    named = summed.rename_columns([name.removesuffix("_sum") for name in summed.column_names])
    return named.select([*keys, "count"])


def _dealt(counts: pa.Table, hashes: NDArray[np.uint64], buckets: int) -> list[pa.Table]:
    bucket = (hashes % np.uint64(buckets)).astype(np.uint16)
    order = np.argsort(bucket, kind="stable")
    stops = np.searchsorted(bucket[order], np.arange(buckets + 1))
    sorted_counts = counts.take(pa.array(order))
    return [sorted_counts.slice(a, b - a) for a, b in itertools.pairwise(stops)]
