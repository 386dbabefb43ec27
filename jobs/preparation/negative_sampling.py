"""Draws items for positives with numpy, the same ones wherever and in whatever company a positive is seen.

Every draw is a hash of the seed, the positive's own hash, the place in its list and the attempt, so nothing
depends on how Spark divides the rows. Runs on executors: neither Spark nor torch is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.preparation.mixing import mixed
from trainer.config.negatives import Exclude

USER = "__user"
ITEM = "__item"
POSITIVE = "__positive"
PLACE = "__place"

# After so many attempts at a list, what is missing is drawn from exactly those items that are left.
ATTEMPTS = 64
_DRAWS_AT_ONCE = 1 << 21
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_UNIFORM_STREAM = np.uint64(0xD1B54A32D192ED03)

Keys = NDArray[np.uint64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Items:
    """The items to draw from, numbered from 0.

    Attributes:
        size: how many.
        cumulative_N: popularity summed up over the items and divided by its total; None where it is not used.
    """

    size: int
    cumulative_N: NDArray[np.float64] | None = None

    def weights(self, uniform_share: float) -> NDArray[np.float64]:
        """Return the probability of each item in one draw."""
        weights = np.full(self.size, uniform_share / self.size)
        if self.cumulative_N is not None:
            weights += (1 - uniform_share) * np.diff(self.cumulative_N, prepend=0.0)
        return weights


@dataclass(frozen=True)
class Drawing:
    """How the negatives of one split are drawn.

    Attributes:
        items: to draw from.
        count: items per positive.
        uniform_share: share of the draws in which every item is as likely; the others follow popularity.
        exclude: what is left out: all items of a user's rows (`known`), of the user's positives in train
            (`train`), or nothing (`none`).
        every_row: whether each of several equal rows gets a list of its own, or all share one.
    """

    items: Items
    count: int
    uniform_share: float = 1.0
    exclude: Exclude = "known"
    every_row: bool = False


def draw(keys_P: Keys, users_P: Ints, excluded: Ints, drawing: Drawing) -> Ints:
    """Draw items for each positive, none twice in a list.

    Args:
        keys_P: hash of each positive.
        users_P: number of its user, from 0.
        excluded: sorted numbers `user * size + item` of what is not to be drawn.
        drawing: how many, and how.

    Returns:
        Numbers of items [P, count]; -1 at the end of a list where a user has too few candidates.
    """
    items = drawing.items
    found_PK = np.full((len(keys_P), drawing.count), -1, dtype=np.int64)
    left = np.arange(len(keys_P))
    for attempt in range(ATTEMPTS):
        drawn_PK = found_PK[left]
        empty = drawn_PK < 0
        rows, places = np.nonzero(empty)
        drawn = _drawn(keys_P[left][rows], places, attempt, drawing)
        drawn[_is_in(users_P[left][rows] * items.size + drawn, excluded)] = -1
        drawn_PK[rows, places] = drawn
        _forget_repeated(drawn_PK, empty)
        found_PK[left] = drawn_PK
        left = left[(drawn_PK < 0).any(axis=1)]
        if not len(left):
            return found_PK
    for row in left:
        found_PK[row] = _completed(found_PK[row], keys_P[row], int(users_P[row]), excluded, drawing)
    return found_PK


def _drawn(keys: Keys, places: Ints, attempt: int, drawing: Drawing) -> Ints:
    items, uniform_share = drawing.items, drawing.uniform_share
    counter = places.astype(np.uint64) + np.uint64((attempt + 1) << 32)
    bits = mixed(keys + counter * _GOLDEN)
    x = _unit(bits)
    if items.cumulative_N is None or uniform_share >= 1:
        return np.asarray(np.floor(x * items.size), dtype=np.int64)
    popular = np.searchsorted(items.cumulative_N, x, side="right")
    if uniform_share <= 0:
        return popular.astype(np.int64)
    uniform = _unit(mixed(bits ^ _UNIFORM_STREAM)) < uniform_share
    return np.asarray(np.where(uniform, np.floor(x * items.size).astype(np.int64), popular))


def _unit(bits: Keys) -> NDArray[np.float64]:
    """Return 64 random bits as a number in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def _is_in(codes: Ints, ordered: Ints) -> NDArray[np.bool_]:
    if not len(ordered):
        return np.zeros(len(codes), dtype=bool)
    at = np.minimum(np.searchsorted(ordered, codes), len(ordered) - 1)
    return np.asarray(ordered[at] == codes)


def _forget_repeated(drawn_PK: Ints, new_PK: NDArray[np.bool_]) -> None:
    """Put -1 for items that are in their list already; what was there before this attempt stays."""
    ranked = drawn_PK * 2 + new_PK
    order = np.argsort(ranked, axis=1, kind="stable")
    ordered = np.take_along_axis(drawn_PK, order, axis=1)
    repeated = np.zeros(drawn_PK.shape, dtype=bool)
    repeated[:, 1:] = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    rows, places = np.nonzero(repeated)
    drawn_PK[rows, order[rows, places]] = -1


