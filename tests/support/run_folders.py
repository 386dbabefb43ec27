"""Writes small run folders with known contents, as training, evaluation and recommending leave them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from sharding.plan import Plan, RankMemory, RankStep, Shard, TablePlan
from sharding.topology import Cluster
from sharding.traffic import Traffic
from trainer.schema import Feature, FeatureSpec, FeatureStatistics, FittedOp, Manifest, PartFile, Split

METRICS = {"auc": 0.7912, "log_loss": 0.5401, "ne": 0.7852, "calibration": 1.013, "accuracy": 0.7213}
PARTS = ("result", "evaluation", "recommendations", "manifest", "plan", "env")


def records(steps: int = 100, every: int = 10) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    lines: list[dict[str, Any]] = [
        {"kind": "start", "total_steps": steps, "first_step": 0, "world_size": 2, "batch_size_per_rank": 512}
    ]
    for step in range(every, steps + 1, every):
        loss = 0.52 + 0.18 * math.exp(-3 * step / steps) + rng.normal(0, 0.006)
        rate = 24_000 + rng.normal(0, 900)
        lines.append(
            {"kind": "train", "step": step, "loss": loss, "samples_per_second": rate, "learning_rate": 0.001}
        )
        if step * 10 % steps == 0:
            gain = 1 - math.exp(-4 * step / steps)
            metrics = METRICS | {
                "auc": 0.5 + 0.2912 * gain,
                "ne": 1 - 0.2148 * gain,
                "log_loss": 0.68 - 0.14 * gain,
            }
            lines.append({"kind": "evaluation", "step": step, "epoch": 1, **metrics})
            lines.append({"kind": "checkpoint", "step": step})
    return lines


def losses(folder: Path) -> list[float]:
    """Return the training losses that a run has logged, in order."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "train"]


def manifest(synthetic: bool = False, title: str = "genres") -> Manifest:
    features = (
        Feature(name="age", kind="dense", column="age", ops=(FittedOp(name="fill"), FittedOp(name="log1p"))),
        Feature(name="movie_id", kind="sparse", column="movie_id", table="movie_id", num_embeddings=1602),
        Feature(name=title, kind="sparse", column=title, is_list=True, table=title, num_embeddings=21),
        Feature(name="history", kind="sequence", column="movie_id", is_list=True, table="movie_id"),
    )
    split = Split(
        rows=1000, positives=554, files=(PartFile(path="a", rows=1000, row_groups=(1000,), bytes=2048),)
    )
    return Manifest(
        name="ml-tiny",
        created="2026-01-01T00:00:00Z",
        seed=1,
        config_hash="0" * 16,
        spec=FeatureSpec(features=features, label=FittedOp(name="label")),
        splits={"train": split, "valid": split.model_copy(update={"rows": 0, "positives": 0}), "test": split},
        statistics={
            "age": FeatureStatistics(mean=0.25, std=1.0, min=-2.0, max=3.5, null_share=0.015),
            "movie_id": FeatureStatistics(ids=1600, oov_share=0.012, train_oov_share=0.004),
            title: FeatureStatistics(ids=19, mean_length=2.13),
        },
        synthetic=synthetic,
    )


def table_plan(
    name: str, rows: int, dim: int, sharding: str, shards: tuple[Shard, ...], copies: int = 1
) -> TablePlan:
    return TablePlan(
        name=name,
        module="embeddings",
        num_embeddings=rows,
        embedding_dim=dim,
        data_type="fp32",
        pooling="sum",
        sharding_type=sharding,
        compute_kernel="fused",
        cache_load_factor=None,
        shards=shards,
        weight_bytes=4 * rows * dim * copies,
        optimizer_bytes=4 * rows * copies,
        relative_ms=0.1,
    )


def plan(title: str = "genres") -> Plan:
    step = RankStep(0.06, 0.04, 0.01, Traffic(2**16, 0))
    held = (2**20, 2**16, 0, 0, 2**16, 2**17, 2**16, 2**18, 2**18, 2**19, 2**18, 2**24, 2**22, 0, 0)
    memory = tuple(RankMemory(rank, *held, step) for rank in range(2))
    return Plan(
        tables=(
            table_plan(
                "movie_id", 1602, 16, "row_wise", (Shard(0, 0, 0, 801, 16), Shard(1, 801, 0, 801, 16))
            ),
            table_plan(title, 21, 16, "table_wise", (Shard(1, 0, 0, 21, 16),)),
        ),
        cluster=Cluster.parse("1x2xcpu"),
        batch_size_per_rank=512,
        embedding_optimizer="rowwise_adagrad",
        storage_reserve_share=0.15,
        memory=memory,
        seconds=0.41,
        warnings=("a warning of the planner",),
    )


def write_run(
    folder: Path,
    *,
    name: str = "ml-tiny",
    lines: list[dict[str, Any]] | None = None,
    without: tuple[str, ...] = (),
    text: str = "genres",
    synthetic: bool = False,
    metrics: dict[str, Any] | None = None,
) -> Path:
    """Write a run folder; `text` stands wherever a run may carry words from outside."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {**METRICS, "base_rate": 0.554} if metrics is None else metrics
    train = {"global_batch_size": 1024, "dense_optimizer": {"name": "adam", "learning_rate": 0.001}}
    config = {
        "name": name,
        "seed": 1,
        "model": {"name": "dlrm", "embedding_dim": 16},
        "train": train,
        "note": text,
    }
    # JSON is YAML as well.
    (folder / "config.yaml").write_text(json.dumps(config, indent=1))
    lines = records() if lines is None else lines
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    contents: dict[str, Any] = {
        "result": {
            "run": name,
            "steps": 100,
            "epochs": 2,
            "stopped": "finished",
            "best_step": 80,
            "checkpoint": "step_80",
            "metrics": METRICS,
            "samples_per_second": 24_100.4,
            "seconds": 192.4,
            "world_size": 2,
            "peak_memory_gib": 1.25,
        },
        "evaluation": {
            "split": "test",
            "rows": 1000,
            "checkpoint": "step_80",
            "metrics": metrics,
            "by": {
                "gender": [
                    {"value": text, "rows": 300, "metrics": metrics | {"auc": 0.7812}},
                    {"value": "F", "rows": 700, "metrics": metrics | {"auc": None}},
                ]
            },
        },
        "recommendations": {
            "user_column": "user_id",
            "item_column": "movie_id",
            "users": [
                {
                    "user": 17,
                    "liked": ["Alien (1979)", text],
                    "items": [
                        {
                            "rank": 1,
                            "item": 50,
                            "title": "Star Wars (1977)",
                            "subtitle": "Sci-Fi",
                            "score": 0.9321,
                        },
                        {"rank": 2, "item": 99, "title": None, "subtitle": None, "score": 0.9},
                        {"rank": 3, "item": 7, "title": text, "subtitle": text, "score": math.nan},
                    ],
                }
            ],
        },
        "env": {"versions": {"torch": "2.13.0"}, "host": "worker-3", "python": "3.11.7", "command": text},
    }
    for part, content in contents.items():
        file = "evaluation_test.json" if part == "evaluation" else f"{part}.json"
        if part not in without:
            (folder / file).write_text(json.dumps(content))
    if "manifest" not in without:
        manifest(synthetic, text).save(folder)
    if "plan" not in without:
        plan(text).save(folder / "plan.json")
    return folder
