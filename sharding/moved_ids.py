"""Ids moved to a table of another number of rows, each with its count, its age and its row.

The rows of a table are cut into buckets by their number alone, so another number gives an id another bucket.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sharding.id_buckets import EMPTY, FIRST_SLOT, OOV_ROW, PADDING_ROW, BucketShape, IdBuckets, IdPolicy

FRESH = -1
"""Stands for the old row of a row that has none."""


@dataclass(frozen=True)
class IdEntries:
    """The ids of all buckets of a table, as `IdBuckets` holds them.

    Attributes:
        ids_BE, counts_BE, seen_BE: int64 [B, 2 * S]: id, times seen, and step last seen of each entry; the
            first S are slots, the others candidates, newest first.
    """

    ids_BE: Tensor
    counts_BE: Tensor
    seen_BE: Tensor


@dataclass(frozen=True)
class MovedIds:
    """What became of a table's ids.

    Attributes:
        entries: of the new table.
        origin_R: int64 [rows of the new table]: the old row of each, or `FRESH`.
        kept: owners that own a slot again.
        dropped: owners whose new bucket has no slot for them.
    """

    entries: IdEntries
    origin_R: Tensor
    kept: int
    dropped: int


def move_ids(
    entries: IdEntries, old_rows: int, new_rows: int, old_policy: IdPolicy, policy: IdPolicy, step: int
) -> MovedIds:
    """Move ids to their buckets in a table of another number of rows.

    A bucket with more owners than slots keeps the best by the new policy (under `ttl`, the newest); owners in
    it keep the order of their rows. The others are forgotten, as after an eviction, and so are ids that are
    too old for either policy.

    Args:
        entries: of the old table.
        old_rows: its `num_embeddings`.
        new_rows: that of the new one.
        old_policy: that the ids were counted under.
        policy: of the new table.
        step: of the ids: training steps seen.
    """
    old, new = BucketShape.of(old_rows), BucketShape.of(new_rows)
    young_BE = entries.ids_BE != EMPTY
    for rule in (old_policy, policy):
        if rule.ttl_steps is not None:
            young_BE &= entries.seen_BE >= step - rule.ttl_steps
    buckets = IdBuckets(new.buckets, new.slots, policy)
    moved = IdEntries(buckets.ids_BE, buckets.counts_BE, buckets.seen_BE)
    origin_R = torch.full((new_rows,), FRESH, dtype=torch.int64)
    for row in (PADDING_ROW, OOV_ROW):
        origin_R[row] = row
    owners = _Flat.of(entries, young_BE, slice(0, old.slots))
    if old == new:
        bucket_N, slot_N = owners.place_N // old.slots, owners.place_N % old.slots
    else:
        owners, bucket_N, slot_N = _seated(owners, new, buckets, step)
    owners.write(moved, bucket_N, slot_N)
    origin_R[FIRST_SLOT + bucket_N * new.slots + slot_N] = FIRST_SLOT + owners.place_N
    _line_up(_Flat.of(entries, young_BE, slice(old.slots, None)), new, moved)
    owned = int(young_BE[:, : old.slots].sum())
    kept = len(owners.ids_N)
    return MovedIds(moved, origin_R, kept, owned - kept)


@dataclass(frozen=True)
class _Flat:
    """Some entries, N of them; `place_N` is their place among all entries of their kind, bucket by bucket."""

    place_N: Tensor
    ids_N: Tensor
    counts_N: Tensor
    seen_N: Tensor

    @classmethod
    def of(cls, entries: IdEntries, chosen_BE: Tensor, columns: slice) -> _Flat:
        place_N = chosen_BE[:, columns].reshape(-1).nonzero().squeeze(1)
        parts = (entries.ids_BE, entries.counts_BE, entries.seen_BE)
        return cls(place_N, *(part[:, columns].reshape(-1)[place_N] for part in parts))

    def take(self, which_N: Tensor) -> _Flat:
        return _Flat(self.place_N[which_N], self.ids_N[which_N], self.counts_N[which_N], self.seen_N[which_N])

    def write(self, entries: IdEntries, bucket_N: Tensor, entry_N: Tensor) -> None:
        entries.ids_BE[bucket_N, entry_N] = self.ids_N
        entries.counts_BE[bucket_N, entry_N] = self.counts_N
        entries.seen_BE[bucket_N, entry_N] = self.seen_N


def _seated(owners: _Flat, shape: BucketShape, buckets: IdBuckets, step: int) -> tuple[_Flat, Tensor, Tensor]:
    """Return the owners that get a slot, in the order of their old rows, with bucket and slot of each."""
    unseen_N = step - owners.seen_N
    worth_N = -unseen_N if buckets.policy.evict == "ttl" else buckets.score(owners.counts_N, unseen_N)
    best_first = worth_N.sort(descending=True, stable=True).indices
    _, order, rank = _ranked(shape.bucket_of(owners.ids_N[best_first]))
    fits = best_first[order[rank < shape.slots]].sort().values
    owners = owners.take(fits)
    bucket, order, rank = _ranked(shape.bucket_of(owners.ids_N))
    return owners.take(order), bucket, rank


def _line_up(waiting: _Flat, shape: BucketShape, moved: IdEntries) -> None:
    """Write the candidates into their buckets: newest first, then by count, then by id."""
    # Each sort is stable, so the last one counts most.
    waiting = waiting.take(waiting.ids_N.sort(stable=True).indices)
    waiting = waiting.take(waiting.counts_N.sort(descending=True, stable=True).indices)
    waiting = waiting.take(waiting.seen_N.sort(descending=True, stable=True).indices)
    bucket, order, rank = _ranked(shape.bucket_of(waiting.ids_N))
    fits = rank < shape.slots
    waiting.take(order[fits]).write(moved, bucket[fits], shape.slots + rank[fits])


def _ranked(bucket_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the buckets sorted, the order that sorts them, and the place of each among its bucket's."""
    bucket_N, order_N = bucket_N.sort(stable=True)
    return bucket_N, order_N, torch.arange(len(bucket_N)) - torch.searchsorted(bucket_N, bucket_N)
