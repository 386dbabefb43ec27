"""Rows packed into a few numpy arrays: what lies between decoded row groups and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.columns import Columns, DecodedRows, Floats, Ids, Jagged
from trainer.data.order import Index


class Source(NamedTuple):
    """Rows `start` to `stop - 1` of decoded columns; `first_row` numbers the first, or all if < 0."""

    columns: DecodedRows
    start: int
    stop: int
    first_row: int


@dataclass(frozen=True)
class RowBlock:
    """n rows in the order in which batches take them.

    Attributes:
        dense: float32 [n, F_dense].
        single: [F_single, n] ids of the features with one id per row.
        lists: one entry for each feature with a list of ids per row.
        labels: float32 [n, T], NaN where a row does not count for a task.
        weights: float32 [n].
        rows: int64 [n] row numbers, -1 for padding, `SKIPPED_ROW` for rows that could not be read.
    """

    dense: Floats
    single: Ids
    lists: tuple[Jagged, ...]
    labels: Floats
    weights: Floats
    rows: Index

    @property
    def size(self) -> int:
        """Return n."""
        return len(self.labels)

    def slice(self, start: int, stop: int) -> RowBlock:
        """Return rows `start` to `stop - 1` without copying."""
        return RowBlock(
            self.dense[start:stop],
            self.single[:, start:stop],
            tuple(Jagged(column.values, column.offsets[start : stop + 1]) for column in self.lists),
            self.labels[start:stop],
            self.weights[start:stop],
            self.rows[start:stop],
        )


def pack(columns: Columns, sources: Sequence[Source], order: Index | None) -> RowBlock:
    """Copy rows out of decoded row groups, in a new order.

    Args:
        columns: what the sources hold.
        sources: pieces, laid end to end.
        order: position p of the result holds row `order[p]` of the pieces; None keeps their order.
    """
    size = sum(source.stop - source.start for source in sources)
    dense = np.empty((size, columns.dense_width), dtype=np.float32)
    single = np.empty((len(columns.single), size), dtype=columns.id_dtype)
    first = 0
    for number, feature in enumerate(columns.dense):
        values = _ordered([s.columns.dense[number][s.start : s.stop] for s in sources], order)
        place = first if feature.dim is None else slice(first, first + feature.dim)
        dense[:, place] = values
        first += feature.dim or 1
    for number in range(len(columns.single)):
        _order_into(single[number], [s.columns.single[number][s.start : s.stop] for s in sources], order)
    weights = [_weights(source) for source in sources]
    return RowBlock(
        dense,
        single,
        tuple(_pack_list(columns, sources, order, number) for number in range(len(columns.lists))),
        _ordered([s.columns.labels[s.start : s.stop] for s in sources], order),
        _ordered(weights, order),
        _ordered([_row_numbers(source) for source in sources], order),
    )


def concatenate(columns: Columns, blocks: Sequence[RowBlock], padding: int = 0) -> RowBlock:
    """Lay blocks end to end, and zero-weight padding rows after them."""
    kept = [*blocks, _padding(columns, padding)] if padding else list(blocks)
    if len(kept) == 1:
        return kept[0]
    return RowBlock(
        np.concatenate([block.dense for block in kept]),
        np.concatenate([block.single for block in kept], axis=1),
        tuple(_join([block.lists[number] for block in kept]) for number in range(len(columns.lists))),
        np.concatenate([block.labels for block in kept]),
        np.concatenate([block.weights for block in kept]),
        np.concatenate([block.rows for block in kept]),
    )


def _padding(columns: Columns, size: int) -> RowBlock:
    empty = Jagged(np.empty(0, columns.id_dtype), np.zeros(size + 1, np.int64))
    return RowBlock(
        np.zeros((size, columns.dense_width), np.float32),
        np.zeros((len(columns.single), size), columns.id_dtype),
        (empty,) * len(columns.lists),
        np.zeros((size, len(columns.spec.tasks)), np.float32),
        np.zeros(size, np.float32),
        np.full(size, -1, np.int64),
    )


def _ordered(parts: list[NDArray[Any]], order: Index | None) -> NDArray[Any]:
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return joined.copy() if order is None else joined[order]


def _order_into(out: Ids, parts: list[Ids], order: Index | None) -> None:
    if order is None:
        np.concatenate(parts, out=out, casting="same_kind")
        return
    # Narrow first, then pick: the narrow copy stays in the processor's cache. `clip` skips a second check.
    joined = np.concatenate(parts, dtype=out.dtype, casting="same_kind")
    np.take(joined, order, out=out, mode="clip")


def _weights(source: Source) -> Floats:
    weights = source.columns.weights
    if weights is None:
        return np.ones(source.stop - source.start, dtype=np.float32)
    return weights[source.start : source.stop]


def _row_numbers(source: Source) -> Index:
    size = source.stop - source.start
    if source.first_row < 0:
        return np.full(size, source.first_row, dtype=np.int64)
    return np.arange(source.first_row, source.first_row + size, dtype=np.int64)


def _pack_list(columns: Columns, sources: Sequence[Source], order: Index | None, number: int) -> Jagged:
    joined = _join(
        [
            Jagged(s.columns.lists[number].values, s.columns.lists[number].offsets[s.start : s.stop + 1])
            for s in sources
        ]
    )
    values = joined.values.astype(columns.id_dtype)
    if order is None:
        return Jagged(values, joined.offsets)
    lengths = np.diff(joined.offsets)[order]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    # For every id of the result, where it comes from: the start of its list plus its place in the list.
    places = np.arange(offsets[-1]) + np.repeat(joined.offsets[:-1][order] - offsets[:-1], lengths)
    return Jagged(values[places], offsets)


def _join(parts: Sequence[Jagged]) -> Jagged:
    values = np.concatenate([part.values[part.offsets[0] : part.offsets[-1]] for part in parts])
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return Jagged(values, np.concatenate([[0], np.cumsum(lengths)]))
