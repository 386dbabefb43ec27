"""AUC of the CTR models on MovieLens-1M beside FuxiCTR's, on the same rows, ids, widths and layers.

    python -m tests.benchmarks.bench_ctr --contender-python PYTHON [--raw FOLDER | --data FOLDER]

Each model is trained by its shipped config `jobs/configs/movielens_1m_<model>.yaml`, and by FuxiCTR's layers
and BaseModel in a Python that has fuxictr 2.3 (`tests/benchmarks/ctr/fuxictr_models.py`). Both sides try two
settings, choose by AUC on the valid split, and keep the epoch that is best there. Prints one JSON object a
model, with AUC and log loss on the test split. Everything computes on one thread. Raw ratings need no
timestamps. Beside each other stand `--models dhen` and, tuned by the same means,

    --models dlrm --set model.over_arch_layer_sizes=[176,88] --set train.dense_optimizer.max_norm=0.35
        --set train.embedding_optimizer.learning_rate=0.002 --set train.epochs=40
        --set train.early_stopping.patience=6

each with `--set seed=N`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from jobs import Dataset, RunConfig, evaluate, prepare, train
from trainer.dense_work import dense_work
from trainer.inputs import model_inputs
from trainer.registry import model_section

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
CONTENDER = Path(__file__).parent / "ctr" / "fuxictr_models.py"
SHARED = Path(__file__).parents[3] / "shared" / "data" / "ml-1m"
MODELS = ("fm", "wide_deep", "deep_fm", "dcn", "dcn_v2", "xdeep_fm", "final_mlp", "dlrm")
# What each side tries: the one thing that decides here how soon tables learn their training rows by heart.
# Ours is the config's learning rate of the tables, and less than half of it.
TRIED = (1.0, 0.4)
# The same of its Adam, for tables and layers alike; of the L2 tried by hand on it 1e-5 was best.
CONTENDER_TRIED = [{"learning_rate": rate, "embedding_regularizer": 1e-5} for rate in (0.001, 0.004)]


def config_of(name: str) -> RunConfig:
    """Return the shipped config of a model."""
    return RunConfig.load(CONFIGS / f"movielens_1m_{name}.yaml")


def prepared(raw: Path, folder: Path) -> Dataset:
    """Prepare the ratings, with or without timestamps, by the features that all these configs share."""
    run = config_of("fm").override(f"data.root={raw}")
    without = raw / "ratings_no_timestamp.dat"
    if without.exists():
        columns = "data.source.columns=[user_id, movie_id, rating]"
        run = run.override(f"data.source.path={without.name}", columns)
    return prepare(None, run, folder)


def with_rate(run: RunConfig, rate: float) -> RunConfig:
    """Return a config with another learning rate of the tables."""
    return run.override(f"train.embedding_optimizer.learning_rate={rate}")


def forward_flops(run: RunConfig, data: Dataset) -> int:
    """Return FLOPs of matrix products in the forward pass of a row."""
    section, manifest = model_section(run.model), data.manifest
    inputs = model_inputs(run, manifest.spec, manifest.statistics, section.embedding_dim)
    return round(dense_work(section.completed(inputs), section).forward_flops)


def ours(run: RunConfig, data: Dataset) -> dict[str, Any]:
    """Train a config and evaluate its best epoch."""
    with tempfile.TemporaryDirectory() as folder, patch("sharding.hosts.available_cores", lambda: 1):
        begun, clock = time.process_time(), time.perf_counter()
        result = train(run, data, out=Path(folder) / "run", show_progress=False)
        found = {split: evaluate(result, split).metrics for split in ("valid", "test")}
    return {
        "valid_auc": found["valid"]["auc"],
        **{name: found["test"][name] for name in ("auc", "log_loss", "ne")},
        "cpu_seconds": round(time.process_time() - begun, 1),
        "seconds": round(time.perf_counter() - clock, 1),
    }


def theirs(settings: list[dict[str, Any]], data: Dataset, python: str) -> list[dict[str, Any]]:
    """Train the same model by FuxiCTR, once for each of the settings."""
    done = subprocess.run(
        [python, str(CONTENDER), str(data.path)],
        input=json.dumps(settings),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise SystemExit(f"the contender failed:\n{done.stderr[-2000:]}")
    return [
        {
            "valid_auc": found["valid"]["auc"],
            "auc": found["test"]["auc"],
            "log_loss": found["test"]["logloss"],
            **{name: found[name] for name in ("learning_rate", "cpu_seconds", "seconds")},
        }
        for found in map(json.loads, done.stdout.splitlines())
    ]


def best(found: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return what did best on the valid split."""
    return max(found, key=lambda one: one["valid_auc"])


def contender_settings(run: RunConfig) -> dict[str, Any]:
    """Return the sizes of a config by the names of `fuxictr_models.py`."""
    section = model_section(run.model)
    model: Mapping[str, Any] = section.model_dump()
    streams = [model[name] for name in ("first", "second") if name in model]
    layers = model.get("deep_layer_sizes") or model.get("over_arch_layer_sizes") or []
    return {
        "model": run.model.name,
        "embedding_dim": section.embedding_dim,
        "layers": streams[0]["layer_sizes"] if streams else layers,
        "dropout": model.get("dropout", 0.0),
        "norm": model.get("norm"),
        "cross_layers": model.get("num_cross_layers"),
        "structure": model.get("structure", "parallel"),
        "cin_layers": model.get("cin_layer_sizes"),
        "gates": [stream["gate_features"] for stream in streams],
        "batch_size": run.train.global_batch_size,
        "epochs": run.train.epochs,
        "seed": run.seed,
    }


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--contender-python", help="a Python that has fuxictr 2.3")
    parser.add_argument("--raw", type=Path, default=SHARED, help="folder of the MovieLens-1M files")
    parser.add_argument("--data", help="data set that was prepared from them")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="for our config")
    arguments = parser.parse_args()
    if arguments.data is None and not arguments.raw.exists():
        raise SystemExit(f"skipped: the MovieLens-1M files are not in {arguments.raw}")
    if not arguments.contender_python:
        print("FuxiCTR is left out: --contender-python names no Python that has it", file=sys.stderr)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = Dataset.open(arguments.data) if arguments.data else prepared(arguments.raw, Path(folder) / "d")
        for name in arguments.models.split(","):
            run = config_of(name).override(*arguments.overrides)
            line: dict[str, Any] = {"model": name, "flops": forward_flops(run, data)}
            rates = [factor * run.train.embedding_optimizer.learning_rate for factor in TRIED]
            line["ours"] = best({"table_rate": rate, **ours(with_rate(run, rate), data)} for rate in rates)
            if arguments.contender_python:
                settings = [contender_settings(run) | tried for tried in CONTENDER_TRIED]
                line["fuxictr"] = best(theirs(settings, data, arguments.contender_python))
                line["difference"] = round(line["ours"]["auc"] - line["fuxictr"]["auc"], 4)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
