"""Quality of every model on MovieLens-1M, by its shipped config `jobs/configs/movielens_1m_<model>.yaml`.

    python -m tests.benchmarks.bench_models [--models sasrec,din] [--set train.epochs=5] [--raw FOLDER]

Configs of the same features share a prepared data set. Prints one JSON object a model: the metrics of the
test split at the epoch that is best on valid, and how long training took, on one thread.

FOLDER holds the files of ml-1m. Where its ratings have no timestamps (`ratings_no_timestamp.dat`), a rating's
time is its place in the user's list of SASRec's file (`--order`, with the maps to the movies' own numbers in
FOLDER), which is that of the true timestamps; the few ratings that are not there come first.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch

from jobs import Dataset, RunConfig, evaluate, prepare, train
from trainer.registry import models

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
SHARED = Path(__file__).parents[3] / "shared" / "data"
SHOWN = ("auc", "ne", "rmse", "hr@10", "ndcg@10", "recall@100", "ndcg@100", "recall@20")


def raw_files(raw: Path, order: Path, out: Path) -> Path:
    """Write the files of ml-1m with times, see above, and return their folder."""
    if (raw / "ratings.dat").exists():
        return raw
    keys = ["user_id", "movie_id"]
    ratings = pd.read_csv(
        raw / "ratings_no_timestamp.dat", sep="::", engine="python", names=[*keys, "rating"]
    )
    seen = pd.read_csv(order, sep=" ", names=keys)
    seen["timestamp"] = seen.groupby("user_id").cumcount() + 1
    for key, name in (("user_id", "users"), ("movie_id", "items")):
        numbers = pd.read_csv(raw / f"sas_to_original_{name}.txt", sep=" ", names=["own", "original"])
        seen[key] = seen[key].map(numbers.set_index("own")["original"])
    timed = ratings.merge(seen, on=keys, how="left")
    timed["timestamp"] = timed["timestamp"].fillna(0).astype(int)
    out.mkdir()
    lines = timed.astype(str).agg("::".join, axis=1)
    (out / "ratings.dat").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in ("users.dat", "movies.dat"):
        shutil.copy(raw / name, out)
    return out


def measured(run: RunConfig, data: Dataset, folder: Path) -> dict[str, object]:
    """Train a config and evaluate its best epoch on test."""
    begun, clock = time.process_time(), time.perf_counter()
    result = train(run, data, out=folder / "run", show_progress=False)
    cpu, seconds = time.process_time() - begun, time.perf_counter() - clock
    found = evaluate(result, "test").metrics
    metrics = {name: round(value, 4) for name, value in found.items() if name.rpartition("/")[2] in SHOWN}
    return {"metrics": metrics, "train_cpu_seconds": round(cpu), "train_seconds": round(seconds)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", default=",".join(models()))
    parser.add_argument("--raw", type=Path, default=SHARED / "ml-1m")
    parser.add_argument("--order", type=Path, default=SHARED / "sasrec" / "ml-1m.txt")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="for every config")
    asked = parser.parse_args(arguments)
    if not asked.raw.exists():
        sys.exit(f"skipped: the MovieLens-1M files are not in {asked.raw}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as text, patch("sharding.hosts.available_cores", lambda: 1):
        folder = Path(text)
        raw = raw_files(asked.raw, asked.order, folder / "raw")
        prepared: dict[str, Dataset] = {}
        for name in asked.models.split(","):
            run = RunConfig.load(
                CONFIGS / f"movielens_1m_{name}.yaml", [f"data.root={raw}", *asked.overrides]
            )
            features = run.preparation_hash()
            if features not in prepared:
                prepared[features] = prepare(None, run, folder / features)
            with tempfile.TemporaryDirectory(dir=folder) as out:
                line = measured(run, prepared[features], Path(out))
            print(json.dumps({"model": name, **line}), flush=True)


if __name__ == "__main__":
    main()
