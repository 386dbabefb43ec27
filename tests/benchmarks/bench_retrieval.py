"""Two towers on MovieLens-1M: recall among all movies, and how near FAISS's indexes come to brute force.

    python -m tests.benchmarks.bench_retrieval [--max-steps 965] [--set model.temperature=0.2] [--run FOLDER]

Trains `jobs/configs/movielens_1m_two_tower.yaml` (every rating is a positive; the last movie of each user is
test, the one before it valid), and ranks the movies that the user did not rate before; beside it those that
have most ratings in training. Then writes each kind of index and asks it for 100 unseen movies of every user.
Recall of an index is the share of what brute force (scores by numpy, a full sort) has in its first hundred.
`--without` trains again without the logQ correction, and with other temperatures, for `--steps-without`.

The shared files lack the times of the ratings: the lines of SASRec's ml-1m.txt (in time order, without the
movies of fewer than 5 ratings) take their place. One thread computes. Prints one JSON object
{"rows": [{"name", "value", "unit"}]}.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as pads
import torch
from numpy.typing import NDArray

from jobs import Dataset, RunConfig, TrainResult, evaluate, index, prepare, train
from jobs.cluster import Cluster
from jobs.rank_requests import job_folder, run_request
from jobs.scoring.index_search import ItemIndex
from trainer.item_jobs import QUERY_VECTORS
from trainer.run_folder import RunFolder

CONFIG = Path(__file__).parents[2] / "jobs" / "configs" / "movielens_1m_two_tower.yaml"
SHARED = Path(__file__).parents[3] / "shared" / "data"
AT = (10, 100)
KINDS: tuple[tuple[str, dict[str, int]], ...] = (
    ("flat", {}),
    ("ivf", {}),
    ("ivf", {"nprobe": 4}),
    ("hnsw", {}),
    ("hnsw", {"efSearch": 16}),
)
WITHOUT = {
    "no logQ": ["model.negatives.in_batch=true", "model.negatives.log_q=false"],
    "temperature 0.2": ["model.temperature=0.2"],
    "temperature 1": ["model.temperature=1.0"],
}
Seen = list[NDArray[np.int64]]


def write_raw(shared: Path, folder: Path) -> None:
    """Write ratings.dat with the number of the line in SASRec's file as the time, and the side tables."""

    def table(path: str, *names: str, separator: str = " ") -> pd.DataFrame:
        return pd.read_csv(shared / path, sep=separator, names=list(names), engine="python")

    order = table("sasrec/ml-1m.txt", "u", "i").reset_index(names="timestamp")
    order = order.merge(table("ml-1m/sas_to_original_users.txt", "u", "user_id"))
    order = order.merge(table("ml-1m/sas_to_original_items.txt", "i", "movie_id"))
    ratings = table("ml-1m/ratings_no_timestamp.dat", "user_id", "movie_id", "rating", separator="::")
    rows = order.merge(ratings, on=["user_id", "movie_id"]).sort_values("timestamp")
    columns = rows[["user_id", "movie_id", "rating", "timestamp"]].astype(str)
    lines = columns.agg("::".join, axis=1)
    (folder / "ratings.dat").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in ("users.dat", "movies.dat"):
        shutil.copy(shared / "ml-1m" / name, folder)


class Users:
    """The rows of test: what each has seen, and what is to be found, as ids."""

    def __init__(self, data: Dataset) -> None:
        rows = pads.dataset(data.path / "test", format="parquet").to_table(["seen", "targets"])
        self.seen: Seen = [np.array(ids, np.int64) for ids in rows["seen"].to_pylist()]
        self.targets: Seen = [np.array(ids, np.int64) for ids in rows["targets"].to_pylist()]

    def metrics(self, lists: list[list[int]]) -> dict[str, float]:
        """Return recall and NDCG of lists of ids; every row has one target."""
        ranks = np.array(
            [
                best.index(int(targets[0])) + 1 if int(targets[0]) in best else 10**9
                for best, targets in zip(lists, self.targets, strict=True)
            ]
        )
        found = {f"recall@{k}": float((ranks <= k).mean()) for k in AT}
        return {**found, "ndcg@10": float(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0).mean())}


def brute_force(
    items: NDArray[np.float32], first: int, queries: NDArray[np.float32], seen: Seen, k: int
) -> Any:
    """Return the ids of the best unseen items of each query, by a sort of all scores."""
    scores = queries @ items.T
    for row, ids in enumerate(seen):
        known = ids[ids >= first]
        scores[row, known - first] = -np.inf
    return (np.argsort(-scores, axis=1, kind="stable")[:, :k] + first).tolist()


def query_vectors(result: TrainResult, data: Dataset) -> NDArray[np.float32]:
    """Return the queries of the rows of test, in row order."""
    run, checkpoint = RunFolder(result.path), str(result.result["checkpoint"])
    with job_folder(run, "queries") as place:
        job = "trainer.item_jobs:query_vectors_rank"
        run_request(place, job, run, data, "test", Cluster.local(), checkpoint=checkpoint)
        table = pads.dataset(place / QUERY_VECTORS, format="parquet").to_table().sort_by("row")
    return np.stack(table["vector"].to_numpy(zero_copy_only=False))


