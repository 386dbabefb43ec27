"""Bytes that ranks send in one step, by link: NVLink (or PCIe) inside a node, the network between nodes.

Every byte is counted once, at its sender, as if each rank sent each other rank its share directly; sums over
all ranks go through the nodes first (reduce-scatter inside, all-reduce across, all-gather inside). Embeddings
and their gradients travel in the precision of `TableCommunication`, ids as 8 bytes; lengths of lists are left
out.

For a shard that rank r holds, with batch size B per rank, W ranks, L of them on a node, N = W / L nodes, n
ids a row, and v = b * B * features * columns, or v = b * B * n * columns for sequences, where b is the bytes
of a number, forward and backward each its own (4 in fp32):

- table-wise and column-wise types: each rank sends 8 * B * n of ids to r, r sends v to each rank, and in the
  backward pass each rank sends v to r;
- row_wise: the same with ids 8 * B * n / W, and v / W for sequences;
- table_row_wise and grid_shard: each rank sends 8 * B * n / L of ids to r, r sends N * v to each rank of its
  node and v to its peer on each other node, and the same again in the backward pass, the peers to r;
- data_parallel: all ranks sum the table's dense gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sharding.communication import FULL_PRECISION, TableCommunication, is_summed
from sharding.topology import Cluster

ID_BYTES = 8
EMBEDDING_BYTES = 4


@dataclass(frozen=True)
class Traffic:
    """Bytes that one rank sends in a step."""

    nvlink: float
    """To ranks of its node."""
    nic: float
    """To ranks of other nodes."""

    def plus(self, other: Traffic) -> Traffic:
        """Return the sum."""
        return Traffic(self.nvlink + other.nvlink, self.nic + other.nic)

    def times(self, factor: float) -> Traffic:
        """Return a multiple."""
        return Traffic(self.nvlink * factor, self.nic * factor)

    def milliseconds(self, cluster: Cluster) -> float:
        """Return the time that the links take one after the other, at their data-sheet speed."""
        figures = cluster.rank_hardware
        return self.nvlink / (figures.nvlink_gbps * 1e6) + self.nic / (figures.nic_gbps * 1e6)


def all_reduce_traffic(size: float, local: int, nodes: int) -> Traffic:
    """Return what one rank sends when `local` ranks on each of `nodes` nodes sum `size` bytes."""
    return Traffic(2 * size * (local - 1) / local, 2 * size / local * (nodes - 1) / nodes)


def group_traffic(size: float, ranks: int, local: int) -> Traffic:
    """Return what a rank sends when `ranks` ranks, `local` of them on its node, gather or scatter `size`."""
    return Traffic(size * (local - 1) / ranks, size * (ranks - local) / ranks)


@dataclass(frozen=True)
class ShardUse:
    """A shard and what a step looks up in it.

    Attributes:
        kind: sharding type.
        columns: of the shard.
        features: that look the table up.
        ids: mean ids per row, over all features.
        pooled: whether a row's ids become one vector.
        gradient_bytes: of a data-parallel table.
    """

    kind: str
    columns: int
    features: int
    ids: float
    pooled: bool
    gradient_bytes: int = 0

    def vector_bytes(self, batch_size: int) -> float:
        """Return the bytes, in fp32, of the embeddings that one rank's batch takes from the columns."""
        vectors = self.features if self.pooled else self.ids
        return EMBEDDING_BYTES * batch_size * vectors * self.columns

    def id_bytes(self, batch_size: int) -> float:
        """Return the bytes of the ids of one rank's batch."""
        return ID_BYTES * batch_size * self.ids

    def input_bytes(self, batch_size: int, cluster: Cluster) -> float:
        """Return the bytes of the ids that the shard's rank holds in a step."""
        ranks, local = cluster.world_size, cluster.local_world_size
        batches = {"data_parallel": 1.0, "row_wise": 1.0}.get(self.kind, float(ranks))
        if self.kind in ("table_row_wise", "grid_shard"):
            batches = ranks / local
        return self.id_bytes(batch_size) * batches


class TrafficCount:
    """Sums up what the shards of a plan make ranks send.

    Args:
        cluster: the ranks.
        batch_size_per_rank: rows of a rank's batch.
        communication: precision in which embeddings travel.
    """

    def __init__(
        self,
        cluster: Cluster,
        batch_size_per_rank: int,
        communication: TableCommunication = FULL_PRECISION,
    ) -> None:
        self._communication = communication
        self._local, self._nodes = cluster.local_world_size, cluster.nodes
        self._batch_size = batch_size_per_rank
        shape = (self._nodes, self._local)
        self._nvlink_NL: NDArray[np.float64] = np.zeros(shape)
        self._nic_NL: NDArray[np.float64] = np.zeros(shape)
        # What every other rank sends to a rank, and what the rank's peers on other nodes do.
        self._taken_NL: NDArray[np.float64] = np.zeros(shape)
        self._from_peers_NL: NDArray[np.float64] = np.zeros(shape)

    def add(self, shard: ShardUse, ranks: Sequence[int]) -> None:
        """Count a shard on each of some ranks."""
        world = self._local * self._nodes
        here_NL = np.bincount(ranks, minlength=world).reshape(self._nodes, self._local)
        ids, summed = shard.id_bytes(self._batch_size), is_summed(shard.kind, shard.pooled)
        numbers = shard.vector_bytes(self._batch_size) / EMBEDDING_BYTES
        # Where parts are added up inside a node, what crosses to other nodes is not.
        inside, across = (numbers * self._communication.forward_bytes(summed=s) for s in (summed, False))
        backward = numbers * self._communication.backward_bytes
        if shard.kind == "data_parallel":
            shared = all_reduce_traffic(shard.gradient_bytes, self._local, self._nodes)
            self._send(here_NL, shared.nvlink, shared.nic)
        elif shard.kind in ("table_row_wise", "grid_shard"):
            # Forward and backward alike: sums inside the node for the rows of all ranks.
            both = (self._local - 1) * self._nodes * (inside + backward)
            self._send(here_NL, both, (self._nodes - 1) * across)
            self._from_peers_NL += here_NL * backward
            self._taken_NL += here_NL * (ids / self._local)
        else:
            parts = world if shard.kind == "row_wise" else 1
            share = 1 if shard.pooled else 1 / parts
            self._send(here_NL, (self._local - 1) * share * inside, (world - self._local) * share * inside)
            self._taken_NL += here_NL * (share * backward + ids / parts)

    def _send(self, here_NL: NDArray[np.int64], nvlink: float, nic: float) -> None:
        self._nvlink_NL += here_NL * nvlink
        self._nic_NL += here_NL * nic

    def by_rank(self) -> list[Traffic]:
        """Return what each rank sends."""
        node_N1 = self._taken_NL.sum(axis=1, keepdims=True)
        nvlink_NL = self._nvlink_NL + node_N1 - self._taken_NL
        nic_NL = self._nic_NL + node_N1.sum() - node_N1
        nic_NL = nic_NL + self._from_peers_NL.sum(axis=0, keepdims=True) - self._from_peers_NL
        pairs = zip(nvlink_NL.ravel().tolist(), nic_NL.ravel().tolist(), strict=True)
        return [Traffic(*pair) for pair in pairs]
