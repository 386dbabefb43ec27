"""Tables and clusters to plan. All tables but those of Criteo-1TB are synthetic; none has rows behind it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from sharding.tables import TableSpec
from sharding.topology import Cluster

# Rows of the 26 tables of MLPerf's DLRM on Criteo-1TB, ids beyond 40 million folded.
CRITEO_1TB_ROWS = (
    *(40_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63, 40_000_000, 3_067_956, 405_282, 10),
    *(2_209, 11_938, 155, 4, 976, 14, 40_000_000, 40_000_000, 40_000_000, 590_152, 12_973, 108, 36),
)
DIM = 128


def log_uniform_rows(parameters: float, tables: int, seed: int = 0) -> list[int]:
    """Return synthetic row counts, log-uniform over 1e2 to 1e10, scaled to a number of parameters."""
    draws = random.Random(seed)
    raw = [10 ** draws.uniform(2, 10) for _ in range(tables)]

    def scaled(factor: float) -> list[int]:
        return [min(10**10, max(10, int(rows * factor))) for rows in raw]

    low, high = 1e-6, 1e6
    for _ in range(200):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if sum(scaled(middle)) < parameters / DIM else (low, middle)
    return scaled(high)


@dataclass(frozen=True)
class Case:
    """Tables, cluster and batch size of one measurement.

    Attributes:
        rows: returns the rows of each table.
        data_type: of the weights.
        nodes: hosts of 8 H100s.
        batch_size_per_rank: rows of a batch on each rank.
        against_stock: whether TorchRec's own proposers are measured too.
    """

    rows: Callable[[], list[int]]
    data_type: str
    nodes: int
    batch_size_per_rank: int
    against_stock: bool = False

    @property
    def tables(self) -> list[TableSpec]:
        """Return the tables, each of one feature with one id a row."""
        return [
            TableSpec(f"t{number}", rows, DIM, (f"f{number}",), data_type=self.data_type)
            for number, rows in enumerate(self.rows())
        ]

    @property
    def cluster(self) -> Cluster:
        """Return the cluster."""
        return Cluster(nodes=self.nodes, gpus_per_node=8, gpu="h100")


def _criteo() -> list[int]:
    return list(CRITEO_1TB_ROWS)


def _many() -> list[int]:
    return log_uniform_rows(0.05e12, 2000)


def _large() -> list[int]:
    return log_uniform_rows(1.25e12, 400)


def _largest() -> list[int]:
    return log_uniform_rows(3e12, 400)


CASES = {
    "Criteo-1TB, 8 GPUs": Case(_criteo, "fp32", 1, 8192, against_stock=True),
    "Criteo-1TB, 64 GPUs": Case(_criteo, "fp32", 8, 8192, against_stock=True),
    "Criteo-1TB, 128 GPUs": Case(_criteo, "fp32", 16, 8192, against_stock=True),
    "2,000 synthetic tables, 128 GPUs": Case(_many, "fp32", 16, 8192),
    "2,000 synthetic tables, 1,024 GPUs": Case(_many, "fp32", 128, 2048),
    "1.25 T synthetic parameters, 128 GPUs": Case(_large, "fp16", 16, 4096),
    "1.25 T synthetic parameters, 1,024 GPUs": Case(_large, "fp16", 128, 4096),
    "3 T synthetic parameters, 128 GPUs": Case(_largest, "fp16", 16, 4096),
    "3 T synthetic parameters, 1,024 GPUs": Case(_largest, "fp16", 128, 4096),
}
"""By name."""