def _completed(found_K: Ints, key: np.uint64, user: int, excluded: Ints, drawing: Drawing) -> Ints:
    """Fill a list up from the items that are left, by their weights, as far as they go."""
    items = drawing.items
    weights = items.weights(drawing.uniform_share)
    have = found_K[found_K >= 0]
    weights[have] = 0.0
    first, last = np.searchsorted(excluded, [user * items.size, (user + 1) * items.size])
    weights[excluded[first:last] - user * items.size] = 0.0
    candidates = np.nonzero(weights)[0]
    # The smallest of exponential variables, each divided by its weight, are a weighted sample without
    # replacement (Efraimidis and Spirakis 2006).
    x = _unit(mixed(key ^ mixed(candidates.astype(np.uint64) * _GOLDEN + np.uint64(1))))
    chosen = candidates[np.argsort(-np.log1p(-x) / weights[candidates], kind="stable")]
    filled = np.concatenate([have, chosen])[: len(found_K)]
    return np.pad(filled, (0, len(found_K) - len(filled)), constant_values=-1)


class Sampler:
    """Turns a partition's rows, sorted by user and `order`, into the rows of its negatives.

    Attributes:
        drawings: by split.
        seed: of all draws.
        split: column of the split's name.
        trained: names of splits whose positives `exclude: train` means.
        order: column of the row's hash, by which equal rows are known.
        carried: columns of the positive that its negatives keep.
    """

    def __init__(
        self,
        drawings: Mapping[str, Drawing],
        seed: int,
        *,
        split: str,
        trained: Sequence[str] = ("train",),
        order: str,
        carried: list[str],
    ) -> None:
        self.drawings, self.seed, self.trained = drawings, seed, tuple(trained)
        self.split, self.order, self.carried = split, order, carried

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Return the carried columns with `ITEM` (number of the negative) and `PLACE` (in its list, from 0).

        Args:
            batches: with `USER`, `ITEM` (-1: not one to draw), `POSITIVE`, the split, the order and the
                carried columns. All rows of a user are in one partition, so that all that a user knows is
                known; one user's rows and the users of one batch are in memory at a time.
        """
        pending: list[pa.RecordBatch] = []
        for batch in batches:
            if not batch.num_rows:
                continue
            start = _start_of_last(batch)
            same = bool(pending) and _user(pending[-1], -1) == _user(batch, 0)
            if start == 0 and same:
                pending.append(batch)
                continue
            if pending or start:
                yield from self._of_users(pa.Table.from_batches([*pending, batch.slice(0, start)]))
            pending = [batch.slice(start)]
        if pending:
            yield from self._of_users(pa.Table.from_batches(pending))

    def _of_users(self, table: pa.Table) -> Iterator[pa.RecordBatch]:
        table = table.combine_chunks()
        users = table[USER].to_numpy()
        order = table[self.order].to_numpy()
        first = np.append(True, users[1:] != users[:-1])
        number = np.cumsum(first) - 1
        copy = _copies(first | np.append(True, order[1:] != order[:-1]))
        item = table[ITEM].to_numpy()
        keys = mixed(order.view(np.uint64) + mixed(np.uint64(self.seed) + copy.astype(np.uint64) * _GOLDEN))
        positive = table[POSITIVE].to_numpy()
        splits = table[self.split].to_numpy()
        for split, drawing in self.drawings.items():
            trained = positive & np.isin(splits.astype(str), self.trained)
            met = {"known": np.ones_like(positive), "train": trained}
            at = met.get(drawing.exclude, np.zeros_like(positive)) & (item >= 0)
            excluded = np.unique(number[at] * drawing.items.size + item[at])
            rows = np.nonzero(positive & (splits == split) & (drawing.every_row | (copy == 0)))[0]
            step = max(1, _DRAWS_AT_ONCE // drawing.count)
            for begin in range(0, len(rows), step):
                chosen = rows[begin : begin + step]
                found_PK = draw(keys[chosen], number[chosen], excluded, drawing)
                yield from self._rows(table, chosen, found_PK)

    def _rows(self, table: pa.Table, chosen: Ints, found_PK: Ints) -> Iterator[pa.RecordBatch]:
        rows, places = np.nonzero(found_PK >= 0)
        made = table.select(self.carried).take(pa.array(chosen[rows]))
        made = made.append_column(ITEM, pa.array(found_PK[rows, places]))
        made = made.append_column(PLACE, pa.array(places.astype(np.int32)))
        yield from made.combine_chunks().to_batches(max_chunksize=1 << 16)


def _user(batch: pa.RecordBatch, row: int) -> str:
    column = batch.column(batch.schema.get_field_index(USER))
    return str(column[row if row >= 0 else len(column) + row].as_py())


def _start_of_last(batch: pa.RecordBatch) -> int:
    users = batch.column(batch.schema.get_field_index(USER)).to_numpy(zero_copy_only=False)
    changes = np.nonzero(users[1:] != users[:-1])[0]
    return int(changes[-1]) + 1 if len(changes) else 0


def _copies(first: NDArray[np.bool_]) -> Ints:
    """Return how many equal rows stand before each row."""
    at = np.arange(len(first))
    return np.asarray(at - np.maximum.accumulate(np.where(first, at, 0)))
