"""Search for the options and places that keep the slowest rank fast and every rank within its memory.

First a plan for each of several limits: every table takes the option of least work whose shards stay within
the limit, and the tables are dealt out from the slowest on. Then the best of these plans are improved: a
table of the slowest rank moves, changes its option or swaps places, as long as that helps. Nothing depends on
chance, nor on the clock before the time is up: the same input gives the same plan.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sharding.placement import Choice, IntArray, Places, Ranks

# Limits tried between the least and the largest time of a shard.
_LIMITS = 16
# What a millisecond on every rank counts for beside one on some ranks, which may fill a gap.
_WEIGHTS = (0.125, 0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0, 16.0)
# Layouts that are improved.
_IMPROVED = 5
# So near to the bound that none can be below, other layouts are left as they are: estimates err by more.
_ENOUGH = 1.005
# Attempts to place a table while a plan is improved.
_ATTEMPTS = 20_000
# Tables of the slowest rank, and tables elsewhere for each of them, that are tried in turn.
_MOVED, _PARTNERS = 32, 16
# Doublings of the exponent of the norm that stands for the maximum: 2 ** 5 = 32.
_DOUBLINGS = 5
_BETTER = 1 - 1e-9


@dataclass
class Layout:
    """Chosen options and their places, table by table.

    Attributes:
        ranks: with all tables placed.
        chosen: choice of each table.
        places: of its blocks.
    """

    ranks: Ranks
    chosen: list[Choice]
    places: list[Places]

    @property
    def slowest(self) -> float:
        """Return the milliseconds of the slowest rank."""
        return float(self.ranks.perf.max())


def find_layout(
    tables: Sequence[Sequence[Choice]], left: IntArray, local: int, seconds: float = math.inf
) -> Layout | None:
    """Return the best layout found, or None where none fits.

    Args:
        tables: choices of each table.
        left: bytes of HBM, host memory and SSD of each rank, [3, world size].
        local: ranks of a host.
        seconds: after which no better layout is sought; the first one is, for as long as it takes.
    """
    end = time.monotonic() + seconds
    dealt = sorted(_starts(tables, left, local, end), key=lambda layout: layout.slowest)[:_IMPROVED]
    layouts = dealt or _packed(tables, left, local)
    enough = least_slowest(tables, left.shape[1]) * _ENOUGH
    best: Layout | None = None
    for layout in layouts:
        _Improvement(layout, tables).run(end)
        if best is None or layout.slowest < best.slowest:
            best = layout
        if best.slowest <= enough:
            break
    return best


def least_slowest(tables: Sequence[Sequence[Choice]], world_size: int) -> float:
    """Return milliseconds that no layout can be below."""
    work = sum(min(choice.work for choice in choices) for choices in tables)
    return max(work / world_size, max(min(choice.peak for choice in choices) for choices in tables))


def _limits(tables: Sequence[Sequence[Choice]]) -> list[float]:
    peaks = np.unique([choice.peak for choices in tables for choice in choices])
    if len(peaks) <= _LIMITS:
        return [float(peak) for peak in peaks]
    low = max(float(peaks[0]), float(peaks[-1]) * 1e-6)
    return [float(limit) for limit in np.geomspace(low, peaks[-1], _LIMITS)]


def _starts(tables: Sequence[Sequence[Choice]], left: IntArray, local: int, end: float) -> Iterator[Layout]:
    """Yield a layout for each selection of options, the tables placed from the slowest on.

    When the time is up, one layout is enough.
    """
    seen = set()
    preferences = _Preferences(tables)
    for limit, weight in itertools.product(_limits(tables), _WEIGHTS):
        order_TC = preferences.order(limit, weight)
        key = order_TC[:, 0].tobytes()
        if key not in seen:
            seen.add(key)
            wanted = [
                [choices[number] for number in row[: len(choices)]]
                for choices, row in zip(tables, order_TC.tolist(), strict=True)
            ]
            order = sorted(
                range(len(tables)), key=lambda t: (-wanted[t][0].peak, -wanted[t][0].largest_shard, t)
            )
            layout = _placed(wanted, order, left, local, by_memory=False)
            if layout is not None:
                yield layout
                if time.monotonic() >= end:
                    return


class _Preferences:
    """Which choices to try first, for all tables at once: T tables, C choices of each, filled up."""

    def __init__(self, tables: Sequence[Sequence[Choice]]) -> None:
        shape = (len(tables), max(map(len, tables), default=0))
        # What fills up comes last: too slow for every limit.
        self._peak_TC, self._work_TC = np.full(shape, np.inf), np.full(shape, np.inf)
        self._bytes_TC = np.zeros(shape, np.int64)
        self._everywhere_TC = np.zeros(shape, np.bool_)
        for table, choices in enumerate(tables):
            for number, choice in enumerate(choices):
                self._peak_TC[table, number] = choice.peak
                self._work_TC[table, number] = choice.work
                self._bytes_TC[table, number] = choice.bytes
                self._everywhere_TC[table, number] = choice.blocks[0].scope == "all"

    def order(self, limit: float, weight: float) -> IntArray:
        """Return choices in the order to try: least work within the limit, then the fastest shards, [T, C].

        Args:
            limit: of the slowest shard, in milliseconds.
            weight: of the work of choices with a shard on every rank.
        """
        slow_TC = self._peak_TC > limit
        work_TC = np.where(self._everywhere_TC, self._work_TC * weight, self._work_TC)
        cost_TC = np.where(slow_TC, self._peak_TC, work_TC)
        order_TC: IntArray = np.lexsort((self._bytes_TC, cost_TC, slow_TC), axis=-1)
        return order_TC


def _packed(tables: Sequence[Sequence[Choice]], left: IntArray, local: int) -> list[Layout]:
    """Return at most one layout, with the largest tables placed first, where speed is no object."""
    sizes = [min(choice.largest_shard for choice in choices) for choices in tables]
    order = sorted(range(len(tables)), key=lambda t: (-sizes[t], t))
    by_bytes = [sorted(choices, key=lambda c: (c.bytes, c.largest_shard)) for choices in tables]
    by_shard = [sorted(choices, key=lambda c: (c.largest_shard, c.bytes)) for choices in tables]
    for wanted in (by_bytes, by_shard):
        for by_memory in (False, True):
            layout = _placed(wanted, order, left, local, by_memory=by_memory)
            if layout is not None:
                return [layout]
    return []


def _placed(
    wanted: Sequence[Sequence[Choice]], order: Sequence[int], left: IntArray, local: int, *, by_memory: bool
) -> Layout | None:
    ranks = Ranks(left, local)
    chosen: list[Choice] = [choices[0] for choices in wanted]
    places: list[Places] = [()] * len(wanted)
    for table in order:
        for choice in wanted[table]:
            found = ranks.add(choice, by_memory=by_memory)
            if found is not None:
                chosen[table], places[table] = choice, found
                break
        else:
            return None
    return Layout(ranks, chosen, places)


class _Improvement:
    """Changes one or two tables at a time while that lowers the slowest ranks."""

    def __init__(self, layout: Layout, tables: Sequence[Sequence[Choice]]) -> None:
        self._layout = layout
        self._tables = tables
        self._left = _ATTEMPTS
        self._goal = least_slowest(tables, len(layout.ranks.perf)) / _BETTER
        self._unit = layout.slowest
        self._value = self._rating()
        count = len(tables)
        self._first, self._end, self._span = (np.zeros(count, np.int64) for _ in range(3))
        self._peak = np.zeros(count)
        for table in range(count):
            self._note(table)

    def run(self, end: float) -> None:
        """Improve until nothing helps, the goal is reached, or attempts or time are used up."""
        while self._left > 0 and self._layout.slowest > self._goal and time.monotonic() < end:
            if not self._step():
                break

    def _rating(self) -> float:
        """Return a norm that a second slow rank raises too, where the maximum alone would be blind."""
        scaled = self._layout.ranks.perf / self._unit
        for _ in range(_DOUBLINGS - 1):
            scaled *= scaled
        return float(scaled @ scaled)

    def _step(self) -> bool:
        hot = int(self._layout.ranks.perf.argmax())
        on_it = self._tables_on(hot)
        return any(self._change([table]) for table in on_it) or any(
            self._change([table, other]) for table in on_it for other in self._partners(table, hot)
        )

    def _tables_on(self, rank: int) -> list[int]:
        """Return the tables that take most time on a rank."""
        near = np.flatnonzero((self._first <= rank) & (rank < self._end))
        times = [(-self._time(int(table), rank), int(table)) for table in near]
        return [table for time, table in sorted(times)[:_MOVED] if time < 0]

    def _time(self, table: int, rank: int) -> float:
        blocks, places = self._layout.chosen[table].blocks, self._layout.places[table]
        return sum(
            float(block.perf[rank - first])
            for block, first in zip(blocks, places, strict=True)
            if first <= rank < first + block.size
        )

    def _partners(self, table: int, hot: int) -> list[int]:
        """Return tables elsewhere whose exchange with this one would level the two ranks most."""
        perf = self._layout.ranks.perf
        peak, span = self._peak[table], self._span[table]
        if span == len(perf):
            return []
        wanted = peak - (perf[hot] - perf.min()) / 2
        others = np.flatnonzero((self._span == span) & (self._peak < peak))
        nearest = np.argsort(np.abs(self._peak[others] - wanted), kind="stable")[:_PARTNERS]
        return [int(other) for other in others[nearest]]

    def _note(self, table: int) -> None:
        """Keep what tells quickly whether a table matters."""
        choice, places = self._layout.chosen[table], self._layout.places[table]
        self._first[table] = min(places)
        self._end[table] = max(places) + choice.blocks[0].size
        self._span[table] = choice.blocks[0].size
        self._peak[table] = choice.peak

    def _change(self, moved: Sequence[int]) -> bool:
        """Place tables anew where they are better off; return whether they were."""
        layout = self._layout
        before = [(layout.chosen[table], layout.places[table]) for table in moved]
        for choice, places in before:
            layout.ranks.remove(choice, places)
        best, best_value = before, self._value * _BETTER
        for found in self._attempts(moved):
            value = self._rating()
            if value < best_value:
                best, best_value = list(found), value
        for table, (choice, places) in zip(moved, best, strict=True):
            layout.ranks.put(choice, places)
            layout.chosen[table], layout.places[table] = choice, places
            self._note(table)
        if best is before:
            return False
        self._value = best_value
        return True

    def _attempts(self, moved: Sequence[int]) -> Iterator[list[tuple[Choice, Places]]]:
        """Place tables in every way, each at its best place; yield what is placed while it is."""
        ranks = self._layout.ranks
        table, *rest = moved
        # Of two tables the second alone may change its option.
        for choice in [self._layout.chosen[table]] if rest else self._tables[table]:
            self._left -= 1
            places = ranks.add(choice)
            if places is None:
                continue
            if rest:
                for others in self._attempts(rest):
                    yield [(choice, places), *others]
            else:
                yield [(choice, places)]
            ranks.remove(choice, places)
