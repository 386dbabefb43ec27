"""Mult-VAE on MovieLens-1M beside independent implementations and baselines, on the same split.

    python -m tests.benchmarks.bench_mult_vae [--contender-python PYTHON] [--raw FOLDER | --data FOLDER]

Strong generalisation as in Liang et al. 2018 (arXiv:1802.05814): a tenth of the users each are valid and
test, of whose items a fifth is to be found. Ours is the shipped config
`jobs/configs/movielens_1m_mult_vae.yaml`. `dense` is `tests/benchmarks/mult_vae/contenders.py`, written from
the paper; `recbole` is RecBole's model, where PYTHON has recbole 1.2. Then popularity, item-kNN and ALS. Each
side but ours tries its settings and chooses by NDCG@100 on valid; each keeps the epoch that is best there.
Prints one JSON object for each, with Recall@20 (over min(20, items to be found), as the paper has it) and
NDCG@100. Everything computes on one thread. Raw ratings need no timestamps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from jobs import Dataset, RunConfig, baseline, evaluate, prepare, train
from trainer.registry import model_section

CONFIG = Path(__file__).parents[2] / "jobs" / "configs" / "movielens_1m_mult_vae.yaml"
CONTENDERS = Path(__file__).parent / "mult_vae" / "contenders.py"
SHARED = Path(__file__).parents[3] / "shared" / "data" / "ml-1m"
METRICS = {"recall@20": "capped_recall@20", "ndcg@100": "ndcg@100"}
# What the contenders try: the rate, and the steps over which the weight of the KL divergence rises.
CONTENDER_TRIED = [{"learning_rate": 0.001, "anneal": 10_000}, {"learning_rate": 0.003, "anneal": 2_000}]
BASELINES: dict[str, list[dict[str, Any]]] = {
    "popularity": [{}],
    "item_knn": [{"neighbours": 100}, {"neighbours": 400, "shrinkage": 10.0}],
    "als": [{"alpha": 10.0, "regularisation": 0.01}, {"alpha": 4.0, "regularisation": 0.05}],
}


def run_on(raw: Path) -> RunConfig:
    """Return the shipped config, for ratings with or without timestamps."""
    run = RunConfig.load(CONFIG).override(f"data.root={raw}")
    without = raw / "ratings_no_timestamp.dat"
    if not without.exists():
        return run
    return run.override(
        f"data.source.path={without.name}",
        "data.source.columns=[user_id, movie_id, rating]",
        # Times order the lists and nothing else: Mult-VAE takes them as sets.
        "data.source.row_number=line",
        "data.user_rows.order_by=line",
    )


def ours(run: RunConfig, data: Dataset, folder: Path) -> dict[str, Any]:
    """Train the config and evaluate its best epoch."""
    begun, clock = time.process_time(), time.perf_counter()
    with patch("sharding.hosts.available_cores", lambda: 1):
        result = train(run, data, out=folder, show_progress=False)
        found = {split: evaluate(result, split).metrics for split in ("valid", "test")}
    seconds = {
        "cpu_seconds": round(time.process_time() - begun, 1),
        "seconds": round(time.perf_counter() - clock, 1),
    }
    return {split: _shown(metrics) for split, metrics in found.items()} | seconds


def contender(model: str, run: RunConfig, data: Dataset, python: str) -> list[dict[str, Any]]:
    """Train another implementation, once for each of its settings."""
    keys = model_section(run.model).model_dump()
    settings = {
        "model": model,
        "hidden": keys["hidden_layer_sizes"][0],
        "latent": keys["latent_dim"],
        "dropout": keys["input_dropout"],
        "kl_weight": keys["kl_weight"],
        "epochs": 100,
        "patience": 10,
        "batch_size": run.train.global_batch_size,
        "seed": run.seed,
    }
    done = subprocess.run(
        [python, str(CONTENDERS), str(data.path)],
        input=json.dumps([settings | tried for tried in CONTENDER_TRIED]),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise SystemExit(f"{model} failed:\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def baselines(name: str, run: RunConfig, data: Dataset, folder: Path) -> list[dict[str, Any]]:
    """Fit a baseline by each of its settings."""
    found = []
    for number, options in enumerate(BASELINES[name]):
        clock = time.perf_counter()
        result = baseline(run, data, name, out=folder / f"{name}_{number}", **options)
        one: dict[str, Any] = {s: _shown(e.metrics) for s, e in result.evaluations.items()}
        found.append(one | options | {"seconds": round(time.perf_counter() - clock, 1)})
    return found


def best(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what did best on the valid split."""
    return max(found, key=lambda one: one["valid"]["ndcg@100"])


def _shown(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: metrics[ours] for name, ours in METRICS.items()}


def main() -> None:
    """Print a line for each side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--contender-python", help="a Python that has recbole 1.2")
    parser.add_argument("--raw", type=Path, default=SHARED, help="folder of the MovieLens-1M files")
    parser.add_argument("--data", help="data set that was prepared from them")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="for our config")
    parser.add_argument("--only", help="names of some sides, separated by commas")
    arguments = parser.parse_args()
    if not arguments.raw.exists():
        raise SystemExit(f"skipped: the MovieLens-1M files are not in {arguments.raw}")
    if not arguments.contender_python:
        print("RecBole is left out: --contender-python names no Python that has it", file=sys.stderr)
    torch.set_num_threads(1)
    run = run_on(arguments.raw).override(*arguments.overrides)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = Dataset.open(arguments.data) if arguments.data else prepare(None, run, folder / "data")
        sides = {
            "ours": lambda: ours(run, data, folder / "run"),
            "dense": lambda: best(contender("dense", run, data, sys.executable)),
            "recbole": lambda: best(contender("recbole", run, data, arguments.contender_python)),
            **{name: lambda name=name: best(baselines(name, run, data, folder)) for name in BASELINES},
        }
        if not arguments.contender_python:
            del sides["recbole"]
        for side in arguments.only.split(",") if arguments.only else sides:
            print(json.dumps({"model": side, **sides[side]()}), flush=True)


if __name__ == "__main__":
    main()
