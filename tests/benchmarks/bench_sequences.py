"""Quality of the models of sequences on MovieLens-1M, by the protocols of the SASRec paper and of newer ones.

    python -m tests.benchmarks.bench_sequences [--configs sasrec_movielens_1m] [--set seed=2] [--raw FOLDER]

Each user's last item is test and the one before valid; all others train. Every config is trained on the file
of `sasrec_movielens_1m.yaml`, data/ml-1m.txt of github.com/kang205/SASRec, in FOLDER. What does best on valid
by its own `early_stopping` is evaluated on test: among 100 drawn items that the user has not met, as in the
paper, and among all of them. Everything computes on one thread. Prints a JSON object a config.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from jobs import Dataset, RunConfig, evaluate, prepare, train

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
SHARED = Path(__file__).parents[3] / "shared" / "data" / "sasrec"
PROTOCOL = "sasrec_movielens_1m"
NAMES = (PROTOCOL, *(f"movielens_1m_{model}" for model in ("sasrec", "gru4rec", "bert4rec", "hstu")))
DRAWN = 100


def config_of(name: str, raw: Path, overrides: list[str]) -> RunConfig:
    """Return a shipped config on the protocol's rows."""
    values = RunConfig.load(CONFIGS / f"{name}.yaml").as_dict()
    protocol = RunConfig.load(CONFIGS / f"{PROTOCOL}.yaml", [f"data.root={raw}"]).as_dict()
    return RunConfig.from_dict({**values, **{key: protocol[key] for key in ("data", "features")}}).override(
        *overrides
    )


def measured(run: RunConfig, data: Dataset, out: Path) -> dict[str, Any]:
    """Train a config and evaluate its best epoch on test, among drawn items and among all."""
    begun, clock = time.process_time(), time.perf_counter()
    result = train(run, data, out=out, show_progress=False)
    cpu_seconds, seconds = time.process_time() - begun, time.perf_counter() - clock
    found = {"drawn": evaluate(result, candidates=DRAWN), "all": evaluate(result, candidates="all")}
    metrics = {
        f"{name}@10, {among}": round(one.metrics[f"{name}@10"], 4)
        for among, one in found.items()
        for name in ("hr", "ndcg")
    }
    best_step, steps = result.result["best_step"], result.result["steps"]
    return {
        **metrics,
        "best_step": best_step,
        "steps": steps,
        "cpu_seconds": round(cpu_seconds),
        "seconds": round(seconds),
    }


def main() -> None:
    """Print a line for each config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--configs", default=",".join(NAMES))
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="for every config")
    parser.add_argument("--raw", type=Path, default=SHARED, help="folder of ml-1m.txt")
    parser.add_argument("--data", help="data set that was prepared from it")
    parser.add_argument("--out", type=Path, help="folder of the runs; default a temporary one")
    asked = parser.parse_args()
    if asked.data is None and not (asked.raw / "ml-1m.txt").exists():
        sys.exit(f"skipped: ml-1m.txt is not in {asked.raw}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as text, patch("sharding.hosts.available_cores", lambda: 1):
        folder = Path(text)
        data = None if asked.data is None else Dataset.open(asked.data)
        for name in asked.configs.split(","):
            run = config_of(name, asked.raw, asked.overrides)
            data = data or prepare(None, run, folder / "data")
            print(
                json.dumps(
                    {"config": name, "seed": run.seed, **measured(run, data, (asked.out or folder) / name)}
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
