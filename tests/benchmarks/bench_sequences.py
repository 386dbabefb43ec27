"""Quality of the models of sequences on MovieLens-1M, by the protocols of the SASRec paper and of newer ones.

    python -m tests.benchmarks.bench_sequences sasrec [--epochs 60] [--set max_length=100] [--file F]

Each user's last item is test and the one before valid; all others train. Tables are sharded by a plan, on one
rank, and trained by the fused Adagrad or by Adam, the dense part by Adam. Every `--every` epochs the valid
items are ranked, and the test items are reported of the epoch with the best NDCG@10 among 100 drawn items.
Prints one JSON object {"rows": [{"name", "value", "unit"}]}; progress goes to stderr.

The file is data/ml-1m.txt of github.com/kang205/SASRec: lines "user item" in time order.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import yaml
from numpy.typing import NDArray
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharding.planner import make_plan
from sharding.tables import TableSpec
from sharding.topology import Cluster
from sharding.wrap import (
    FusedOptimizer,
    build_table_optimizer,
    dense_parameters,
    initialise_tables,
    shard_model,
)
from trainer.batch import Batch
from trainer.config import DenseOptimizerConfig, ModelConfig
from trainer.item_ranking import rank_targets
from trainer.optimizers import Optimizers
from trainer.registry import ModelInputs, build_model, model_section
from trainer.schema import FIRST_VOCABULARY_ID
from trainer.tasks import TrainingTask

CPU, TOP, DRAWN = torch.device("cpu"), 10, 100
Lists = list[NDArray[np.int64]]


@dataclass(frozen=True)
class Rows:
    """Rows of users: what each has seen, and what is to be found."""

    seen: Lists
    targets: Lists

    def batches(self, order: Sequence[int], size: int, *, tail: bool) -> Iterator[Batch]:
        """Yield the rows in an order; with `tail` the last batch is padded with rows of weight 0."""
        stop = len(order) if tail else len(order) - len(order) % size
        for first in range(0, stop, size):
            rows = list(order[first : first + size])
            none = [np.zeros(0, np.int64)] * (size - len(rows))
            columns = [[lists[row] for row in rows] + none for lists in (self.seen, self.targets)]
            flat = [ids for column in columns for ids in column]
            numbers = torch.tensor(rows + [-1] * len(none))
            yield Batch(
                dense_BF=torch.zeros(size, 0),
                sparse=KeyedJaggedTensor.from_lengths_sync(
                    ["seen", "targets"],
                    torch.from_numpy(np.concatenate(flat)),
                    torch.tensor([len(ids) for ids in flat]),
                ),
                labels_BT=torch.ones(size, 1),
                weights_B=(numbers >= 0).float(),
                rows_B=numbers,
            )


def read_rows(file: Path) -> tuple[dict[str, Rows], int]:
    """Return the rows of each split, and the rows of the items' table."""
    users_items = np.loadtxt(file, dtype=np.int64)
    items = users_items[:, 1] - users_items[:, 1].min() + FIRST_VOCABULARY_ID
    starts = np.flatnonzero(np.diff(users_items[:, 0])) + 1
    lists = np.split(items, starts)
    none = [ids[:0] for ids in lists]
    splits = {
        "train": Rows([ids[:-2] for ids in lists], none),
        "valid": Rows([ids[:-2] for ids in lists], [ids[-2:-1] for ids in lists]),
        "test": Rows([ids[:-1] for ids in lists], [ids[-1:] for ids in lists]),
    }
    return splits, int(items.max()) + 1


def ranked(task: nn.Module, rows: Rows, size: int) -> dict[str, float]:
    """Return HR@10 and NDCG@10 among drawn items and among all."""
    found = {}
    for kind, candidates in (("drawn", DRAWN), ("all", None)):
        batches = rows.batches(range(len(rows.seen)), size, tail=True)
        ranks_P = rank_targets(task, batches, CPU, "targets", candidates=candidates).rank_P
        hits_P = ranks_P <= TOP
        found[f"hr_{kind}"] = float(hits_P.sum() / len(rows.seen))
        found[f"ndcg_{kind}"] = float((hits_P / np.log2(ranks_P + 1)).sum() / len(rows.seen))
    return found


