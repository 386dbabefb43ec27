"""Ids that no vocabulary knows: prepared by Spark, trained, resumed at another number of ranks, scored."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import Dataset, RunConfig, evaluate, train
from tests.end_to_end.conftest import shardrec
from trainer.reporting import write_report

pytestmark = pytest.mark.thorough

CONFIG: dict[str, Any] = {
    "name": "strangers",
    "data": {
        "root": ".",
        "source": {"path": "events.csv", "header": True},
        "label": {"column": "clicked"},
        "num_lanes": 4,
        "split": {"fractions": [0.8, 0.1, 0.1]},
    },
    "features": {
        "dense": [{"columns": "age"}],
        "sparse": [
            {"columns": "user", "ops": [{"hash": "unbounded"}]},
            {"columns": "tags", "ops": [{"split": "|"}, {"hash": "unbounded"}], "pooling": "mean"},
        ],
    },
    "model": {"name": "dlrm", "embedding_dim": 8},
    "tables": {
        "user": {"ids": {"num_embeddings": 50, "evict": "distance_lfu"}, "sharding_types": ["row_wise"]},
        "tags": {"ids": {"num_embeddings": 200, "evict": "lru", "min_count": 2, "ttl_steps": 20}},
    },
    "train": {
        "global_batch_size": 32,
        "epochs": 2,
        "log_every_steps": 10,
        "checkpoint_every_steps": 40,
        # Adam divides by gradients: rounding decides where they are all but 0, and losses part by 0.001.
        "dense_optimizer": {"name": "sgd", "learning_rate": 0.1},
        "embedding_optimizer": {"learning_rate": 0.1},
    },
}


def events(count: int) -> str:
    """Rows of a few users who come back and like or dislike, and of many who are seen once."""
    rng = random.Random(1)
    lines = ["user,tags,age,clicked"]
    for row in range(count):
        known = rng.random() < 0.7
        user = f"u{rng.randrange(20)}" if known else f"guest-{row}"
        likes = int(user[1:]) % 2 if known else 0.5
        tags = "|".join(f"t{rng.randrange(30)}" if rng.random() < 0.8 else f"x{row}" for _ in range(3))
        lines.append(f"{user},{tags},{rng.randrange(80)},{int(rng.random() < 0.1 + 0.8 * likes)}")
    return "\n".join(lines) + "\n"


def run_verb(folder: Path, verb: str, *arguments: object) -> dict[str, Any]:
    done = shardrec(verb, *arguments, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "time"} for line in lines if line["kind"] == kind]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strangers")
    (folder / "events.csv").write_text(events(3000))
    (folder / "run.yaml").write_text(yaml.safe_dump(CONFIG))
    run_verb(folder, "prepare", "run.yaml", "--out", "data")
    return folder


def test_a_run_with_ids_that_come_and_go_is_the_same_at_any_number_of_ranks(folder: Path) -> None:
    start = ("run.yaml", "--data", "data", "--out")
    whole = run_verb(folder, "train", *start, "whole")
    assert whole["metrics"]["auc"] > 0.7
    ranks = ("--on", "torchrun", "--ranks")
    run_verb(folder, "train", *start, "parts", *ranks, 4, "--set", "train.max_steps=80")
    resumed = run_verb(folder, "train", *start, "parts", *ranks, 2, "--resume")
    assert resumed["steps"] == whole["steps"] > 80

    expected = records(folder / "whole", "ids")
    assert records(folder / "parts", "ids") == expected
    by_table = {table: [r for r in expected if r["table"] == table] for table in ("user", "tags")}
    assert by_table["user"][-1]["occupancy"] == 1.0
    assert all(sum(r["evicted"] for r in found) > 10 for found in by_table.values())
    assert 0.1 < by_table["tags"][-1]["oov_share"] < 0.5  # a fifth of the tags is seen once
    losses = [[r["loss"] for r in records(folder / name, "train")] for name in ("whole", "parts")]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)

    result = json.loads((folder / "parts" / "result.json").read_text())
    assert set(result["ids"]) == {"user", "tags"}
    scores = [run_verb(folder, "evaluate", name, "--split", "test")["metrics"] for name in ("whole", "parts")]
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)
    assert scores[0]["auc"] > 0.7


def test_groups_of_ranks_with_a_copy_of_the_tables_each_give_ids_the_same_rows(folder: Path) -> None:
    # With SGD and a sync after every step, groups are the unsharded model.
    steps = ("--set", "train.max_steps=40", "--set", "train.embedding_optimizer.name=sgd")
    start = ("run.yaml", "--data", "data", *steps, "--out")
    run_verb(folder, "train", *start, "one_copy")
    groups = ("--on", "torchrun", "--ranks", 4, "--set", "train.table_shard_group_size=2")
    run_verb(folder, "train", *start, "two_copies", *groups)
    one, two = folder / "one_copy", folder / "two_copies"
    assert sum(record["evicted"] for record in records(one, "ids")) > 10
    assert records(two, "ids") == records(one, "ids")
    losses = [[record["loss"] for record in records(path, "train")] for path in (one, two)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_validation_and_evaluate_tell_the_lookups_of_unknown_ids(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    ids = "ids={num_embeddings: 30, evict: distance_lfu, min_count: 2, ttl_steps: 5}"
    asked = run.override("train.log_every_steps=1", f"tables.s0.{ids}", f"tables.m0.{ids}")
    result = train(asked, data, out=tmp_path / "run", show_progress=False)
    last = {record["table"]: record for record in records(result.path, "ids")}
    assert last["s0"]["owners"] == last["s0"]["slots"] == 28
    assert last["s0"]["candidates"] > 0
    assert result.result["ids"]["s0"]["owners"] == 28
    found = evaluate(result, split="valid")
    assert found.ids["m0"]["lookups"] > found.ids["s0"]["lookups"] > 100
    shares = {table: told["oov_share"] for table, told in found.ids.items()}
    assert records(result.path, "evaluation")[-1]["oov_share"] == shares
    assert all(0.1 < share < 0.9 for share in shares.values())
    assert "In validation" in write_report(result.path).read_text()


def test_an_unbounded_hash_needs_a_table_that_gives_ids_rows(folder: Path) -> None:
    done = shardrec("train", "run.yaml", "--data", "data", "--out", "x", "--set", "tables={}", cwd=folder)
    assert done.returncode == 2
    assert "tables.user.ids: {num_embeddings: 1000000}" in done.stderr
    assert "4,611,686,018,427,387,905 ids" in done.stderr
