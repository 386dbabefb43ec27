"""What ids that come and go cost a step, against `hash: <n>` into as many rows, on the same ids.

    python -m tests.benchmarks.bench_ids [--ranks 1 2] [--rounds 3] [--steps 20] [--json]

Both sides run the sharded step, forward and backward with the update, through DistributedModelParallel; the
fixed buckets have been made before, as `prepare` makes them, and the ids go through `IdMap` and `FreshRows`
first. They take turns, batch by batch, so that whatever else the machine does disturbs both. The tables are
full when timing starts. Ids are synthetic: rank k of an id has a frequency of about 1 / k, among ten times as
many ids as rows. Figures are medians over the rounds of medians over the steps of the slowest rank.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharding.calibration.lookups import planned_tables, sharded_tables, timed_step
from sharding.calibration.timing import slowest
from sharding.fresh_rows import FreshRows
from sharding.hashing import splitmix64_
from sharding.hosts import RankContext
from sharding.id_buckets import BucketShape, IdPolicy
from sharding.ids import IdMap
from sharding.quiet import quiet_torchrec
from sharding.tables import TableSpec
from sharding.topology import Cluster
from tests.benchmarks.on_ranks import ASKED, RESULT, figures_of_ranks

SEED = 1
_IDS_PER_ROW = 10
_BATCH = 2048


@dataclass(frozen=True)
class Case:
    """Tables of one size and one policy; each row of a batch has one id of each."""

    tables: int
    rows: int
    dim: int
    policy: IdPolicy

    @property
    def name(self) -> str:
        """Return what it is, for the table of figures."""
        policy = self.policy
        ttl = f", ttl_steps {policy.ttl_steps}" if policy.ttl_steps else ""
        return f"{self.tables} x {self.rows:,}, dim {self.dim}, {policy.evict}{ttl}"

    def specs(self, *, ids: bool) -> list[TableSpec]:
        """Return the tables, with ids or without."""
        found = [TableSpec(f"t{i}", self.rows, self.dim, (f"f{i}",)) for i in range(self.tables)]
        return [replace(table, ids=self.policy) for table in found] if ids else found

    def batches(self, count: int, rank: int, seed: int = SEED) -> Iterator[KeyedJaggedTensor]:
        """Yield a rank's batches of raw ids."""
        generator = torch.Generator().manual_seed(seed * 1000 + rank)
        size = self.tables * _BATCH
        for _ in range(count):
            place_N = torch.rand(size, dtype=torch.float64, generator=generator)
            yield self.kjt(torch.exp(place_N * math.log(self.rows * _IDS_PER_ROW)).long())

    def most_frequent(self, rank: int, ranks: int) -> KeyedJaggedTensor:
        """Return a rank's part of a batch with more ids than slots, which fills the tables."""
        ids_N = torch.arange(1 + rank, 3 * self.rows, ranks)
        return self.kjt(ids_N.repeat(self.tables))

    def kjt(self, number_N: Tensor) -> KeyedJaggedTensor:
        """Return ids from 1 on as hashes, one for each row and table."""
        ids_N = splitmix64_(number_N).bitwise_and_((1 << 62) - 1).bitwise_or_(2)
        lengths_N = torch.ones(len(ids_N), dtype=torch.int64)
        return KeyedJaggedTensor.from_lengths_sync([f"f{i}" for i in range(self.tables)], ids_N, lengths_N)

    def hashed(self, ids: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """Return the ids as fixed buckets."""
        return KeyedJaggedTensor.from_lengths_sync(ids.keys(), ids.values() % self.rows, ids.lengths())


CASES = (
    Case(1, 1_000_000, 64, IdPolicy("lfu")),
    Case(1, 1_000_000, 64, IdPolicy("distance_lfu")),
    Case(1, 1_000_000, 64, IdPolicy("lru", ttl_steps=1000)),
    Case(8, 100_000, 64, IdPolicy("distance_lfu", min_count=2)),
    Case(26, 100_000, 16, IdPolicy("distance_lfu", min_count=2)),
)


def measure_rank(folder: Path, context: RankContext) -> str:
    """Run every case; rank 0 writes `result.json`."""
    asked = json.loads((folder / ASKED).read_text())
    found: dict[str, list[dict[str, float]]] = {}
    torch.set_num_threads(1)  # A rank that is alone would have more of them than each of two.
    with quiet_torchrec():
        for _ in range(asked["rounds"]):
            for case in CASES:
                found.setdefault(case.name, []).append(_run(case, asked["steps"], context))
    if context.rank == 0:
        (folder / RESULT).write_text(json.dumps(found))
    return "finished"


def _run(case: Case, steps: int, context: RankContext) -> dict[str, float]:
    """Return milliseconds of a step of fixed buckets, of a step with ids, and of what ids add to it."""
    cluster, device = Cluster(ranks_per_node=context.world_size), context.device
    fixed = case.specs(ids=False)
    plan = planned_tables(fixed, cluster, _BATCH)
    dmps = [sharded_tables(fixed, plan, device) for _ in range(2)]
    tables = case.specs(ids=True)
    ids = IdMap(tables, device)
    fresh = FreshRows(dmps[1], dmps[1].fused_optimizer, tables, SEED)
    ids.train(case.most_frequent(context.rank, context.world_size))
    ids.figures()

    def rows(raw: KeyedJaggedTensor) -> KeyedJaggedTensor:
        translated, renewed = ids.train(raw)
        for table, rows_R in renewed.items():
            fresh.write(table, rows_R)
        return translated

    times: dict[str, list[float]] = {"hash": [], "step": [], "ids": []}
    for number, raw in enumerate(case.batches(steps + 3, context.rank)):
        bucketed = case.hashed(raw)
        for side in (0, 1) if number % 2 else (1, 0):
            dist.barrier()
            if side:
                seconds, translated = _timed(lambda raw=raw: rows(raw))
                times["ids"].append(seconds)
                times["step"].append(sum(timed_step(dmps[1], translated, device)))
            else:
                times["hash"].append(sum(timed_step(dmps[0], bucketed, device)))
    both = [a + b for a, b in zip(times["ids"], times["step"], strict=True)]
    medians = [statistics.median(each[3:]) for each in (times["hash"], both, times["ids"])]
    hashed, whole, alone = (seconds * 1e3 for seconds in slowest(medians))
    told = list(ids.figures().values())
    return {
        "hash": hashed,
        "ids": whole,
        "alone": alone,
        "renewed_per_step": sum(figures["admitted"] for figures in told) / (steps + 3),
        "bytes_per_slot": _state_bytes(ids, case),
    }


def _timed(work: Callable[[], KeyedJaggedTensor]) -> tuple[float, KeyedJaggedTensor]:
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def _state_bytes(ids: IdMap, case: Case) -> float:
    """Return what all ranks hold for a slot beside its weights."""
    state = ids.state_dict()
    held = sum(part.to_local().nbytes for table in ids.tables for part in state[table.name].values())
    every = torch.tensor([held])
    dist.all_reduce(every)
    shape = BucketShape.of(case.rows)
    return int(every) / (case.tables * shape.buckets * shape.slots)


def bench(ranks: int, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Return rows of figures for a number of ranks on this host."""
    figures = figures_of_ranks("tests.benchmarks.bench_ids:measure_rank", ranks, rounds=rounds, steps=steps)
    return [_row(case, ranks, figures[case.name]) for case in CASES]


def _row(case: Case, ranks: int, found: list[dict[str, float]]) -> dict[str, Any]:
    medians = {key: statistics.median(each[key] for each in found) for key in found[0]}
    return {
        "tables": case.name,
        "ranks": ranks,
        **medians,
        "ids_per_second": case.tables * _BATCH * ranks / medians["alone"] * 1e3,
        "ratio": statistics.median(each["ids"] / each["hash"] for each in found),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = [row for ranks in asked.ranks for row in bench(ranks, asked.rounds, asked.steps)]
    if asked.json:
        print(json.dumps({"rows": rows}, indent=1))
        return
    print(f"load of the machine: {os.getloadavg()[1]:.1f} in the last five minutes")
    titles = (
        "tables",
        "ranks",
        "hash ms",
        "ids ms",
        "ids / hash",
        "id map, ids/s",
        "new owners",
        "bytes a slot",
    )
    print(f"| {' | '.join(titles)} |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row['tables']} | {row['ranks']} | {row['hash']:.3g} | {row['ids']:.3g} | {row['ratio']:.2f} "
            f"| {row['ids_per_second']:,.0f} | {row['renewed_per_step']:.0f} | {row['bytes_per_slot']:.1f} |"
        )


if __name__ == "__main__":
    main()
