"""A run with lists of numbers in its rows trains and recommends as one with a column for each number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jobs import Dataset, RunConfig, TrainResult, evaluate, plan, prepare, recommend, train
from tests.end_to_end.test_vectors import COMPONENTS, DIM, FILMS, KNOWN, USERS, config
from tests.support.run_folders import losses

Both = tuple[tuple[RunConfig, Dataset], tuple[RunConfig, Dataset]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Return the same ratings with a joined list for each film, and with a joined column for each number."""
    root, random = tmp_path_factory.mktemp("films"), np.random.default_rng(1)
    user, film = random.integers(0, USERS, 900), random.integers(0, FILMS, 900)
    embedding = random.normal(size=(KNOWN, DIM)).astype(np.float32)
    score = np.append(embedding, np.zeros((FILMS - KNOWN, DIM)), axis=0)[film, 0]
    liked = (random.random(900) < 1 / (1 + np.exp(-2 * score))).astype(int)
    ratings = pd.DataFrame({"user": user, "film": film, "hour": user % 24, "liked": liked})
    ratings.to_parquet(root / "ratings.parquet")
    names = [f"film {number}" for number in range(FILMS)]
    pd.DataFrame({"film": np.arange(FILMS), "title": names}).to_parquet(root / "films.parquet")
    known = {"film": np.arange(KNOWN)}
    pd.DataFrame({**known, "embedding": list(embedding)}).to_parquet(root / "lists.parquet")
    columns = pd.DataFrame(embedding, columns=COMPONENTS).assign(**known)
    columns.to_parquet(root / "columns.parquet")
    groups = [{"columns": "embedding", "dim": DIM}, {"columns": COMPONENTS}]
    made = []
    for group, source in zip(groups, ["lists.parquet", "columns.parquet"], strict=True):
        join = {"source": {"path": source}, "on": ["film"]}
        run = config(root, [{**group, "ops": [{"fill": 0}]}], join)
        made.append((run, prepare(None, run, root / source.split(".")[0])))
    return made[0], made[1]


@pytest.fixture(scope="module")
def trained(both: Both, tmp_path_factory: pytest.TempPathFactory) -> list[TrainResult]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        train(run, data, out=folder / str(number), show_progress=False)
        for number, (run, data) in enumerate(both)
    ]


def test_losses_and_plans_are_those_of_plain_columns(both: Both, trained: list[TrainResult]) -> None:
    mine, plain = (losses(result.path) for result in trained)
    assert len(mine) == 24
    assert mine == plain
    assert trained[0].metrics["auc"] > 0.6
    assert len({plan(run, data).memory[0].dense for run, data in both}) == 1


def test_evaluate_and_recommend_read_the_lists(trained: list[TrainResult]) -> None:
    metrics = [evaluate(result, "test").metrics for result in trained]
    assert metrics[0] == metrics[1]
    found: list[Any] = [recommend(result, users=[3, 7], k=FILMS).toPandas() for result in trained]
    pd.testing.assert_frame_equal(found[0], found[1])
    assert (found[0]["film"] >= KNOWN).any()  # films without a list are ranked, too


def test_the_run_s_report_names_the_lists(trained: list[TrainResult]) -> None:
    from trainer.reporting import write_report

    assert f"lists of {DIM}, fill" in Path(write_report(trained[0].path)).read_text(encoding="utf-8")
