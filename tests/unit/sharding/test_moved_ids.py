"""Ids in a table of another size, against the rules of the dictionaries."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest
import torch

from sharding.id_buckets import EMPTY, FIRST_SLOT, OOV_ROW, BucketShape, IdPolicy
from sharding.id_share import IdShare
from sharding.moved_ids import FRESH, IdEntries, MovedIds, move_ids
from tests.support.reference_ids import ReferenceBuckets
from tests.unit.sharding.test_id_buckets import POLICIES, grouped, renewed, whole_table

STEPS = 40


@dataclass
class Trained:
    """Buckets after some steps, and the same as the reference has them."""

    rows: int
    policy: IdPolicy
    share: IdShare
    reference: ReferenceBuckets

    @property
    def entries(self) -> IdEntries:
        return IdEntries(**{f"{key}_BE": held for key, held in self.share.state(0).items()})

    def owned(self) -> dict[int, int]:
        """Return the row of each id that owns one now."""
        owners = self.reference.owners
        return {o.id: row for row, o in owners.items() if not self.reference._old(o, STEPS)}

    def moved(self, rows: int, policy: IdPolicy | None = None) -> MovedIds:
        return move_ids(self.entries, self.rows, rows, self.policy, policy or self.policy, STEPS)


def batches(seed: int, steps: int) -> list[list[int]]:
    rng = random.Random(seed)
    known = [rng.randrange(1, 2**62) for _ in range(150)]
    return [
        [rng.choice(known[: 20 + 3 * step]) for _ in range(40)] + [rng.randrange(1, 2**62) for _ in range(4)]
        for step in range(steps)
    ]


def trained(rows: int, policy: IdPolicy, seed: int = 1) -> Trained:
    shape = BucketShape.of(rows)
    found = Trained(
        rows,
        policy,
        whole_table(shape, policy),
        ReferenceBuckets(policy, shape.buckets, shape.slots),
    )
    for step, ids in enumerate(batches(seed, STEPS), start=1):
        found.share.update(grouped(ids), step)
        found.reference.update(ids, step)
    return found


def rows_of(moved: MovedIds, rows: int, policy: IdPolicy) -> dict[int, int]:
    """Return the row of each owner, as a lookup in the new table gives it."""
    slots = moved.entries.ids_BE[:, : BucketShape.of(rows).slots]
    owners = grouped(slots[slots != EMPTY].tolist())
    found = opened(moved, rows, policy).rows_of(owners, STEPS)
    return dict(zip(owners.ids_U.tolist(), found.tolist(), strict=True))


def opened(moved: MovedIds, rows: int, policy: IdPolicy) -> IdShare:
    share = whole_table(BucketShape.of(rows), policy)
    for key, held in share.state(0).items():
        held.copy_(getattr(moved.entries, f"{key}_BE"))
    return share


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("rows", [120, 400])
def test_a_larger_table_keeps_every_owner_with_its_row_count_and_age(policy: IdPolicy, rows: int) -> None:
    before = trained(50, policy)
    owned = before.owned()
    moved = before.moved(rows)
    found = rows_of(moved, rows, policy)
    assert found.keys() == owned.keys()
    assert (moved.kept, moved.dropped) == (len(owned), 0)
    assert {id_: int(moved.origin_R[row]) for id_, row in found.items()} == owned
    assert moved.origin_R[:FIRST_SLOT].tolist() == [0, OOV_ROW]
    others = set(range(FIRST_SLOT, rows)) - set(found.values())
    assert all(moved.origin_R[row] == FRESH for row in others)
    told = {o.id: (o.count, o.seen) for o in before.reference.owners.values() if o.id in owned}
    shape = BucketShape.of(rows)
    for id_, row in found.items():
        place = divmod(row - FIRST_SLOT, shape.slots)
        assert (int(moved.entries.counts_BE[place]), int(moved.entries.seen_BE[place])) == told[id_]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("rows", [12, 140])
def test_of_too_many_owners_the_worst_lose_their_slot(policy: IdPolicy, rows: int) -> None:
    before = trained(400, policy)
    owners = {o.id: o for o in before.reference.owners.values() if o.id in before.owned()}
    moved = before.moved(rows)
    found = rows_of(moved, rows, policy)
    assert found.keys() <= owners.keys()
    assert moved.dropped == len(owners) - len(found)
    shape = BucketShape.of(rows)
    for bucket in range(shape.buckets):
        mine = [i for i in owners if int(shape.bucket_of(torch.tensor([i]))) == bucket]
        stay = [worth(owners[i].count, STEPS - owners[i].seen, policy) for i in mine if i in found]
        go = [worth(owners[i].count, STEPS - owners[i].seen, policy) for i in mine if i not in found]
        assert len(stay) == min(len(mine), shape.slots)
        assert not go or max(go) <= min(stay) + 1e-9
    if policy.evict != "ttl" and policy.ttl_steps is None and rows == 12:
        assert moved.dropped > 10


def worth(count: int, unseen: int, policy: IdPolicy) -> float:
    if policy.evict == "lfu":
        return count
    if policy.evict == "distance_lfu":
        return float(count / (unseen + 1) ** policy.decay_exponent)
    return -unseen


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("rows", [50, 120, 300])
def test_moved_ids_go_on_by_the_rules(policy: IdPolicy, rows: int) -> None:
    """The reference is given the same ids in the new buckets; from there on both do the same."""
    before = trained(50, policy)
    moved = before.moved(rows)
    share, shape = opened(moved, rows, policy), BucketShape.of(rows)
    reference = ReferenceBuckets(policy, shape.buckets, shape.slots)
    by_id = {o.id: o for o in before.reference.owners.values()}
    reference.owners = {row: by_id[id_] for id_, row in rows_of(moved, rows, policy).items()}
    waiting = [c for found in before.reference.candidates.values() for c in found]
    waiting = [c for c in waiting if not before.reference._old(c, STEPS)]
    for entry in sorted(waiting, key=lambda c: (-c.seen, -c.count, c.id)):
        own = reference.candidates.setdefault(reference.bucket_of(entry.id), [])
        if len(own) < shape.slots:
            own.append(entry)
    for step, ids in enumerate(batches(2, 30), start=STEPS + 1):
        ids = ids + batches(1, STEPS)[step % STEPS]
        distinct = grouped(ids)
        assert renewed(share.update(distinct, step)) == sorted(reference.update(ids, step))
        assert share.rows_of(distinct, step).tolist() == [
            reference.row_of(i, step) for i in distinct.ids_U.tolist()
        ]


def test_a_table_of_the_same_size_stays_as_it_is() -> None:
    before = trained(130, IdPolicy("lfu", min_count=2))
    moved = before.moved(130)
    assert torch.equal(moved.entries.ids_BE, before.entries.ids_BE)
    assert torch.equal(moved.entries.counts_BE * (moved.entries.ids_BE != 0), moved.entries.counts_BE)
    assert rows_of(moved, 130, before.policy) == before.owned()
    counted = Counter(moved.origin_R.tolist())
    assert counted[FRESH] == 130 - 2 - moved.kept
