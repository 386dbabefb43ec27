"""Rows/s of prepare, samples/s of training at 1 and 2 ranks, peak memory, on synthetic Criteo-shaped rows.

    python -m tests.benchmarks.bench_pipeline [--rows 200000] [--rounds 3]

The rows are synthetic: 13 dense columns and 26 id columns whose ids follow a power law, in Criteo's 40-column
TSV form. Prints one JSON object {"rows": [{"name", "value", "unit", ...}]}; medians of the rounds. Peak
memory is that of the largest rank for training, and of Python and the JVM together for prepare.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from jobs import Cluster, Dataset, RunConfig, prepare, train
from tests.benchmarks.process_memory import TreeMemory

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
STEPS = 60


def write_rows(path: Path, rows: int, seed: int = 0) -> None:
    """Write synthetic rows in Criteo's TSV form, missing values included."""
    generator = np.random.default_rng(seed)
    columns = [(generator.random(rows) < 0.25).astype(int).astype(str)]
    for _ in range(13):
        numbers = generator.geometric(0.02, rows).astype(str)
        columns.append(np.where(generator.random(rows) < 0.2, "", numbers))
    for number in range(26):
        size = int(10 ** (2 + number % 5))
        ids = (generator.pareto(1.1, rows) * 10).astype(np.int64) % size
        columns.append(np.char.mod("%08x", ids * 2654435761 % 2**32))
    np.savetxt(path, np.stack(columns, axis=1), fmt="%s", delimiter="\t")


def measure_prepare(run: RunConfig, folder: Path, rows: int, rounds: int) -> tuple[Dataset, dict[str, Any]]:
    """Prepare the same file several times in one Spark session."""
    seconds, data = [], None
    with TreeMemory(os.getpid()) as memory:
        for _ in range(rounds):
            data = prepare(None, run, folder / "data")
            seconds.append(data.seconds)
    assert data is not None
    line = {
        "name": f"prepare, {rows:,} rows",
        "value": round(rows / statistics.median(seconds)),
        "unit": "rows/s",
    }
    return data, {**line, "peak_memory_gib": round(memory.peak_gib, 2)}


def measure_training(run: RunConfig, data: Dataset, folder: Path, ranks: int, rounds: int) -> dict[str, Any]:
    """Train some steps; the speed is that of the steps after the first 20, without evaluation.

    Ranks are processes of their own at one rank too, so that their memory is not that of prepare.
    """
    speeds, peaks = [], []
    for _ in range(rounds):
        out = folder / "run"
        shutil.rmtree(out, ignore_errors=True)
        result = train(run, data, Cluster.local(ranks, on="torchrun"), out=out, show_progress=False)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        logged = [
            line["samples_per_second"] for line in lines if line["kind"] == "train" and line["step"] > 20
        ]
        speeds.append(statistics.harmonic_mean(logged))
        peaks.append(result.result["peak_memory_gib"])
    return {
        "name": f"train {run.name}, {ranks} rank{'s' if ranks > 1 else ''}",
        "value": round(statistics.median(speeds)),
        "unit": "samples/s",
        "peak_memory_gib": round(statistics.median(peaks), 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_rows(folder / "train.txt", options.rows)
        runs = [
            RunConfig.load(CONFIGS / f"{name}.yaml").override(
                f"data.root={folder}",
                f"train.max_steps={STEPS}",
                "train.global_batch_size=2048",
                "train.log_every_steps=10",
                "train.evaluate_every_steps=100000",
                "train.checkpoint_every_steps=100000",
            )
            for name in ("criteo_dlrm", "criteo_dhen")
        ]
        data, prepared = measure_prepare(runs[0], folder, options.rows, options.rounds)
        found.append(prepared)
        for run in runs:
            one, two = (measure_training(run, data, folder, ranks, options.rounds) for ranks in (1, 2))
            found += [one, two | {"ratio": round(two["value"] / one["value"], 3), "against": one["name"]}]
    print(json.dumps({"rows": found}, indent=1))


if __name__ == "__main__":
    main()
