"""Which ids own the rows of a table: buckets of slots with admission by count and eviction by policy.

A bucket is to its ids what a set is to a set-associative cache: an id belongs to the one bucket that its
hash names, which holds it in a slot (a row of the table), as a candidate that waits for one, or not at all.
Buckets know nothing of each other, so ranks may share them out in any way, and a step costs time by the ids
that it brings, not by the rows of the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sharding.hashing import splitmix64_

Evict = Literal["lfu", "lru", "distance_lfu", "ttl"]

PADDING_ROW = 0
OOV_ROW = 1
FIRST_SLOT = 2
"""Rows before it belong to no id: padding, and every id without a slot."""
EMPTY = PADDING_ROW
"""Stands where no id is: the id of padding never asks for a slot."""

_SLOTS = 64
_ROWS_AT_A_TIME = 1 << 16
# Scores are compared in steps of 2^-30, far above the rounding of float64: what is equal ties everywhere.
_SCORE_STEPS = float(1 << 30)


@dataclass(frozen=True)
class IdPolicy:
    """When an id gets a slot, and when it loses it.

    Attributes:
        evict: whom a newcomer replaces in a full bucket: `lfu` the least count, `lru` the longest unseen,
            `distance_lfu` the least `count / (steps unseen + 1) ** decay_exponent`, `ttl` nobody.
        min_count: an id is admitted once it was seen so many times.
        ttl_steps: an id that was in none of so many steps loses its slot; None for never.
        decay_exponent: of `distance_lfu`.
    """

    evict: Evict = "lfu"
    min_count: int = 1
    ttl_steps: int | None = None
    decay_exponent: float = 1.0


@dataclass(frozen=True)
class BucketShape:
    """How the rows of a table are cut; depends on their number alone.

    Attributes:
        buckets: B.
        slots: S, rows of each bucket. Up to 63 rows at the end of the table belong to none.
    """

    buckets: int
    slots: int

    @classmethod
    def of(cls, num_embeddings: int) -> BucketShape:
        """Return the shape for a table of so many rows, at least `FIRST_SLOT` + 1."""
        rows = num_embeddings - FIRST_SLOT
        buckets = max(1, rows // _SLOTS)
        return cls(buckets, rows // buckets)

    def bucket_of(self, ids_N: Tensor) -> Tensor:
        """Return the bucket of each id."""
        return splitmix64_(ids_N.clone()).remainder_(self.buckets)


@dataclass(frozen=True)
class Change:
    """What one step did to some buckets.

    Attributes:
        rows_N: the row of each id of the step, `OOV_ROW` where it has no slot.
        renewed_R: rows of the table that have a new owner.
        evicted: ids that lost their slot, to a newcomer or by age.
    """

    rows_N: Tensor
    renewed_R: Tensor
    evicted: int


class IdBuckets:
    """Consecutive buckets of one table.

    Args:
        shape: of all buckets of the table.
        mine: the buckets here.
        policy: of the table.
        device: of the state.

    Attributes:
        ids_BE, counts_BE, seen_BE: int64 [len(mine), 2 * S]: id, times seen, and step last seen of each
            entry; the first S are slots, the others candidates, newest first.
    """

    def __init__(
        self, shape: BucketShape, mine: range, policy: IdPolicy, device: torch.device | str = "cpu"
    ) -> None:
        self.shape, self.mine, self.policy = shape, mine, policy
        size = (len(mine), 2 * shape.slots)
        self.ids_BE = torch.full(size, EMPTY, dtype=torch.int64, device=device)
        self.counts_BE = torch.zeros(size, dtype=torch.int64, device=device)
        self.seen_BE = torch.zeros(size, dtype=torch.int64, device=device)

    def rows_of(self, ids_N: Tensor, step: int) -> Tensor:
        """Return the row of each id, `OOV_ROW` where it has no slot.

        Args:
            ids_N: int64, of buckets here.
            step: now; ids may have aged since their bucket was last updated.
        """
        rows_N = torch.full_like(ids_N, OOV_ROW)
        for part in _parts(len(ids_N)):
            bucket_n = self.shape.bucket_of(ids_N[part]) - self.mine.start
            held_nS = self.ids_BE[bucket_n, : self.shape.slots]
            match_nS = held_nS == ids_N[part, None]
            if self.policy.ttl_steps is not None:
                match_nS &= ~self._aged(self.seen_BE[bucket_n, : self.shape.slots], step)
            slot_n = match_nS.to(torch.uint8).argmax(dim=1)
            rows_N[part] = torch.where(match_nS.any(dim=1), self._row(bucket_n, slot_n), OOV_ROW)
        return rows_N

    def update(self, ids_N: Tensor, counts_N: Tensor, step: int) -> Change:
        """Count the ids of one step, and admit and evict.

        Args:
            ids_N: int64, distinct, rising, of buckets here, none `EMPTY`.
            counts_N: how often each was looked up in this step.
            step: number of the step, from 1.
        """
        bucket_N, order_N = (self.shape.bucket_of(ids_N) - self.mine.start).sort(stable=True)
        bucket_T, sizes_T = torch.unique_consecutive(bucket_N, return_counts=True)
        ends = sizes_T.cumsum(0)
        rows_N, changes = torch.empty_like(ids_N), []
        for part in _parts(len(bucket_T)):
            first = int(ends[part.start - 1]) if part.start else 0
            here = slice(first, int(ends[part.stop - 1]))
            which = order_N[here]
            evicted = self._forget_aged(bucket_T[part], step)
            change = self._update(bucket_N[here], ids_N[which], counts_N[which], step)
            rows_N[which] = change.rows_N
            changes.append(replace(change, evicted=change.evicted + evicted))
        renewed = torch.cat([ids_N[:0], *(change.renewed_R for change in changes)])
        return Change(rows_N, renewed, sum(change.evicted for change in changes))

    def held(self, step: int) -> tuple[int, int]:
        """Return how many owners and how many candidates there are here."""
        held_BE = self.ids_BE != EMPTY
        if self.policy.ttl_steps is not None:
            held_BE &= ~self._aged(self.seen_BE, step)
        owners = int(held_BE[:, : self.shape.slots].sum())
        return owners, int(held_BE.sum()) - owners

    def _forget_aged(self, bucket_T: Tensor, step: int) -> int:
        """Empty the entries of T buckets that are too old; return how many of them were owners."""
        if self.policy.ttl_steps is None:
            return 0
        ids_TE = self.ids_BE[bucket_T]
        aged_TE = (ids_TE != EMPTY) & self._aged(self.seen_BE[bucket_T], step)
        self.ids_BE[bucket_T] = ids_TE.masked_fill_(aged_TE, EMPTY)
        return int(aged_TE[:, : self.shape.slots].sum())

    def _update(self, bucket_N: Tensor, ids_N: Tensor, counts_N: Tensor, step: int) -> Change:
        """Count ids that lie bucket by bucket, and let those without a slot contend for one."""
        found_N, entry_N = (self.ids_BE[bucket_N] == ids_N[:, None]).to(torch.uint8).max(dim=1)
        known_N = found_N.bool()
        counts_N = counts_N + torch.where(known_N, self.counts_BE[bucket_N, entry_N], 0)
        owner_N = known_N & (entry_N < self.shape.slots)
        own = bucket_N[owner_N], entry_N[owner_N]
        self.counts_BE[own], self.seen_BE[own] = counts_N[owner_N], step
        # Candidates that were seen leave their entry and come back as newcomers, with their count.
        waiting_N = known_N & ~owner_N
        self.ids_BE[bucket_N[waiting_N], entry_N[waiting_N]] = EMPTY
        rows_N = torch.where(owner_N, self._row(bucket_N, entry_N), OOV_ROW)
        new_M = (~owner_N).nonzero().squeeze(1)
        # Most buckets of a table that has settled see their owners alone, and are done.
        bucket_T, place_M = torch.unique_consecutive(bucket_N[new_M], return_inverse=True)
        new = _Newcomers.of(place_M, ids_N[new_M], counts_N[new_M], new_M)
        admitted, renewed_A, evicted = self._admit(bucket_T, new, step)
        rows_N[admitted] = renewed_A
        return Change(rows_N, renewed_A, evicted)

    def _admit(self, bucket_T: Tensor, new: _Newcomers, step: int) -> tuple[Tensor, Tensor, int]:
        """Give newcomers of T buckets slots, or a place among the candidates.

        Returns:
            Which of the step's ids got a slot, the row of each, and how many owners lost theirs.
        """
        victim_M, admitted_M = self._contest(bucket_T, new, step)
        bucket_A, slot_A = bucket_T[new.place_M[admitted_M]], victim_M[admitted_M]
        won = bucket_A, slot_A
        evicted = int((self.ids_BE[won] != EMPTY).sum())
        self.ids_BE[won], self.counts_BE[won] = new.ids_M[admitted_M], new.counts_M[admitted_M]
        self.seen_BE[won] = step
        self._line_up(bucket_T, new.only(~admitted_M), step)
        return new.which_M[admitted_M], self._row(bucket_A, slot_A), evicted

    def _contest(self, bucket_T: Tensor, new: _Newcomers, step: int) -> tuple[Tensor, Tensor]:
        """Set the best newcomer of each bucket against its worst slot, the second against the second, ...

        Returns:
            The slot that each newcomer stands against, and whether it gets it.
        """
        slots = self.shape.slots
        seen_TS = self.seen_BE[bucket_T, :slots]
        score_TS = self.score(self.counts_BE[bucket_T, :slots], step - seen_TS)
        score_TS.masked_fill_(seen_TS == step, math.inf)
        score_TS.masked_fill_(self.ids_BE[bucket_T, :slots] == EMPTY, -math.inf)
        score_TS, slot_TS = score_TS.sort(dim=1, stable=True)
        rank_M = new.rank_M.clamp(max=slots - 1)
        better_M = self._newcomer_score(new.counts_M) > score_TS[new.place_M, rank_M]
        fits_M = (new.counts_M >= self.policy.min_count) & (new.rank_M < slots)
        return slot_TS[new.place_M, rank_M], better_M & fits_M

    def _line_up(self, bucket_T: Tensor, new: _Newcomers, step: int) -> None:
        """Put newcomers before the candidates of T buckets; the last that do not fit are forgotten.

        So candidates are in the order of when they were last seen, and then of their counts.
        """
        slots = self.shape.slots
        held_TC = self.ids_BE[bucket_T, slots:] != EMPTY
        ahead_T = torch.bincount(new.place_M, minlength=len(bucket_T))
        # What does not fit goes to one column more, which is cut off.
        to_TC = (held_TC.cumsum(dim=1) - 1 + ahead_T[:, None]).clamp_(max=slots).masked_fill_(~held_TC, slots)
        to_M = new.rank_M.clamp(max=slots)
        for values_BE, new_M in (
            (self.counts_BE, new.counts_M),
            (self.seen_BE, torch.full_like(new.ids_M, step)),
            (self.ids_BE, new.ids_M),
        ):
            waiting_TC = values_BE[bucket_T, slots:]
            moved = waiting_TC.new_zeros(len(bucket_T), slots + 1).scatter_(1, to_TC, waiting_TC)
            moved[new.place_M, to_M] = new_M
            values_BE[bucket_T, slots:] = moved[:, :slots]

    def score(self, counts: Tensor, unseen: Tensor) -> Tensor:
        """Return how much owners are worth; the least goes first. float64, as every device rounds it."""
        if self.policy.evict == "lfu":
            return counts.double()
        if self.policy.evict == "lru":
            return -unseen.double()
        if self.policy.evict == "ttl":
            return torch.full_like(counts, math.inf, dtype=torch.float64)
        score = _log2(counts) - _log2(unseen + 1) * self.policy.decay_exponent
        return (score * _SCORE_STEPS).round_()

    def _newcomer_score(self, counts: Tensor) -> Tensor:
        if self.policy.evict == "ttl":
            return torch.zeros_like(counts, dtype=torch.float64)
        return self.score(counts, torch.zeros_like(counts))

    def _aged(self, seen: Tensor, step: int) -> Tensor:
        assert self.policy.ttl_steps is not None
        return seen < step - self.policy.ttl_steps

    def _row(self, bucket: Tensor, slot: Tensor) -> Tensor:
        return (bucket + self.mine.start) * self.shape.slots + slot + FIRST_SLOT


@dataclass(frozen=True)
class _Newcomers:
    """Ids without a slot, bucket by bucket, best first: M of them.

    Attributes:
        place_M: bucket.
        ids_M: ids; equal counts are in their order.
        counts_M: times seen, most first.
        which_M: number among the ids of the step.
        rank_M: place among the newcomers of its bucket, from 0.
    """

    place_M: Tensor
    ids_M: Tensor
    counts_M: Tensor
    which_M: Tensor
    rank_M: Tensor

    @classmethod
    def of(cls, place_M: Tensor, ids_M: Tensor, counts_M: Tensor, which_M: Tensor) -> _Newcomers:
        """Sort ids that rise within their buckets."""
        by_count = counts_M.sort(descending=True, stable=True).indices
        order = by_count[place_M[by_count].sort(stable=True).indices]
        return cls._ranked(place_M[order], ids_M[order], counts_M[order], which_M[order])

    @classmethod
    def _ranked(cls, place_M: Tensor, ids_M: Tensor, counts_M: Tensor, which_M: Tensor) -> _Newcomers:
        first_M = torch.searchsorted(place_M, place_M)
        rank_M = torch.arange(len(ids_M), device=ids_M.device) - first_M
        return cls(place_M, ids_M, counts_M, which_M, rank_M)

    def only(self, chosen_M: Tensor) -> _Newcomers:
        """Return some of them, ranked anew."""
        parts = (self.place_M, self.ids_M, self.counts_M, self.which_M)
        return self._ranked(*(part[chosen_M] for part in parts))


def _log2(number: Tensor) -> Tensor:
    """Return the logarithm of whole numbers >= 1.

    From sums, products and quotients alone, which IEEE 754 fixes to the last bit: libraries of different
    devices round their own logarithms differently.
    """
    mantissa, exponent = torch.frexp(number.double())
    root = (mantissa - 1) / (mantissa + 1)
    square = root * root
    series = torch.zeros_like(root)
    for power in range(35, 0, -2):
        series = series * square + 1.0 / power
    return exponent.double() + series * root * (2.0 / math.log(2.0))


def _parts(length: int) -> Iterator[slice]:
    """Yield slices small enough that what is made of them fits memory."""
    for start in range(0, length, _ROWS_AT_A_TIME):
        yield slice(start, min(start + _ROWS_AT_A_TIME, length))
