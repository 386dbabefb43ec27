"""An estimated step: the planner's time for the tables, a roofline for the dense layers, what is not hidden.

    step = tables + table_sync + dense + exposed_dense + exposed_input

    tables        = the slowest rank's lookups, updates and exchanges, by TorchRec's planner
    table_sync    = all-reduce of table weights and state over the copies, divided by the steps between two
    dense         = 3 * forward FLOPs / (peak * efficiency): backward takes twice the forward pass
    exposed_dense = max(0, exchange of dense weights and gradients - what hides it)
    exposed_input = exchange of ids, on the slowest rank: training fetches none ahead of their step

Gradients of `ddp` are exchanged during the backward pass (two thirds of `dense`), weights and gradients of
`fsdp` and `hsdp` during all of `dense`. Speeds are those of data sheets, or what `shardrec bench hardware`
found: then lookups and updates are timed apart, dense layers run at the measured rate, and overheads and
latencies count. It knows no memory-bound dense layers, no skew of ids, no waiting for data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sharding.dense_part import DensePart
from sharding.rank_plan import RankMemory
from sharding.topology import Cluster

DATA_SHEET = "from data sheet, uncalibrated"


def basis(cluster: Cluster) -> str:
    """Return where the speeds of an estimate are from: measured, the data sheet, or some of each."""
    measured = cluster.rank_hardware.measured
    if measured is None:
        return DATA_SHEET
    if measured.knows_exchange(cluster.world_size, cluster.nodes):
        return measured.text
    return f"{measured.text}; exchanges among {cluster.world_size} ranks {DATA_SHEET}"


@dataclass(frozen=True)
class StepTime:
    """Milliseconds of a step.

    Attributes:
        table_compute_ms: lookups and updates of the slowest rank.
        table_exchange_ms: embeddings and gradients of that rank.
        table_sync_ms: averaging the copies of the tables, spread over the steps between two syncs.
        dense_ms: forward and backward pass of the dense layers.
        exposed_dense_ms: exchange of dense weights and gradients that nothing hides.
        exposed_input_ms: exchange of ids that nothing hides.
    """

    table_compute_ms: float
    table_exchange_ms: float
    table_sync_ms: float
    dense_ms: float
    exposed_dense_ms: float
    exposed_input_ms: float

    @property
    def total_ms(self) -> float:
        """Return the whole step."""
        return float(sum(asdict(self).values()))


def step_time(
    memory: Sequence[RankMemory], cluster: Cluster, dense: DensePart | None, table_sync_ms: float = 0.0
) -> StepTime:
    """Estimate a step.

    Args:
        memory: what each rank holds and does for the tables.
        cluster: the ranks.
        dense: the dense part; None leaves it out.
        table_sync_ms: what averaging the copies of the tables takes in a step, on average.
    """
    slowest = max(memory, key=lambda rank: (rank.relative_ms, -rank.rank)).step
    dense_ms = exposed_dense = 0.0
    if dense is not None:
        dense_ms = 3 * dense.forward_flops / (dense.peak_tflops * dense.efficiency * 1e9)
        hidden = dense_ms * (2 / 3 if dense.parallel == "ddp" else 1)
        exposed_dense = max(0.0, dense.exchange_ms(cluster) - hidden)
    exposed_input = max(rank.step.input_ms for rank in memory)
    return StepTime(
        slowest.compute_ms, slowest.exchange_ms, table_sync_ms, dense_ms, exposed_dense, exposed_input
    )
