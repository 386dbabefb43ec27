"""An estimated step: the planner's time for the tables, a roofline for the dense layers, what is not hidden.

    step = tables + dense + exposed_dense + exposed_input

    tables        = the slowest rank's lookups, updates and exchanges, by TorchRec's planner
    dense         = 3 * forward FLOPs / (peak * efficiency): backward takes twice the forward pass
    exposed_dense = max(0, exchange of dense weights and gradients - what hides it)
    exposed_input = max(0, exchange of ids - the rest of the step), which the pipeline runs beside it

Gradients of `ddp` are exchanged during the backward pass (two thirds of `dense`), weights and gradients of
`fsdp` and `hsdp` during all of `dense`. Everything comes from data-sheet speeds; nobody calibrated it. It
knows no launch overhead, no memory-bound dense layers, no skew of ids, no congestion, no waiting for data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sharding.dense_part import DensePart
from sharding.rank_plan import RankMemory
from sharding.topology import Cluster

BASIS = "uncalibrated: from data-sheet speeds, for comparing plans"


@dataclass(frozen=True)
class StepTime:
    """Milliseconds of a step.

    Attributes:
        table_compute_ms: lookups and updates of the slowest rank.
        table_exchange_ms: embeddings and gradients of that rank.
        dense_ms: forward and backward pass of the dense layers.
        exposed_dense_ms: exchange of dense weights and gradients that nothing hides.
        exposed_input_ms: exchange of ids that nothing hides.
    """

    table_compute_ms: float
    table_exchange_ms: float
    dense_ms: float
    exposed_dense_ms: float
    exposed_input_ms: float

    @property
    def total_ms(self) -> float:
        """Return the whole step."""
        return float(sum(asdict(self).values()))


def step_time(memory: Sequence[RankMemory], cluster: Cluster, dense: DensePart | None) -> StepTime:
    """Estimate a step.

    Args:
        memory: what each rank holds and does for the tables.
        cluster: the ranks.
        dense: the dense part; None leaves it out.
    """
    slowest = max(memory, key=lambda rank: (rank.relative_ms, -rank.rank)).step
    dense_ms = exposed_dense = 0.0
    if dense is not None:
        dense_ms = 3 * dense.forward_flops / (dense.peak_tflops * dense.efficiency * 1e9)
        hidden = dense_ms * (2 / 3 if dense.parallel == "ddp" else 1)
        exposed_dense = max(0.0, dense.traffic.milliseconds(cluster) - hidden)
    rest = slowest.compute_ms + slowest.exchange_ms + dense_ms + exposed_dense
    exposed_input = max(0.0, max(rank.step.input_ms for rank in memory) - rest)
    return StepTime(slowest.compute_ms, slowest.exchange_ms, dense_ms, exposed_dense, exposed_input)