class Training:
    """A model on one rank, with its optimizers."""

    def __init__(self, asked: argparse.Namespace, num_embeddings: int, mean_length: float) -> None:
        keys = {key: yaml.safe_load(value) for key, value in (pair.split("=", 1) for pair in asked.set)}
        section = model_section(ModelConfig(name=asked.model, embedding_dim=asked.dim, **keys))
        table = TableSpec(
            "item", num_embeddings, asked.dim, ("seen",), "none", pooling_factors=(mean_length,)
        )
        inputs = section.completed(
            ModelInputs(0, ("seen",), (table,), frozenset({"seen"}), global_batch_size=asked.batch)
        )
        kind = "data_parallel" if asked.table_optimizer == "adam" else "row_wise"  # as CPU kernels have it
        tables = tuple(replace(t, sharding_types=(kind,)) for t in inputs.tables)
        torch.manual_seed(asked.seed)
        task = TrainingTask(build_model(inputs, section))
        name = asked.table_optimizer
        plan = make_plan(task, tables, Cluster(), batch_size_per_rank=asked.batch, embedding_optimizer=name)
        fused = FusedOptimizer(name, learning_rate=asked.table_rate)
        self.task = shard_model(task, plan, tables, fused, device=CPU)
        initialise_tables(self.task, tables, asked.seed)
        config = DenseOptimizerConfig(learning_rate=asked.rate, betas=(0.9, 0.98))
        dense = dict(dense_parameters(self.task))
        self.optimizers = Optimizers(build_table_optimizer(self.task, tables, fused), dense, config)
        self.asked, self.step = asked, 0

    def epoch(self, rows: Rows, number: int) -> float:
        """Train on all rows once; return the mean loss."""
        order = np.random.default_rng([self.asked.seed, number]).permutation(len(rows.seen))
        losses = []
        for batch in rows.batches(order.tolist(), self.asked.batch, tail=False):
            torch.manual_seed(self.asked.seed * 1_000_003 + self.step)
            self.optimizers.begin_step(1.0)
            loss, _ = self.task(batch)
            loss.backward()
            self.optimizers.end_step(None)
            losses.append(loss.item())
            self.step += 1
        return float(np.mean(losses))


def best_of(asked: argparse.Namespace) -> dict[str, float]:
    """Train, and return the figures of the epoch that is best on valid."""
    splits, num_embeddings = read_rows(asked.file)
    train = splits["train"]
    training = Training(asked, num_embeddings, float(np.mean([len(ids) for ids in train.seen])))
    best: dict[str, float] = {"ndcg_valid": -1.0}
    cpu = time.process_time()
    for epoch in range(1, asked.epochs + 1):
        loss = training.epoch(train, epoch)
        told: dict[str, Any] = {"epoch": epoch, "loss": round(loss, 4)}
        if epoch % asked.every == 0 or epoch == asked.epochs:
            valid = ranked(training.task, splits["valid"], asked.batch)
            if valid["ndcg_drawn"] > best["ndcg_valid"]:
                test = ranked(training.task, splits["test"], asked.batch)
                best = {**test, "ndcg_valid": valid["ndcg_drawn"], "epoch": epoch}
            told |= {"valid": valid, "best": best}
        print(json.dumps({**told, "cpu_s": round(time.process_time() - cpu)}), file=sys.stderr, flush=True)
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", choices=["sasrec", "gru4rec", "bert4rec", "hstu"])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dim", type=int, default=52)
    parser.add_argument("--rate", type=float, default=0.001)
    parser.add_argument("--table-optimizer", choices=["adagrad", "adam"], default="adagrad")
    parser.add_argument("--table-rate", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=YAML", help="a key of the model")
    parser.add_argument("--file", type=Path, default=Path("../shared/data/sasrec/ml-1m.txt"))
    asked = parser.parse_args()
    if not asked.file.exists():
        parser.error(f"{asked.file} is missing: data/ml-1m.txt of github.com/kang205/SASRec")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    best = best_of(asked)
    dist.destroy_process_group()
    names = {
        "hr_drawn": f"HR@{TOP} among {DRAWN} drawn items",
        "ndcg_drawn": f"NDCG@{TOP} among {DRAWN} drawn items",
        "hr_all": f"HR@{TOP} among all items",
        "ndcg_all": f"NDCG@{TOP} among all items",
    }
    rows = [
        {"name": f"{asked.model}: {name}", "value": round(best[key], 4), "unit": "share"}
        for key, name in names.items()
    ]
    rows.append({"name": f"{asked.model}: epoch", "value": best["epoch"], "unit": "epochs"})
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
