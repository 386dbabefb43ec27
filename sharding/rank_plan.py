"""What one rank holds and does in a step: a record of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sharding.traffic import Traffic


@dataclass(frozen=True)
class RankStep:
    """What a rank does for the tables in one step; times are estimates."""

    compute_ms: float
    """Looking rows up and updating them."""
    exchange_ms: float
    """Embeddings and their gradients, between ranks."""
    input_ms: float
    """Ids, between ranks."""
    traffic: Traffic
    """Sent for the tables."""


@dataclass(frozen=True)
class RankMemory:
    """Bytes on one rank, where tables live by default unless the name says otherwise."""

    rank: int
    weights: int
    optimizer: int
    gradients: int
    """Of data-parallel tables."""
    cache: int
    """Rows that `fused_uvm_caching` and `key_value` keep in HBM, with their bookkeeping."""
    input_buffers: int
    """Ids of the step."""
    output_buffers: int
    """Embeddings before they are exchanged."""
    pipeline_copies: int
    """Room on GPU for the ids of the next step, for a pipeline that fetches them ahead."""
    dense_weights: int
    """Also the weights and gradients that are whole while units compute."""
    dense_gradients: int
    dense_optimizer: int
    activations: int
    """Of the dense layers, kept for the backward pass."""
    reserve: int
    """Kept free."""
    memory_used: int
    """HBM on GPU, host memory on CPU: all of the above but the reserve."""
    host_weights: int
    """Host memory of a GPU rank under the UVM kernels."""
    host_optimizer: int
    step: RankStep
    host_buffers: int = 0
    """Host memory of a GPU rank for rows that leave the cache of `key_value`."""
    ssd_weights: int = 0
    """On SSD, under `key_value`."""
    id_slots: int = 0
    """Of ids that come and go."""

    @property
    def buffers(self) -> int:
        """Return the bytes of ids in flight and of embeddings before they are exchanged."""
        return self.input_buffers + self.output_buffers + self.pipeline_copies

    @property
    def dense(self) -> int:
        """Return the bytes of weights, gradients and optimizer state of the dense layers."""
        return self.dense_weights + self.dense_gradients + self.dense_optimizer

    @property
    def host_used(self) -> int:
        """Return the host memory of a GPU rank that the UVM and SSD kernels use."""
        return self.host_weights + self.host_optimizer + self.host_buffers

    @property
    def relative_ms(self) -> float:
        """Return the estimated time of the rank's tables, forward and backward."""
        return round(self.step.compute_ms + self.step.exchange_ms, 6)

    def as_record(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> RankMemory:
        """Return what `as_record` described."""
        step = record["step"]
        traffic = Traffic(**step["traffic"])
        return cls(**{**record, "step": RankStep(**{**step, "traffic": traffic})})
