"""Counts of the values of many vocabularies, kept by a task until they are too many."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from trainer.features.values import Tokens

# Distinct values that one task keeps of all tables before it hands them on: about 100 MB.
_KEPT = 2_000_000
# Counts of batches that wait to be added up.
_WAITING = 500_000


class ValueCounts:
    """Adds up how often each value of each table was seen."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, bool], list[pa.Table]] = {}
        self._sizes: dict[tuple[str, bool], int] = {}

    def add(self, table: str, tokens: Tokens) -> None:
        """Count the tokens of a batch."""
        counts = tokens.counts()
        used = pa.array(np.flatnonzero(counts))
        values = tokens.values.take(used)
        found = pa.table({"value": values, "count": pa.array(counts[counts > 0])})
        key = table, pa.types.is_integer(values.type)
        waiting = self._waiting.setdefault(key, [])
        waiting.append(found)
        self._sizes[key] = self._sizes.get(key, 0) + found.num_rows
        if self._sizes[key] > _WAITING and len(waiting) > 1 and len(waiting[0]) < self._sizes[key] / 2:
            self._add_up(key)

    def too_many(self) -> Iterator[tuple[str, pa.Array, pa.Array]]:
        """Hand on everything where it has grown too much."""
        if sum(self._sizes.values()) > _KEPT:
            yield from self.all()

    def all(self) -> Iterator[tuple[str, pa.Array, pa.Array]]:
        """Hand on table, values (text) and counts, and start anew."""
        for key in list(self._waiting):
            self._add_up(key)
            found = self._waiting.pop(key)[0]
            yield key[0], _column(found, "value").cast(pa.string()), _column(found, "count")
        self._sizes = {}

    def _add_up(self, key: tuple[str, bool]) -> None:
        joined = pa.concat_tables(self._waiting[key])
        summed = joined.group_by("value").aggregate([("count", "sum")]).rename_columns(_names(joined))
        self._waiting[key] = [summed]
        self._sizes[key] = summed.num_rows


def _names(table: pa.Table) -> list[str]:
    # The order of a group-by's columns changed between versions of pyarrow.
    made = table.slice(0, 0).group_by("value").aggregate([("count", "sum")])
    return ["value" if name == "value" else "count" for name in made.column_names]


def _column(table: pa.Table, name: str) -> pa.Array:
    chunks = table.column(name).chunks
    return pa.concat_arrays(chunks) if chunks else pa.array([], table.schema.field(name).type)
