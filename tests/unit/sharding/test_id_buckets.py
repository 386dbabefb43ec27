"""Buckets of ids against the same rules written with dictionaries, on random streams of ids."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from sharding import id_buckets
from sharding.id_buckets import FIRST_SLOT, OOV_ROW, BucketShape, IdPolicy
from sharding.id_share import IdShare, RowChange, TableIds, TableShare
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


def grouped(*ids: list[int]) -> TableIds:
    """Return the ids of one table or more."""
    counts = Counter((table, i) for table, found in enumerate(ids) for i in found)
    columns = [[*key, counts[key]] for key in sorted(counts)]
    return TableIds(*torch.tensor(columns, dtype=torch.int64).reshape(-1, 3).T.contiguous())


def whole_table(shape: BucketShape, policy: IdPolicy) -> IdShare:
    return IdShare([TableShare(shape, range(shape.buckets), policy)])


def renewed(change: RowChange) -> list[int]:
    return sorted(change.rows_U[change.admitted_A].tolist())


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize(("shape", "seed"), [((1, 5), 1), ((3, 4), 2), ((7, 9), 3), ((2, 1), 4)])
def test_every_policy_is_the_rule_of_the_dictionaries(
    policy: IdPolicy, shape: tuple[int, int], seed: int
) -> None:
    reference = ReferenceBuckets(policy, *shape)
    share = whole_table(BucketShape(*shape), policy)
    evicted = 0
    for step, ids in enumerate(stream(seed, 60), start=1):
        distinct = grouped(ids)
        change = share.update(distinct, step)
        evicted += len(change.evicted_V)
        assert renewed(change) == sorted(reference.update(ids, step))
        assert change.rows_U.tolist() == [reference.row_of(i, step) for i in distinct.ids_U.tolist()]
        for now in (step, step + 2):
            expected = [reference.row_of(i, now) for i in distinct.ids_U.tolist()]
            assert share.rows_of(distinct, now).tolist() == expected
        assert share.held(step) == [reference.held(step)]
        waiting = {bucket: [c.id for c in found] for bucket, found in reference.candidates.items()}
        held = share.state(0)["ids"][:, shape[1] :]
        assert {b: [i for i in held[b].tolist() if i] for b in waiting} == waiting
    assert evicted == reference.evicted
    assert evicted > 0 or policy.min_count > 1


def test_tables_that_share_operations_are_each_as_if_alone() -> None:
    """Tables of one policy and of others, buckets of one size and of others, on two ranks."""
    kinds = (
        (0, (3, 4)),
        (4, (5, 4)),
        (0, (1, 4)),
        (0, (2, 5)),
        (4, (1, 4)),
        (6, (2, 4)),
        (7, (3, 4)),
        (0, (5, 4)),
    )
    tables = [(POLICIES[number], shape) for number, shape in kinds]
    references = [ReferenceBuckets(policy, *shape) for policy, shape in tables]
    ranks = [
        IdShare([TableShare(BucketShape(*shape), share(shape[0]), policy) for policy, shape in tables])
        for share in (lambda buckets: range(buckets // 2), lambda buckets: range(buckets // 2, buckets))
    ]
    evicted = Counter[int]()
    streams = [stream(seed, 40) for seed in range(len(tables))]
    for step in range(1, 41):
        ids = [[] if (step + number) % 5 == 0 else found[step - 1] for number, found in enumerate(streams)]
        distinct = grouped(*ids)
        bucket = ranks[0].bucket_of(distinct.tables_U, distinct.ids_U)
        half = torch.tensor([shape[0] // 2 for _, shape in tables])[distinct.tables_U]
        changed, rows = set(), torch.zeros_like(distinct.ids_U)
        for rank, here in zip(ranks, (bucket < half, bucket >= half), strict=True):
            part = TableIds(distinct.tables_U[here], distinct.ids_U[here], distinct.counts_U[here])
            change = rank.update(part, step)
            who = change.admitted_A
            changed |= set(zip(part.tables_U[who].tolist(), change.rows_U[who].tolist(), strict=True))
            evicted.update(change.evicted_V.tolist())
            rows[here] = change.rows_U
            assert torch.equal(rank.rows_of(part, step), change.rows_U)
        expected = [{(k, row) for row in r.update(ids[k], step)} for k, r in enumerate(references)]
        assert changed == set().union(*expected)
        asked = zip(distinct.tables_U.tolist(), distinct.ids_U.tolist(), strict=True)
        assert rows.tolist() == [references[table].row_of(id_, step) for table, id_ in asked]
        held = zip(*(rank.held(step) for rank in ranks), strict=True)
        assert [(a + c, b + d) for (a, b), (c, d) in held] == [r.held(step) for r in references]
    assert [evicted[k] for k in range(len(tables))] == [r.evicted for r in references]
    assert sum(found > 0 for found in evicted.values()) > 5


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_buckets_shared_out_and_updated_in_pieces_give_the_same(
    policy: IdPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = BucketShape(7, 3)
    whole = whole_table(shape, policy)
    places = [range(start, stop) for start, stop in ((0, 2), (2, 3), (3, 7), (7, 7))]
    parts = [IdShare([TableShare(shape, mine, policy)]) for mine in places]
    for step, ids in enumerate(stream(5, 30), start=1):
        distinct = grouped(ids)
        monkeypatch.setitem(id_buckets._IDS_AT_A_TIME, "cpu", 1 << 11)
        changed = renewed(whole.update(distinct, step))
        monkeypatch.setitem(id_buckets._IDS_AT_A_TIME, "cpu", 2)
        bucket = shape.bucket_of(distinct.ids_U)
        found, apart = [], []
        for part, mine in zip(parts, places, strict=True):
            here = (bucket >= mine.start) & (bucket < mine.stop)
            ids_here = TableIds(distinct.tables_U[here], distinct.ids_U[here], distinct.counts_U[here])
            found += renewed(part.update(ids_here, step))
            apart += part.rows_of(ids_here, step).tolist()
        assert sorted(found) == changed
        assert sorted(apart) == sorted(whole.rows_of(distinct, step).tolist())
    for name, held in whole.state(0).items():
        assert torch.equal(torch.cat([part.state(0)[name] for part in parts]), held)


def test_rows_are_cut_into_buckets_that_leave_padding_and_unknown_ids_alone() -> None:
    for rows in (3, 10, 65, 66, 129, 200, 1_000, 1_000_003):
        shape = BucketShape.of(rows)
        used = shape.buckets * shape.slots
        assert used <= rows - FIRST_SLOT < used + 64, rows
    share = whole_table(BucketShape.of(200), IdPolicy())
    ids = grouped(list(range(1, 4000)))
    given = renewed(share.update(ids, 1))
    assert given == list(range(FIRST_SLOT, FIRST_SLOT + 198))
    rows = share.rows_of(ids, 1)
    assert sorted(rows[rows != OOV_ROW].tolist()) == given  # no two ids share a row


def test_an_id_seen_in_this_step_is_never_evicted() -> None:
    share = whole_table(BucketShape(1, 2), IdPolicy("lfu"))
    share.update(grouped([5] + 9 * [6]), 1)
    share.update(grouped([5] + 100 * [7]), 2)
    assert share.rows_of(grouped([5, 6, 7]), 2).tolist() == [3, OOV_ROW, 2]
