"""Bytes by link, against sums done by hand: 2 nodes of 4 ranks, 10 rows a rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from sharding.topology import Cluster
from sharding.traffic import ShardUse, Traffic, TrafficCount, all_reduce_traffic, group_traffic

CLUSTER = Cluster.parse("2x4xh100")
VECTORS = 4 * 10 * 16  # one feature, 16 columns of fp32
IDS = 8 * 10 * 3  # three ids a row


Placed = tuple[ShardUse, Sequence[int]]


def sent(*shards: Placed) -> list[Traffic]:
    count = TrafficCount(CLUSTER, 10)
    for shard, ranks in shards:
        count.add(shard, ranks)
    return count.by_rank()


def use(kind: str, *ranks: int, **settings: Any) -> Placed:
    usual = {"columns": 16, "features": 1, "ids": 3.0, "pooled": True}
    return ShardUse(kind, **{**usual, **settings}), ranks


@pytest.mark.parametrize("kind", ["table_wise", "column_wise", "table_column_wise"])
def test_the_owner_sends_vectors_to_all_and_takes_ids_and_gradients(kind: str) -> None:
    traffic = sent(use(kind, 1))
    assert traffic[1] == Traffic(3 * VECTORS, 4 * VECTORS)
    assert [traffic[rank] for rank in (0, 2, 3)] == [Traffic(VECTORS + IDS, 0)] * 3
    assert traffic[4:] == [Traffic(0, VECTORS + IDS)] * 4


def test_row_wise_ranks_send_each_other_partial_sums_and_gradients() -> None:
    traffic = sent(use("row_wise", *range(8)))
    assert traffic == [Traffic(3 * (2 * VECTORS + IDS / 8), 4 * (2 * VECTORS + IDS / 8))] * 8


def test_row_wise_sequences_send_each_row_from_where_it_lies() -> None:
    traffic = sent(use("row_wise", *range(8), pooled=False))
    rows = 3 * VECTORS  # three ids a row keep their vectors
    assert traffic == [Traffic(3 * (2 * rows + IDS) / 8, 4 * (2 * rows + IDS) / 8)] * 8


def test_table_row_wise_sums_inside_the_node_before_it_crosses() -> None:
    traffic = sent(use("table_row_wise", *range(4)))
    # On its node: the rows of both nodes' ranks, forward and backward, and ids; across: one peer.
    assert traffic[:4] == [Traffic(3 * 2 * 2 * VECTORS + 3 * IDS / 4, VECTORS)] * 4
    assert traffic[4:] == [Traffic(0, VECTORS + IDS)] * 4


def test_data_parallel_gradients_are_summed_over_all_ranks() -> None:
    traffic = sent(use("data_parallel", *range(8), gradient_bytes=800))
    # Reduce-scatter and all-gather of 800 bytes among 4, all-reduce of a quarter between 2.
    assert traffic == [Traffic(2 * 800 * 3 / 4, 2 * 200 / 2)] * 8


def test_shards_add_up() -> None:
    both = sent(use("table_wise", 1), use("table_wise", 6, features=2))
    apart = zip(sent(use("table_wise", 1)), sent(use("table_wise", 6, features=2)), strict=True)
    assert both == [one.plus(other) for one, other in apart]
    # Two column blocks of one table may lie on one rank.
    assert sent(use("column_wise", 1, 1)) == sent(use("column_wise", 1), use("column_wise", 1))


def test_one_rank_sends_nothing() -> None:
    count = TrafficCount(Cluster.parse("1x1xcpu"), 10)
    for kind in ("table_wise", "row_wise", "table_row_wise", "data_parallel"):
        count.add(*use(kind, 0, gradient_bytes=64))
    assert count.by_rank() == [Traffic(0, 0)]


def test_groups_gather_what_the_others_hold() -> None:
    assert group_traffic(800, ranks=8, local=4) == Traffic(800 * 3 / 8, 800 * 4 / 8)
    assert all_reduce_traffic(800, local=1, nodes=1) == Traffic(0, 0)


def test_links_take_their_time_one_after_the_other() -> None:
    # 450 GB/s inside a node, 50 GB/s between nodes.
    assert Traffic(450e6, 100e6).milliseconds(CLUSTER) == pytest.approx(1 + 2)


@pytest.mark.parametrize(
    ("kind", "batches"),
    [("table_wise", 8), ("column_wise", 8), ("row_wise", 1), ("table_row_wise", 2), ("data_parallel", 1)],
)
def test_ids_that_a_shard_holds(kind: str, batches: int) -> None:
    shard, _ = use(kind, 0)
    assert shard.input_bytes(10, CLUSTER) == batches * IDS