def of_indexes(result: TrainResult, data: Dataset, users: Users, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield how each kind of index compares with brute force."""
    queries, best = query_vectors(result, data), None
    for number, (kind, parameters) in enumerate(KINDS):
        began = time.perf_counter()
        checkpoint = result.result["checkpoint"]
        made = index(result, folder / f"index_{number}", kind, parameters=parameters, checkpoint=checkpoint)
        built = time.perf_counter() - began
        opened = ItemIndex.open(made.path)
        vectors = pads.dataset(made.path / "items", format="parquet").to_table()
        items = np.stack(vectors["vector"].to_numpy(zero_copy_only=False))
        if best is None:
            best = brute_force(items, int(vectors["id"][0].as_py()), queries, users.seen, AT[-1])
            yield from _named("brute force", users.metrics(best), "share")
        opened.search(queries[:10], 10)  # reads the files
        named = f"{kind} {opened.info.parameters}" if opened.info.parameters else kind
        begun = time.perf_counter()
        unseen = opened.search(queries, AT[-1], users.seen)
        middle = time.perf_counter()
        opened.search(queries, AT[-1])
        seconds = (middle - begun, time.perf_counter() - middle)
        lists = unseen.ids_QK.tolist()
        hits = [len({*mine} & {*own}) / AT[-1] for mine, own in zip(lists, best, strict=True)]
        yield {
            "name": f"{named}: recall@100 of brute force's",
            "value": float(np.mean(hits)),
            "unit": "share",
        }
        yield from _named(named, users.metrics(lists), "share")
        for what, one in zip(("unseen", "any"), seconds, strict=True):
            yield {"name": f"{named}: {what}", "value": round(len(queries) / one), "unit": "queries/s"}
        yield {"name": f"{named}: index written in", "value": round(built, 1), "unit": "s"}


def popular(users: Users, items: int, first: int) -> list[list[int]]:
    """Return each user's unseen items of most training rows, which have the smallest ids."""
    lists = []
    for seen in users.seen:
        known = {*seen.tolist()}
        unseen = (item for item in range(first, first + items) if item not in known)
        lists.append([next(unseen) for _ in range(AT[-1])])
    return lists


def _named(name: str, metrics: dict[str, float], unit: str) -> list[dict[str, Any]]:
    return [
        {"name": f"{name}: {key}", "value": round(value, 4), "unit": unit} for key, value in metrics.items()
    ]


def _trained(run: RunConfig, data: Dataset, out: Path) -> tuple[TrainResult, dict[str, float]]:
    begun, cpu = time.perf_counter(), time.process_time()
    result = train(run, data, out=out)
    told = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - cpu}
    print(json.dumps({"run": str(out), **told}), file=sys.stderr, flush=True)
    return result, told


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with ml-1m/ and sasrec/")
    parser.add_argument("--data", type=Path, help="data set that was prepared by this benchmark")
    parser.add_argument("--run", type=Path, help="run folder that was trained by this benchmark")
    parser.add_argument("--checkpoint", help="of it (default: the run's choice)")
    parser.add_argument("--max-steps", type=int, help="of the training (default: the config's epochs)")
    parser.add_argument("--without", action="store_true", help="train without logQ and at other temperatures")
    parser.add_argument("--steps-without", type=int, default=193)
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="for the config")
    asked = parser.parse_args()
    if asked.data is None and not (asked.shared / "ml-1m").exists():
        raise SystemExit(f"skipped: the MovieLens-1M files are not in {asked.shared}")
    torch.set_num_threads(1)
    __import__("faiss").omp_set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = RunConfig.load(CONFIG).override(f"data.root={folder}", *asked.overrides)
        if asked.data is None:
            write_raw(asked.shared, folder)
        data = Dataset.open(asked.data) if asked.data else prepare(None, run, folder / "data")
        users = Users(data)
        movies = next(f for f in data.manifest.spec.features if f.name == "movie_id")
        first = 2
        rows += _named(
            "popular", users.metrics(popular(users, (movies.num_embeddings or 0) - first, first)), "share"
        )
        if asked.run is None:
            limited = run if asked.max_steps is None else run.override(f"train.max_steps={asked.max_steps}")
            result, told = _trained(limited, data, folder / "run")
            rows += [{"name": f"training, {k}", "value": round(v), "unit": "s"} for k, v in told.items()]
        else:
            told = {"checkpoint": asked.checkpoint} if asked.checkpoint else RunFolder(asked.run).result()
            result = TrainResult(asked.run, told)
        found = evaluate(result, split="test", checkpoint=result.result["checkpoint"]).metrics
        rows += _named("model", {key: found[key] for key in ("recall@100", "hr@10", "ndcg@10")}, "share")
        rows += of_indexes(result, data, users, folder)
        short = f"train.max_steps={asked.steps_without}"
        for name, overrides in ({"as configured": [], **WITHOUT} if asked.without else {}).items():
            other, _ = _trained(run.override(short, *overrides), data, folder / name.replace(" ", "_"))
            metrics = {key: evaluate(other, split="test").metrics[key] for key in ("recall@100", "ndcg@10")}
            rows += _named(f"{name}, {asked.steps_without} steps", metrics, "share")
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
