"""Buckets of ids against the same rules written with dictionaries, on random streams of ids."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from sharding import id_buckets
from sharding.id_buckets import FIRST_SLOT, OOV_ROW, BucketShape, IdBuckets, IdPolicy
from tests.support.reference_ids import ReferenceBuckets

POLICIES = [
    IdPolicy("lfu"),
    IdPolicy("lfu", min_count=3),
    IdPolicy("lfu", ttl_steps=4),
    IdPolicy("lru"),
    IdPolicy("lru", min_count=2, ttl_steps=6),
    IdPolicy("distance_lfu"),
    IdPolicy("distance_lfu", min_count=2, decay_exponent=2.0),
    IdPolicy("ttl", ttl_steps=3),
    IdPolicy("ttl", min_count=2, ttl_steps=1),
]


def stream(seed: int, steps: int) -> list[list[int]]:
    """Ids of each step: few are frequent, new ones come up all the time, some steps are nearly empty."""
    rng = random.Random(seed)
    known = [rng.randrange(1, 2**62) for _ in range(40)]
    batches = []
    for step in range(steps):
        size = rng.choice([1, 5, 30, 60])
        fresh = [rng.randrange(1, 2**62) for _ in range(8)]
        known[rng.randrange(20, 40)] = fresh[0]
        batches.append([rng.choice(known[: 1 + step % 40] + fresh[:4]) for _ in range(size)] + [2**62, 1])
    return batches


def grouped(ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    counts = Counter(ids)
    return torch.tensor(sorted(counts)), torch.tensor([counts[i] for i in sorted(counts)])


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize(("shape", "seed"), [((1, 5), 1), ((3, 4), 2), ((7, 9), 3), ((2, 1), 4)])
def test_every_policy_is_the_rule_of_the_dictionaries(
    policy: IdPolicy, shape: tuple[int, int], seed: int
) -> None:
    reference = ReferenceBuckets(policy, *shape)
    buckets = IdBuckets(BucketShape(*shape), range(shape[0]), policy)
    evicted = 0
    for step, ids in enumerate(stream(seed, 60), start=1):
        distinct, counts = grouped(ids)
        change = buckets.update(distinct, counts, step)
        evicted += change.evicted
        assert sorted(change.renewed_R.tolist()) == sorted(reference.update(ids, step))
        assert change.rows_N.tolist() == [reference.row_of(i, step) for i in distinct.tolist()]
        for now in (step, step + 2):
            expected = [reference.row_of(i, now) for i in distinct.tolist()]
            assert buckets.rows_of(distinct, now).tolist() == expected
        assert buckets.held(step) == reference.held(step)
        waiting = {bucket: [c.id for c in found] for bucket, found in reference.candidates.items()}
        held = buckets.ids_BE[:, shape[1] :]
        assert {b: [i for i in held[b].tolist() if i] for b in waiting} == waiting
    assert evicted == reference.evicted
    assert evicted > 0 or policy.min_count > 1


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_buckets_shared_out_and_updated_in_pieces_give_the_same(
    policy: IdPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = BucketShape(7, 3)
    whole = IdBuckets(shape, range(7), policy)
    parts = [IdBuckets(shape, range(start, stop), policy) for start, stop in ((0, 2), (2, 3), (3, 7), (7, 7))]
    for step, ids in enumerate(stream(5, 30), start=1):
        distinct, counts = grouped(ids)
        monkeypatch.setattr(id_buckets, "_ROWS_AT_A_TIME", 1 << 16)
        changed = whole.update(distinct, counts, step).renewed_R.tolist()
        monkeypatch.setattr(id_buckets, "_ROWS_AT_A_TIME", 2)
        bucket = shape.bucket_of(distinct)
        found, apart = [], []
        for part in parts:
            mine = (bucket >= part.mine.start) & (bucket < part.mine.stop)
            found += part.update(distinct[mine], counts[mine], step).renewed_R.tolist()
            apart += part.rows_of(distinct[mine], step).tolist()
        assert sorted(found) == sorted(changed)
        assert sorted(apart) == sorted(whole.rows_of(distinct, step).tolist())
    for name in ("ids_BE", "counts_BE", "seen_BE"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def test_rows_are_cut_into_buckets_that_leave_padding_and_unknown_ids_alone() -> None:
    for rows in (3, 10, 65, 66, 129, 200, 1_000, 1_000_003):
        shape = BucketShape.of(rows)
        used = shape.buckets * shape.slots
        assert used <= rows - FIRST_SLOT < used + 64, rows
    buckets = IdBuckets(BucketShape.of(200), range(3), IdPolicy())
    ids = torch.arange(1, 4000)
    given = buckets.update(ids, torch.ones_like(ids), 1).renewed_R
    assert sorted(given.tolist()) == list(range(FIRST_SLOT, FIRST_SLOT + 198))
    rows = buckets.rows_of(ids, 1)
    assert sorted(rows[rows != OOV_ROW].tolist()) == sorted(given.tolist())  # no two ids share a row


def test_an_id_seen_in_this_step_is_never_evicted() -> None:
    buckets = IdBuckets(BucketShape(1, 2), range(1), IdPolicy("lfu"))
    buckets.update(torch.tensor([5, 6]), torch.tensor([1, 9]), 1)
    buckets.update(torch.tensor([5, 7]), torch.tensor([1, 100]), 2)
    assert buckets.rows_of(torch.tensor([5, 6, 7]), 2).tolist() == [3, OOV_ROW, 2]


def test_logarithms_are_right_to_the_last_digits() -> None:
    numbers = torch.cat([torch.arange(1, 3000), torch.tensor([2**40 + 1, 2**52 + 1])])
    expected = torch.log2(numbers.double())
    assert torch.allclose(id_buckets._log2(numbers), expected, rtol=1e-15, atol=4e-15)
