"""Several tasks from the config to metrics and lists, on one rank and on two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from jobs import Cluster, Dataset, RunConfig, evaluate, prepare, recommend, train
from jobs.movielens import unpack_movielens_100k
from tests.end_to_end.conftest import CONFIGS
from tests.support.datasets import with_tasks, write_dataset
from tests.support.run_folders import losses
from tests.support.tiny import CONFIG
from trainer.errors import ConfigError
from trainer.reporting import write_report

LABELS = {
    "first": {"column": "label"},
    "second": {"column": "second", "known_where": "a = 1"},
    "third": {"column": "third", "kind": "rating", "missing": "skip"},
}


def tiny_tasks(tmp_path: Path, **train: Any) -> tuple[RunConfig, Dataset]:
    """Return a run of three tasks and its data: labels that follow `d0` and `s0` and their opposite."""
    data = {**CONFIG["data"], "label": None, "labels": LABELS}
    optimizer = {"name": "adam", "learning_rate": 0.01}
    section = {
        **CONFIG["train"],
        "log_every_steps": 1,
        "max_steps": 30,
        "dense_optimizer": optimizer,
        **train,
    }
    run = RunConfig.from_dict({**CONFIG, "data": data, "model": {"name": "ple"}, "train": section})
    rows = {"train": 1000, "valid": 400, "test": 400}
    written = with_tasks(write_dataset(tmp_path / "one", rows=rows, num_sequences=0), tmp_path / "data")
    manifest = written.manifest.model_copy(update={"config_hash": run.preparation_hash()})
    manifest.save(written.folder)
    return run, Dataset.open(written.folder)


def test_every_task_learns_and_two_ranks_give_the_losses_of_one(tmp_path: Path) -> None:
    run, data = tiny_tasks(tmp_path, tasks={"second": {"weight": 0.5}})
    run = run.override("train.early_stopping={metric: second/auc}", "train.evaluate_every_steps=10")
    one = train(run, data, out=tmp_path / "1", show_progress=False)
    found = losses(tmp_path / "1")
    assert sum(found[-5:]) < 0.85 * sum(found[:5])
    result = json.loads((tmp_path / "1" / "result.json").read_text())
    assert result["progress"]["best_metric"] == "second/auc"
    on_test = evaluate(one, "test").metrics
    assert on_test["first/auc"] > 0.65
    assert on_test["second/auc"] > 0.65  # the opposite of the first
    assert on_test["third/r2"] > 0.1
    labels = data.manifest.splits["test"].labels
    assert labels == {}  # this data set was written without their counts
    assert on_test["second/rows"] < on_test["first/rows"] == 400
    two = train(run, data, Cluster(ranks_per_node=2, on="torchrun"), out=tmp_path / "2", show_progress=False)
    assert losses(tmp_path / "2") == pytest.approx(found, abs=1e-4)
    assert two.metrics == pytest.approx(one.metrics, abs=1e-3)


def test_a_task_of_no_weight_is_evaluated_but_not_learnt(tmp_path: Path) -> None:
    run, data = tiny_tasks(tmp_path, tasks={"second": {"weight": 0}, "third": {"weight": 0}})
    run = run.override("train.guard={learning_steps: 20, action: stop}")
    trained = train(run, data, out=tmp_path / "run", show_progress=False)
    assert trained.metrics["first/auc"] > 0.65
    assert trained.metrics["third/r2"] < 0.1
    assert trained.result["guard"] == []  # its gates and towers are meant to stay as they are


def test_the_guard_judges_each_binary_task_that_is_to_be_learnt(tmp_path: Path) -> None:
    run, data = tiny_tasks(tmp_path, tasks={"second": {"weight": 0}}, max_steps=20)
    run = run.override(
        "train.evaluate_every_steps=20",
        "train.guard.learning_steps=10",
        "train.dense_optimizer.learning_rate=3.0",  # kills the experts: one score for every row
    )
    trained = train(run, data, out=tmp_path / "run", show_progress=False)
    (found,) = (one for one in trained.result["guard"] if one["code"].startswith("auc_"))
    assert found["subjects"] == ["first"]
    assert "validation rows of task 'first'" in found["what"]


def test_a_model_of_one_task_is_refused_before_the_launch(tmp_path: Path) -> None:
    run, data = tiny_tasks(tmp_path)
    with pytest.raises(ConfigError, match="`deep_fm` learns one task"):
        train(run.override("model={name: deep_fm}"), data, out=tmp_path / "run", show_progress=False)


@pytest.fixture(scope="module")
def movielens_tasks(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Any]:
    """The shipped config of three tasks, trained for 150 steps."""
    folder = tmp_path_factory.mktemp("movielens")
    run = RunConfig.load(CONFIGS / "movielens_100k_mmoe.yaml").override(
        f"data.root={unpack_movielens_100k(folder / 'raw')}", "train.max_steps=150"
    )
    data = prepare(None, run, folder / "data")
    return run, train(run, data, out=folder / "run", show_progress=False)


@pytest.mark.slow
def test_movielens_likes_and_stars_are_learnt_together(movielens_tasks: tuple[RunConfig, Any]) -> None:
    _, result = movielens_tasks
    found = evaluate(result, "test", "gender")
    metrics = found.metrics
    assert metrics["like/auc"] > 0.68
    assert metrics["favourite/auc"] > 0.6
    assert 0.9 < metrics["stars/rmse"] < 1.1  # predicting the mean gives 1.12
    assert metrics["favourite/rows"] == round(metrics["like/rows"] * metrics["like/base_rate"])
    genders = {group["value"]: group["metrics"] for group in found.by["gender"]}
    assert sum(group["stars/rows"] for group in genders.values()) == metrics["stars/rows"]
    text = write_report(result.path).read_text()
    assert f"{metrics['stars/rmse']:.4f}" in text
    assert f"{metrics['favourite/auc']:.4f}" in text


@pytest.mark.slow
def test_items_are_ranked_by_the_task_that_the_config_names(movielens_tasks: tuple[RunConfig, Any]) -> None:
    run, result = movielens_tasks
    by_stars = recommend(result, users=[405], k=5).toPandas()
    assert (by_stars["score"].diff().dropna() <= 0).all()
    assert by_stars["score"].between(2, 6).all()  # stars, not probabilities
    # The newest liked ones of the main task are shown beside them, as ever.
    ratings = pd.read_parquet(Path(run.data.root) / "ratings.parquet")
    assert not set(by_stars["movie_id"]) & set(ratings.loc[ratings["user_id"] == 405, "movie_id"])
