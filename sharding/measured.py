"""What was measured on a machine, in place of data-sheet speeds; `shardrec bench hardware` writes it.

    lookup  = bags * time of a bag + bytes of rows / bandwidth, forward and backward apart
    sending = latency + bytes / bandwidth

Both times of a lookup depend on the width of a row and on whether the table stays in the caches. Between the
measured widths they are interpolated, between the measured sizes of tables by the logarithm of the size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sharding.units import MIB

Collective = Literal["all_to_all", "all_reduce", "reduce_scatter", "all_gather"]
Pass = Literal["forward", "backward"]
_FP32 = 4


@dataclass(frozen=True)
class LookupRate:
    """Lookups of random ids in one table: what a bag and a row cost, forward and backward with the update.

    Attributes:
        dim: columns of the table, in fp32.
        table_mib: size of its weights.
        forward_gbps: bytes of rows read, GB/s.
        forward_bag_ns: of each pooled vector.
        backward_gbps: bytes of rows updated, GB/s, counting a row for each id.
        backward_bag_ns: of each pooled vector.
    """

    dim: int
    table_mib: float
    forward_gbps: float
    forward_bag_ns: float
    backward_gbps: float
    backward_bag_ns: float

    def costs(self, which: Pass) -> tuple[float, float]:
        """Return nanoseconds of a row and of a bag."""
        gbps, bag_ns = (
            (self.forward_gbps, self.forward_bag_ns)
            if which == "forward"
            else (self.backward_gbps, self.backward_bag_ns)
        )
        return self.dim * _FP32 / gbps, bag_ns


@dataclass(frozen=True)
class CollectiveRate:
    """One kind of exchange among all ranks of a launch.

    Attributes:
        kind: of the collective.
        ranks: that took part.
        nodes: that held them.
        latency_ms: of the smallest message.
        gbps: bytes of the larger of a rank's input and output, GB/s; its own part counts.
    """

    kind: Collective
    ranks: int
    nodes: int
    latency_ms: float
    gbps: float

    def milliseconds(self, size: float) -> float:
        """Return the time of one exchange of `size` bytes."""
        return self.latency_ms + size / (self.gbps * 1e6)


@dataclass(frozen=True)
class Measured:
    """Speeds of one rank while all ranks of its launch are busy.

    Attributes:
        machine: what it was.
        date: of the measurement.
        lookups: by width and size of table.
        step_overhead_ms: what a sharded collection takes, forward and backward, where there is nothing to do.
        table_overhead_ms: what each table adds to that.
        fp32_tflops: of matrix products as dense layers have them.
        bf16_tflops: likewise; None where not measured.
        collectives: by kind and ranks.
    """

    machine: str
    date: str
    lookups: tuple[LookupRate, ...]
    step_overhead_ms: float
    table_overhead_ms: float
    fp32_tflops: float
    bf16_tflops: float | None = None
    collectives: tuple[CollectiveRate, ...] = ()

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Measured:
        """Return what `dataclasses.asdict` described."""
        lookups = tuple(LookupRate(**rate) for rate in record["lookups"])
        collectives = tuple(CollectiveRate(**rate) for rate in record["collectives"])
        return cls(**{**record, "lookups": lookups, "collectives": collectives})

    @property
    def text(self) -> str:
        """Return where and when."""
        return f"measured on {self.machine}, {self.date}"

    def lookup_ms(
        self, which: Pass, *, ids: float, bags: float, dim: int, table_bytes: float, value_bytes: float = 4
    ) -> float:
        """Return the time of one table's lookups or updates.

        Args:
            which: pass.
            ids: looked up.
            bags: pooled vectors that they make; without pooling, as many as ids.
            dim: columns.
            table_bytes: of all weights.
            value_bytes: of one weight.
        """
        row_ns, bag_ns = self._costs(which, dim, table_bytes / MIB)
        return (ids * row_ns * value_bytes / _FP32 + bags * bag_ns) / 1e6

    def _costs(self, which: Pass, dim: int, table_mib: float) -> tuple[float, float]:
        dims = sorted({rate.dim for rate in self.lookups})
        at = [self._costs_of_dim(which, measured, table_mib) for measured in dims]
        row_ns, bag_ns = (float(np.interp(dim, dims, [each[i] for each in at])) for i in (0, 1))
        beyond = max(1.0, dim / dims[-1])
        return row_ns * beyond, bag_ns * beyond

    def _costs_of_dim(self, which: Pass, dim: int, table_mib: float) -> tuple[float, float]:
        rates = sorted((r for r in self.lookups if r.dim == dim), key=lambda rate: rate.table_mib)
        sizes = [math.log(rate.table_mib) for rate in rates]
        at = [rate.costs(which) for rate in rates]
        here = math.log(max(table_mib, 1e-6))
        return (
            float(np.interp(here, sizes, [row for row, _ in at])),
            float(np.interp(here, sizes, [bag for _, bag in at])),
        )

    def collective(self, kind: Collective, ranks: int, nodes: int) -> CollectiveRate | None:
        """Return the rate of a collective among so many ranks on so many nodes, where it was measured."""
        found = (r for r in self.collectives if (r.kind, r.ranks, r.nodes) == (kind, ranks, nodes))
        return next(found, None)

    def knows_exchange(self, ranks: int, nodes: int) -> bool:
        """Return whether exchanges among so many ranks were measured; a rank alone exchanges nothing."""
        return ranks == 1 or self.collective("all_to_all", ranks, nodes) is not None


def exchange_latency_ms(
    uses: Sequence[tuple[str, bool]], measured: Measured | None, ranks: int, nodes: int
) -> tuple[float, float]:
    """Return milliseconds that starting a step's exchanges takes: of embeddings and gradients, and of ids.

    TorchRec sends the tables of one collection and sharding type together, so this does not grow with the
    tables.

    Args:
        uses: sharding type, and whether bags are pooled, of each group of tables that is sent together.
        measured: of the hardware.
        ranks: in all.
        nodes: that hold them.
    """
    if measured is None or ranks == 1 or not measured.knows_exchange(ranks, nodes):
        return 0.0, 0.0

    def latency(kind: Collective) -> float:
        rate = measured.collective(kind, ranks, nodes)
        return 0.0 if rate is None else rate.latency_ms

    sums, moves = latency("reduce_scatter") + latency("all_gather"), 2 * latency("all_to_all")
    exchange = ids = 0.0
    for kind, pooled in uses:
        if kind == "data_parallel":
            exchange += latency("all_reduce")
            continue
        # Lengths of the messages, lengths of the bags, ids.
        ids += 3 * latency("all_to_all")
        if kind in ("table_row_wise", "grid_shard"):
            exchange += sums + (moves if nodes > 1 else 0.0)
        else:
            exchange += sums if kind == "row_wise" and pooled else moves
    return exchange, ids
