"""Estimated against measured time of the embedding step, after calibration, in the same processes.

    python -m tests.benchmarks.bench_estimate [--ranks 1 2] [--rounds 3] [--json]

In every round the ranks calibrate (as `shardrec bench hardware` does), plan each set of tables with what they
found, and run the sharded step, forward and backward with the update, through DistributedModelParallel. So
whatever else the machine does disturbs both sides. Figures are medians over the rounds; `ratio` is the median
of estimated / measured of the same round. The data-sheet estimate of the same plan stands beside. Ids are
random and synthetic. The step waits for its ids, as no pipeline hides their exchange here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharding.calibration.job import Calibration, calibrate
from sharding.calibration.lookups import planned_tables, sharded_tables, timed_step
from sharding.calibration.timing import slowest
from sharding.hardware import Hardware, find_hardware
from sharding.hosts import RankContext
from sharding.measured import Measured
from sharding.plan import Plan
from sharding.quiet import quiet_torchrec
from sharding.tables import TableSpec
from sharding.topology import Cluster
from tests.benchmarks.on_ranks import ASKED, RESULT, figures_of_ranks

_CRITEO_ROWS = (
    *(1460, 583, 100_000, 100_000, 305, 24, 12_517, 633, 3, 93_145, 5683, 100_000, 3194),
    *(27, 14_992, 100_000, 10, 5652, 2173, 4, 100_000, 18, 15, 100_000, 105, 100_000),
)
_REPEATS = 9


@dataclass(frozen=True)
class Case:
    """Tables and what a step looks up in them.

    Attributes:
        name: for the table of figures.
        rows: of each table.
        dim: columns.
        pooling: ids of a bag.
        batch_size: rows of a rank's batch.
        kind: sharding type that every table must take; None leaves the choice to the planner.
    """

    name: str
    rows: tuple[int, ...]
    dim: int
    pooling: int = 1
    batch_size: int = 2048
    kind: str | None = None

    def tables(self) -> list[TableSpec]:
        """Return the tables, each with one feature."""
        kinds = None if self.kind is None else (self.kind,)
        return [
            TableSpec(
                f"t{i}",
                rows,
                self.dim,
                (f"f{i}",),
                pooling_factors=(float(self.pooling),),
                sharding_types=kinds,
            )
            for i, rows in enumerate(self.rows)
        ]

    def ids(self) -> KeyedJaggedTensor:
        """Return a rank's batch of random ids."""
        count = self.batch_size * self.pooling
        values_N = torch.cat([torch.randint(rows, (count,)) for rows in self.rows])
        lengths_FB = torch.full((len(self.rows) * self.batch_size,), self.pooling)
        return KeyedJaggedTensor.from_lengths_sync(
            [f"f{i}" for i in range(len(self.rows))], values_N, lengths_FB
        )


_MILLION = 10**6
CASES = (
    Case("26 Criteo-like tables, dim 16", _CRITEO_ROWS, 16),
    Case("26 Criteo-like tables, dim 16, batch 8192", _CRITEO_ROWS, 16, batch_size=8192),
    Case("8 x 1M, dim 64", (_MILLION,) * 8, 64),
    Case("8 x 1M, dim 64, pooling 10", (_MILLION,) * 8, 64, pooling=10),
    Case("8 x 1M, dim 16, pooling 10", (_MILLION,) * 8, 16, pooling=10),
    Case("4 x 1M, dim 128", (_MILLION,) * 4, 128),
    Case("4 x 1M, dim 128, pooling 10", (_MILLION,) * 4, 128, pooling=10),
    Case("8 x 1M, dim 64, row_wise", (_MILLION,) * 8, 64, kind="row_wise"),
)


def measure_rank(folder: Path, context: RankContext) -> str:
    """Calibrate, plan and run every case; rank 0 writes `result.json`."""
    rounds = json.loads((folder / ASKED).read_text())["rounds"]
    figures: dict[str, list[dict[str, float]]] = {}
    with quiet_torchrec():
        for _ in range(rounds):
            hardware = calibrated(calibrate(Calibration(), context))
            for case in CASES:
                found = _run(case, hardware, context)
                if found is not None:
                    figures.setdefault(case.name, []).append(found)
    if context.rank == 0:
        (folder / RESULT).write_text(json.dumps(figures))
    return "finished"


def calibrated(figures: dict[str, Any]) -> Hardware:
    """Return the CPU entry with what was measured."""
    return replace(find_hardware("cpu"), **{**figures, "measured": Measured.from_record(figures["measured"])})


def _run(case: Case, hardware: Hardware, context: RankContext) -> dict[str, float] | None:
    ranks, tables = context.world_size, case.tables()
    if case.kind is not None and ranks == 1:
        return None
    cluster = Cluster(ranks_per_node=ranks, hardware=hardware)
    plan = planned_tables(tables, cluster, case.batch_size)
    dmp = sharded_tables(tables, plan, context.device)
    ids = case.ids()
    dist.barrier()
    times = [sum(timed_step(dmp, ids, context.device)) for _ in range(_REPEATS + 2)][2:]
    (seconds,) = slowest([statistics.median(times)])
    before = planned_tables(tables, replace(cluster, hardware=find_hardware("cpu")), case.batch_size)
    return {"estimated": step_ms(plan), "measured": seconds * 1e3, "data sheet": step_ms(before)}


def step_ms(plan: Plan) -> float:
    """Return the estimated time of the tables on the slowest rank, ids included."""
    return max(rank.relative_ms + rank.step.input_ms for rank in plan.memory)


def bench(ranks: int, rounds: int) -> list[dict[str, Any]]:
    """Return rows of figures for a number of ranks on this host."""
    figures = figures_of_ranks("tests.benchmarks.bench_estimate:measure_rank", ranks, rounds=rounds)
    return [_row(name, ranks, found) for name, found in figures.items()]


def _row(name: str, ranks: int, found: list[dict[str, float]]) -> dict[str, Any]:
    medians = {key: statistics.median(each[key] for each in found) for key in found[0]}
    ratios = {
        "ratio": statistics.median(each["estimated"] / each["measured"] for each in found),
        "data-sheet ratio": statistics.median(each["data sheet"] / each["measured"] for each in found),
    }
    return {"tables": name, "ranks": ranks, **medians, **ratios}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [row for ranks in options.ranks for row in bench(ranks, options.rounds)]
    if options.json:
        print(json.dumps({"rows": rows}, indent=1))
        return
    print("| tables | ranks | estimated ms | measured ms | estimated / measured | data sheet / measured |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row['tables']} | {row['ranks']} | {row['estimated']:.3g} | {row['measured']:.3g} "
            f"| {row['ratio']:.2f} | {row['data-sheet ratio']:.3f} |"
        )
    worst = max(max(row["ratio"], 1 / row["ratio"]) for row in rows)
    print(f"worst: {worst:.2f} x", file=sys.stderr)


if __name__ == "__main__":
    main()
