"""Which ids own the rows of a table: buckets of slots with admission by count and eviction by policy.

A bucket is to its ids what a set is to a set-associative cache: an id belongs to the one bucket that its
hash names, which holds it in a slot (a row of the table), as a candidate that waits for one, or not at all.
Buckets know nothing of each other, so ranks may share them out in any way, and a step costs time by the ids
that it brings, not by the rows of the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sharding.exact_log import log2
from sharding.hashing import splitmix64_

Evict = Literal["lfu", "lru", "distance_lfu", "ttl"]

PADDING_ROW = 0
OOV_ROW = 1
FIRST_SLOT = 2
"""Rows before it belong to no id: padding, and every id without a slot."""
EMPTY = PADDING_ROW
"""Stands where no id is: the id of padding never asks for a slot."""
NO_SLOT = -1
"""Stands for the slot of an id that has none."""

_SLOTS = 64
# Of so many ids at a time the buckets stay in the cache on CPU, and fit memory on GPU.
_IDS_AT_A_TIME = {"cpu": 1 << 13, "cuda": 1 << 16}
# Logarithms are compared in steps of 2^-30, far above the rounding of float64: what is equal ties everywhere.
_LOG_STEPS = float(1 << 30)
_MOST = 1 << 54  # Above every score; with the number of a slot behind it, it fits int64.


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
        return bucket_of(ids_N, self.buckets)


def bucket_of(ids_N: Tensor, buckets: int | Tensor) -> Tensor:
    """Return the bucket of each id in a table of so many.

    Args:
        ids_N: int64.
        buckets: of the table, or of each id's table.
    """
    return splitmix64_(ids_N.clone()).remainder_(buckets)


@dataclass(frozen=True)
class Change:
    """What one step did to some buckets.

    Attributes:
        slots_N: the slot of each id of the step, or `NO_SLOT`.
        admitted_A: which of them are its new owners.
        evicted_V: the bucket of each id that lost its slot, to a newcomer or by age.
    """

    slots_N: Tensor
    admitted_A: Tensor
    evicted_V: Tensor


class IdBuckets:
    """Buckets of one policy and one number of slots, be they of one table or of several.

    Their slots are numbered through: bucket b has those from b * S on.

    Args:
        buckets: B.
        slots: S.
        policy: of all of them.
        device: of the state.

    Attributes:
        ids_BE, counts_BE, seen_BE: int64 [B, 2 * S]: id, times seen, and step last seen of each entry; the
            first S are slots, the others candidates, newest first.
    """

    def __init__(
        self, buckets: int, slots: int, policy: IdPolicy, device: torch.device | str = "cpu"
    ) -> None:
        self.slots, self.policy = slots, policy
        size = (buckets, 2 * slots)
        self.ids_BE = torch.full(size, EMPTY, dtype=torch.int64, device=device)
        self.counts_BE = torch.zeros(size, dtype=torch.int64, device=device)
        self.seen_BE = torch.zeros(size, dtype=torch.int64, device=device)

    def slots_of(self, bucket_N: Tensor, ids_N: Tensor, step: int) -> Tensor:
        """Return the slot of each id, or `NO_SLOT`.

        Args:
            bucket_N: int64, the bucket of each id.
            ids_N: int64.
            step: now; ids may have aged since their bucket was last updated.
        """
        slots_N, size = torch.empty_like(ids_N), _IDS_AT_A_TIME[ids_N.device.type]
        for start in range(0, len(ids_N), size):
            part = slice(start, start + size)
            bucket_n = bucket_N[part]
            match_nS = self._slots(self.ids_BE, bucket_n) == ids_N[part, None]
            if self.policy.ttl_steps is not None:
                match_nS &= ~self._aged(self._slots(self.seen_BE, bucket_n), step)
            found_n, slot_n = _matches(match_nS)
            slots_N[part] = torch.where(found_n, bucket_n * self.slots + slot_n, NO_SLOT)
        return slots_N

    def update(self, bucket_N: Tensor, ids_N: Tensor, counts_N: Tensor, step: int) -> Change:
        """Count the ids of one step, and admit and evict.

        Args:
            bucket_N: int64, the bucket of each id.
            ids_N: int64, in each bucket distinct and rising, none `EMPTY`.
            counts_N: how often each was looked up in this step.
            step: number of the step, from 1.
        """
        bucket_N, order_N = bucket_N.sort(stable=True)
        bucket_T, sizes_T = torch.unique_consecutive(bucket_N, return_counts=True)
        slots_N, admitted, evicted = torch.empty_like(ids_N), [ids_N[:0]], [ids_N[:0]]
        for part, here in _parts(sizes_T):
            which_n = order_N[here]
            evicted.append(self._forget_aged(bucket_T[part], step))
            change = self._update(bucket_N[here], ids_N[which_n], counts_N[which_n], step)
            slots_N[which_n] = change.slots_N
            admitted.append(which_n[change.admitted_A])
            evicted.append(change.evicted_V)
        return Change(slots_N, torch.cat(admitted), torch.cat(evicted))

    def held(self, buckets: slice, step: int) -> tuple[int, int]:
        """Return how many owners and how many candidates there are in some buckets."""
        held_BE = self.ids_BE[buckets] != EMPTY
        if self.policy.ttl_steps is not None:
            held_BE &= ~self._aged(self.seen_BE[buckets], step)
        owners = int(held_BE[:, : self.slots].sum())
        return owners, int(held_BE.sum()) - owners

    def _forget_aged(self, bucket_T: Tensor, step: int) -> Tensor:
        """Empty the entries of T buckets that are too old; return the bucket of each owner among them."""
        if self.policy.ttl_steps is None:
            return bucket_T[:0]
        ids_TE = self.ids_BE.index_select(0, bucket_T)
        aged_TE = (ids_TE != EMPTY) & self._aged(self.seen_BE.index_select(0, bucket_T), step)
        self.ids_BE[bucket_T] = ids_TE.masked_fill_(aged_TE, EMPTY)
        return bucket_T.repeat_interleave(aged_TE[:, : self.slots].sum(dim=1))

    def _update(self, bucket_N: Tensor, ids_N: Tensor, counts_N: Tensor, step: int) -> Change:
        """Count ids that lie bucket by bucket, and let those without a slot contend for one."""
        known_N, entry_N = _matches(self.ids_BE.index_select(0, bucket_N) == ids_N[:, None])
        counts_N = counts_N + torch.where(known_N, self.counts_BE[bucket_N, entry_N], 0)
        owner_N = known_N & (entry_N < self.slots)
        own = bucket_N[owner_N], entry_N[owner_N]
        self.counts_BE[own], self.seen_BE[own] = counts_N[owner_N], step
        # Candidates that were seen leave their entry and come back as newcomers, with their count.
        waiting_N = known_N & ~owner_N
        self.ids_BE[bucket_N[waiting_N], entry_N[waiting_N]] = EMPTY
        slots_N = torch.where(owner_N, bucket_N * self.slots + entry_N, NO_SLOT)
        new_M = (~owner_N).nonzero().squeeze(1)
        # Most buckets of a table that has settled see their owners alone, and are done.
        bucket_T, place_M = torch.unique_consecutive(bucket_N[new_M], return_inverse=True)
        new = _Newcomers.of(place_M, ids_N[new_M], counts_N[new_M], new_M)
        admitted_A, slots_A, evicted_V = self._admit(bucket_T, new, step)
        slots_N[admitted_A] = slots_A
        return Change(slots_N, admitted_A, evicted_V)

    def _admit(self, bucket_T: Tensor, new: _Newcomers, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Give newcomers of T buckets slots, or a place among the candidates.

        Returns:
            Which of the step's ids got a slot, the slot of each, and the bucket of each owner that lost it.
        """
        victim_M, admitted_M = self._contest(bucket_T, new, step)
        bucket_A, slot_A = bucket_T[new.place_M[admitted_M]], victim_M[admitted_M]
        won = bucket_A, slot_A
        evicted_V = bucket_A[self.ids_BE[won] != EMPTY]
        self.ids_BE[won], self.counts_BE[won] = new.ids_M[admitted_M], new.counts_M[admitted_M]
        self.seen_BE[won] = step
        self._line_up(bucket_T, new.only(~admitted_M), step)
        return new.which_M[admitted_M], bucket_A * self.slots + slot_A, evicted_V

    def _contest(self, bucket_T: Tensor, new: _Newcomers, step: int) -> tuple[Tensor, Tensor]:
        """Set the best newcomer of each bucket against its worst slot, the second against the second, ...

        Returns:
            The slot that each newcomer stands against, and whether it gets it.
        """
        slots = self.slots
        victim_M, admitted_M = torch.zeros_like(new.ids_M), torch.zeros_like(new.ids_M, dtype=torch.bool)
        # Ranks go by count, so those seen often enough come first in their bucket.
        fit_M = ((new.counts_M >= self.policy.min_count) & (new.rank_M < slots)).nonzero().squeeze(1)
        if not len(fit_M):
            return victim_M, admitted_M
        place_T, place_M = torch.unique_consecutive(new.place_M[fit_M], return_inverse=True)
        bucket_T, rank_M = bucket_T[place_T], new.rank_M[fit_M]
        seen_TS = self._slots(self.seen_BE, bucket_T)
        score_TS = self.score(self._slots(self.counts_BE, bucket_T), step - seen_TS)
        score_TS.masked_fill_(seen_TS == step, _MOST)
        score_TS.masked_fill_(self._slots(self.ids_BE, bucket_T) == EMPTY, -_MOST)
        # No two are alike: of equal scores the first slot goes first.
        key_TS = score_TS * slots + torch.arange(slots, device=score_TS.device)
        worst_TR = key_TS.topk(int(rank_M.max()) + 1, dim=1, largest=False).values
        worst_M = worst_TR[place_M, rank_M]
        victim_M[fit_M] = worst_M % slots
        admitted_M[fit_M] = self._newcomer_score(new.counts_M[fit_M]) > worst_M // slots
        return victim_M, admitted_M

    def _line_up(self, bucket_T: Tensor, new: _Newcomers, step: int) -> None:
        """Put newcomers before the candidates of T buckets; the last that do not fit are forgotten.

        So candidates are in the order of when they were last seen, and then of their counts.
        """
        slots = self.slots
        held_TC = self._candidates(self.ids_BE, bucket_T) != EMPTY
        ahead_T = torch.bincount(new.place_M, minlength=len(bucket_T))
        # What does not fit goes to one column more, which is cut off.
        to_TC = (held_TC.cumsum(dim=1) - 1 + ahead_T[:, None]).clamp_(max=slots).masked_fill_(~held_TC, slots)
        to_M = new.rank_M.clamp(max=slots)
        for values_BE, new_M in (
            (self.counts_BE, new.counts_M),
            (self.seen_BE, torch.full_like(new.ids_M, step)),
            (self.ids_BE, new.ids_M),
        ):
            waiting_TC = self._candidates(values_BE, bucket_T)
            moved = waiting_TC.new_zeros(len(bucket_T), slots + 1).scatter_(1, to_TC, waiting_TC)
            moved[new.place_M, to_M] = new_M
            values_BE[bucket_T, slots:] = moved[:, :slots]

    def score(self, counts: Tensor, unseen: Tensor) -> Tensor:
        """Return how much owners are worth, int64; the least goes first."""
        if self.policy.evict == "lfu":
            return counts.clone()
        if self.policy.evict == "lru":
            return -unseen
        if self.policy.evict == "ttl":
            return torch.full_like(counts, _MOST)
        score = log2(counts).sub_(log2(unseen + 1).mul_(self.policy.decay_exponent))
        return score.mul_(_LOG_STEPS).round_().clamp_(-_MOST, _MOST).long()

    def _newcomer_score(self, counts: Tensor) -> Tensor:
        if self.policy.evict == "ttl":
            return torch.zeros_like(counts)
        return self.score(counts, torch.zeros_like(counts))

    def _slots(self, values_BE: Tensor, bucket_T: Tensor) -> Tensor:
        return values_BE.view(-1, self.slots).index_select(0, 2 * bucket_T)

    def _candidates(self, values_BE: Tensor, bucket_T: Tensor) -> Tensor:
        return values_BE.view(-1, self.slots).index_select(0, 2 * bucket_T + 1)

    def _aged(self, seen: Tensor, step: int) -> Tensor:
        assert self.policy.ttl_steps is not None
        return seen < step - self.policy.ttl_steps


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
        sizes_T = torch.unique_consecutive(place_M, return_counts=True)[1]
        first_M = (sizes_T.cumsum(0) - sizes_T).repeat_interleave(sizes_T, output_size=len(ids_M))
        rank_M = torch.arange(len(ids_M), device=ids_M.device) - first_M
        return cls(place_M, ids_M, counts_M, which_M, rank_M)

    def only(self, chosen_M: Tensor) -> _Newcomers:
        """Return some of them, ranked anew."""
        parts = (self.place_M, self.ids_M, self.counts_M, self.which_M)
        return self._ranked(*(part[chosen_M] for part in parts))


def _matches(match_NE: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether each row has a match, and the place of its only one."""
    number_E = torch.arange(1, match_NE.shape[1] + 1, dtype=torch.int16, device=match_NE.device)
    # A maximum of small products is several times faster on CPU than one that tells its place.
    place_N = (match_NE * number_E).amax(dim=1).long()
    return place_N > 0, (place_N - 1).clamp_(min=0)


def _parts(sizes_T: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield buckets, and their ids, of which there are about `_IDS_AT_A_TIME`.

    Args:
        sizes_T: ids of each bucket.
    """
    ends_T = sizes_T.cumsum(0)
    part_T = (ends_T - sizes_T) // _IDS_AT_A_TIME[sizes_T.device.type]
    _, buckets_P = torch.unique_consecutive(part_T, return_counts=True)
    stops = buckets_P.cumsum(0)
    bucket, id_ = 0, 0
    for stop, end in zip(stops.tolist(), ends_T[stops - 1].tolist(), strict=True):
        yield slice(bucket, stop), slice(id_, end)
        bucket, id_ = stop, end
