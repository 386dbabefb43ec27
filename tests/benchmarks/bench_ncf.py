"""HR@10 and NDCG@10 of GMF, MLP and NeuMF by NCF's protocol on MovieLens-1M, trained by the shipped configs.

    python -m tests.benchmarks.bench_ncf [--raw FOLDER | --data FOLDER] [--models gmf,mlp,neumf,pretrained]

The last rating of each user is ranked against the 99 items of the published file. Nothing is chosen by these
ratings: `--valid` leaves them out, and instead ranks one rating of each user, drawn from the training rows,
against 99 items that the user did not rate; settings are chosen by that. `pretrained` starts from the runs of
`gmf` and `mlp`, which are trained first where `--out` does not hold them.

Everything computes on one thread. Prints a JSON object a model; CPU seconds are those of the training.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch

from jobs import Dataset, RunConfig, evaluate, prepare, train
from trainer.run_folder import RunFolder

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
SHARED = Path(__file__).parents[3] / "shared" / "data" / "ncf-ml-1m"
MODELS = {
    "gmf": "ncf_movielens_1m_gmf",
    "mlp": "ncf_movielens_1m_mlp",
    "neumf": "ncf_movielens_1m",
    "pretrained": "ncf_movielens_1m_pretrained",
}
TRAIN, TEST, NEGATIVE = "ml-1m.train.rating", "ml-1m.test.rating", "ml-1m.test.negative"
WITHOUT_TIMES = "ml-1m.train.user_item_rating.tsv"
COLUMNS = ["user_id", "item_id", "rating", "timestamp"]
NEGATIVES = 99
SPLIT_SEED = 7


def write_raw(published: Path, folder: Path) -> None:
    """Write the files that the configs read, whether or not the training ratings have times."""
    folder.mkdir(parents=True)
    for name in (TEST, NEGATIVE):
        shutil.copyfile(published / name, folder / name)
    if (published / TRAIN).exists():
        shutil.copyfile(published / TRAIN, folder / TRAIN)
        return
    ratings = pd.read_csv(published / WITHOUT_TIMES, sep="\t", names=COLUMNS[:3])
    _write(ratings.assign(timestamp=0), folder / TRAIN)


def write_valid(raw: Path, folder: Path) -> None:
    """Write files of the same form whose test rating of each user is drawn from the training ratings."""
    folder.mkdir(parents=True)
    ratings = pd.read_csv(raw / TRAIN, sep="\t", names=COLUMNS)
    rng = np.random.default_rng(SPLIT_SEED)
    chance = pd.Series(rng.random(len(ratings)), index=ratings.index)
    held = ratings.loc[chance.groupby(ratings["user_id"]).idxmin()].sort_values("user_id")
    _write(ratings.drop(held.index), folder / TRAIN)
    _write(held, folder / TEST)
    items, rated = ratings["item_id"].max() + 1, ratings.groupby("user_id")["item_id"].agg(set)
    with (folder / NEGATIVE).open("w", encoding="utf-8") as lines:
        for user, item in zip(held["user_id"], held["item_id"], strict=True):
            drawn = [other for other in rng.permutation(items).tolist() if other not in rated[user]]
            lines.write("\t".join([f"({user},{item})", *map(str, drawn[:NEGATIVES])]) + "\n")


def _write(ratings: pd.DataFrame, file: Path) -> None:
    ratings[COLUMNS].to_csv(file, sep="\t", header=False, index=False)


def prepared(asked: argparse.Namespace, folder: Path) -> Dataset:
    """Prepare the ratings, or those of `--valid`."""
    raw = folder / "raw"
    write_raw(asked.raw, raw)
    if asked.valid:
        write_valid(raw, folder / "valid")
        raw = folder / "valid"
    run = RunConfig.load(CONFIGS / f"{MODELS['neumf']}.yaml", [f"data.root={raw}"])
    return prepare(None, run, folder / "data")


def measured(name: str, asked: argparse.Namespace, data: Dataset, runs: Path) -> dict[str, Any]:
    """Train a model beside the others and rank its test lists."""
    run = RunConfig.load(CONFIGS / f"{MODELS[name]}.yaml", [f"seed={asked.seed}", *asked.overrides])
    begun, clock = time.process_time(), time.perf_counter()
    result = train(run, data, out=runs / run.name, show_progress=False)
    cpu_seconds, seconds = time.process_time() - begun, time.perf_counter() - clock
    found = evaluate(result, "test").metrics
    return {
        "model": name,
        "hr@10": round(found["hr@10"], 4),
        "ndcg@10": round(found["ndcg@10"], 4),
        "seed": asked.seed,
        "epochs": run.train.epochs,
        "cpu_seconds": round(cpu_seconds),
        "seconds": round(seconds),
    }


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--raw", type=Path, default=SHARED, help="folder of NCF's files")
    parser.add_argument("--data", help="data set that was prepared from them")
    parser.add_argument("--valid", action="store_true", help="rank ratings that were left out of training")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="for each config")
    parser.add_argument("--out", type=Path, help="folder of the runs; default a temporary one")
    asked = parser.parse_args()
    if asked.data is None and not asked.raw.exists():
        raise SystemExit(f"skipped: NCF's files are not in {asked.raw}")
    names = asked.models.split(",")
    torch.set_num_threads(1)
    with ExitStack() as stack:
        stack.enter_context(patch("sharding.hosts.available_cores", lambda: 1))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data = Dataset.open(asked.data) if asked.data else prepared(asked, folder)
        runs = asked.out or folder / "runs"
        if "pretrained" in names:
            there = [name for name in ("gmf", "mlp") if RunFolder(runs / MODELS[name]).result_file.exists()]
            names = [n for n in ("gmf", "mlp") if n not in (*names, *there)] + names
        for name in names:
            print(json.dumps(measured(name, asked, data, runs)), flush=True)


if __name__ == "__main__":
    main()
