"""Rows of users from raw events to a model that finds the held-out items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jobs import Cluster, RunConfig, evaluate, prepare, train

SONGS = 40


def plays() -> pd.DataFrame:
    """Return users who each play one song after the other, from a song and with a stride of their own."""
    users, places = np.repeat(np.arange(256), 12), np.tile(np.arange(12), 256)
    songs = (7 * users + (1 + users % 2 * 2) * places) % SONGS
    return pd.DataFrame({"user": users, "song": songs, "time": places})


@pytest.mark.slow
def test_a_sequence_model_finds_the_next_song_on_two_ranks(spark: Any, tmp_path: Path) -> None:
    user_rows = {"by": "user", "order_by": "time", "lists": {"seen": "song"}, "targets": "song"}
    run = RunConfig.from_dict(
        {
            "name": "songs",
            "data": {
                "label": {"implicit": True},
                "split": {"method": "leave_last", "leave_last": {"user": "user", "time": "time"}},
                "user_rows": user_rows,
                "num_lanes": 4,
            },
            "features": {"sequence": [{"columns": "seen", "ops": "vocabulary", "pooling": "none"}]},
            "model": {"name": "sasrec", "embedding_dim": 16, "objective": "softmax", "negatives": {}},
            "train": {
                "global_batch_size": 64,
                "epochs": 12,
                "dense_optimizer": {"name": "adam", "learning_rate": 0.01},
                "embedding_optimizer": {"name": "adagrad", "learning_rate": 0.1},
            },
        }
    )
    data = prepare(spark.createDataFrame(plays()), run, tmp_path / "data")
    assert {name: split.rows for name, split in data.manifest.splits.items()} == dict.fromkeys(
        ("train", "valid", "test"), 256
    )
    trained = train(run, data, Cluster.local(ranks=2), out=tmp_path / "run", show_progress=False)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    guarded = [line for line in map(json.loads, lines) if line["kind"] == "guard"]
    assert not [line for line in guarded if "targets" in line["subjects"]]
    assert not [line for line in guarded if line["level"] == "grave"]
    # Chance finds 5 of the 29 songs that a user did not play yet; which stride is a user's, the list tells.
    found = evaluate(trained, split="test").metrics
    assert found["recall@5"] > 0.5
    stored = (tmp_path / "run" / "evaluation_test.json").read_text()
    among_six = evaluate(trained, split="test", candidates=6).metrics
    assert among_six["recall@5"] >= found["recall@5"]
    assert {"recall@10", "recall@20"} <= found.keys() - among_six.keys()  # of seven items
    assert evaluate(trained, split="test", candidates="all").metrics == found
    assert (tmp_path / "run" / "evaluation_test.json").read_text() == stored
    still = run.override(
        "train.dense_optimizer.learning_rate=1e-9",
        "train.embedding_optimizer.learning_rate=1e-9",
        "train.guard.learning_steps=40",
        "metrics={candidates: 20, at: [1, 3]}",  # by chance 3 of 21, as none of these was seen
    )
    found = train(still, data, out=tmp_path / "still", show_progress=False).result["guard"]
    assert {finding["code"] for finding in found} >= {"loss_above_prior", "ranking_at_chance"}
