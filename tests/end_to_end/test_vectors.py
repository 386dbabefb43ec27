"""A run with precomputed vectors trains, resumes and recommends as one whose rows hold their components."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jobs import Cluster, Dataset, RunConfig, TrainResult, evaluate, plan, prepare, recommend, train
from jobs.scoring.mining import mine_negatives
from tests.support.run_folders import losses

pytestmark = pytest.mark.thorough

USERS, FILMS, KNOWN, DIM = 40, 50, 45, 4
COMPONENTS = [f"v{number}" for number in range(DIM)]
TWO = Cluster(ranks_per_node=2, on="torchrun")
VECTORS = {
    "source": {"path": "vectors.parquet"}, "on": "film", "id": "film_id", "column": "embedding",
}  # fmt: skip

WARNED: list[str] = []
"""What `prepare` has warned of: a page that cannot be written is no error to it."""


def config(root: Path, dense: list[dict[str, Any]], *joins: dict[str, Any]) -> RunConfig:
    return RunConfig.from_dict(
        {
            "name": "films",
            "data": {
                "root": str(root),
                "source": {"path": "ratings.parquet"},
                "joins": [{"source": {"path": "films.parquet"}, "on": ["film"]}, *joins],
                "label": {"column": "liked"},
                "num_lanes": 4,
                "split": {"fractions": [0.7, 0.15, 0.15]},
            },
            "features": {
                "dense": [{"columns": "hour"}, *dense],
                "sparse": [{"columns": ["user", "film"], "ops": "vocabulary"}],
            },
            "model": {"name": "dlrm", "embedding_dim": 8},
            "train": {
                "global_batch_size": 64,
                "epochs": 3,
                "max_steps": 24,
                "log_every_steps": 1,
                "checkpoint_every_steps": 8,
            },
            "recommend": {"user": "user", "item": "film", "title": "title", "user_columns": ["hour"]},
        }
    )


@pytest.fixture(scope="module")
def both(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[tuple[RunConfig, Dataset], tuple[RunConfig, Dataset]]:
    """Return the same ratings with vectors looked up, and with a joined column for each component."""
    root, random = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    rows = 900
    film = random.integers(0, FILMS, rows).astype(float)
    film[random.random(rows) < 0.05] = np.nan
    hour = random.normal(size=USERS)
    user = random.integers(0, USERS, rows)
    embedding = random.normal(size=(KNOWN, DIM))
    score = np.append(embedding, np.zeros((FILMS - KNOWN + 1, DIM)), axis=0)[
        np.nan_to_num(film, nan=-1).astype(int), 0
    ]
    ratings = pd.DataFrame(
        {
            "user": user,
            "film": film,
            "hour": hour[user],
            "liked": (random.random(rows) < 1 / (1 + np.exp(-2 * score))).astype(int),
        }
    )
    ratings.to_parquet(root / "ratings.parquet")
    pd.DataFrame({"film_id": range(KNOWN), "embedding": list(embedding)}).to_parquet(root / "vectors.parquet")
    names = [f"film {number}" for number in range(FILMS)]
    pd.DataFrame({"film": np.arange(FILMS, dtype=float), "title": names}).to_parquet(root / "films.parquet")
    columns = pd.DataFrame(embedding.astype(np.float32), columns=COMPONENTS)
    columns.assign(film=columns.index.astype(float)).to_parquet(root / "columns.parquet")
    mine = config(root, [{"name": "poster", "vectors": VECTORS}])
    filled = {"columns": COMPONENTS, "ops": [{"fill": 0}]}
    plain = config(root, [filled], {"source": {"path": "columns.parquet"}, "on": ["film"]})
    logger, told = logging.getLogger("jobs"), logging.Handler(logging.WARNING)
    told.emit = lambda record: WARNED.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(told)
    made = (mine, prepare(None, mine, root / "mine")), (plain, prepare(None, plain, root / "plain"))
    logger.removeHandler(told)
    return made


@pytest.fixture(scope="module")
def trained(both: Any, tmp_path_factory: pytest.TempPathFactory) -> list[TrainResult]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        train(run, data, out=folder / str(number), show_progress=False)
        for number, (run, data) in enumerate(both)
    ]


def test_losses_are_those_of_plain_columns_at_one_and_two_ranks(
    both: Any, trained: list[TrainResult], tmp_path: Path
) -> None:
    run, data = both[0]
    mine, plain = (losses(result.path) for result in trained)
    assert len(mine) == 24
    assert mine == plain
    assert trained[0].metrics == trained[1].metrics
    assert trained[0].metrics["auc"] > 0.6
    train(run, data, TWO, out=tmp_path / "two", show_progress=False)
    assert losses(tmp_path / "two") == pytest.approx(mine, abs=1e-6)


@pytest.mark.parametrize("model", ["dcn_v2", "dhen"])
def test_other_models_take_the_wider_input(both: Any, tmp_path: Path, model: str) -> None:
    found = []
    for number, (run, data) in enumerate(both):
        short = run.override(f"model={{name: {model}, embedding_dim: 8}}", "train.max_steps=4")
        train(short, data, out=tmp_path / f"{model}{number}", show_progress=False)
        found.append(losses(tmp_path / f"{model}{number}"))
    assert found[0] == found[1]


def test_a_run_goes_on_at_another_world_size(both: Any, trained: list[TrainResult], tmp_path: Path) -> None:
    run, data = both[0]
    first = run.override("train.max_steps=11")
    train(first, data, TWO, out=tmp_path / "run", show_progress=False)
    resumed = train(run, data, out=tmp_path / "run", show_progress=False)
    assert resumed.result["steps"] == 24
    assert losses(tmp_path / "run") == pytest.approx(losses(trained[0].path), abs=1e-6)


def test_petastorm_reads_vectors_too(both: Any, tmp_path: Path) -> None:
    pytest.importorskip("petastorm")
    found = []
    for number, (run, data) in enumerate(both):
        other = run.override(
            "data.reader=petastorm", "train.max_steps=5", "train.checkpoint_every_steps=null"
        )
        train(other, data, out=tmp_path / str(number), show_progress=False)
        found.append(losses(tmp_path / str(number)))
    assert found[0] == found[1]


def test_plan_counts_the_wider_input(both: Any) -> None:
    mine, plain = (plan(run, data) for run, data in both)
    assert mine.memory[0].dense == plain.memory[0].dense


def test_evaluate_recommend_and_mine_find_the_vectors(trained: list[TrainResult], tmp_path: Path) -> None:
    metrics = [evaluate(result, "test").metrics for result in trained]
    assert metrics[0] == metrics[1]
    lists = [recommend(result, users=[3, 7], k=FILMS).toPandas() for result in trained]
    assert len(lists[0]) > FILMS
    pd.testing.assert_frame_equal(lists[0], lists[1])
    films = lists[0]["film"]
    assert (films >= KNOWN).any()  # films without a vector are ranked, too
    mined = [mine_negatives(r, tmp_path / f"{n}.parquet", k=3, users=[3]) for n, r in enumerate(trained)]
    assert pd.read_parquet(mined[0].path).equals(pd.read_parquet(mined[1].path))
    many = recommend(trained[0], users=[3, 7], k=5, cluster=TWO).toPandas()
    pd.testing.assert_frame_equal(
        many, recommend(trained[0], users=[3, 7], k=5).toPandas(), check_exact=False, atol=1e-6
    )


def test_the_reports_list_the_vectors(both: Any, trained: list[TrainResult]) -> None:
    from trainer.reporting import write_report

    data = Path(both[0][1].path)
    assert "poster" in (data / "report.txt").read_text()
    assert (data / "report.html").exists(), WARNED
    page = (data / "report.html").read_text(encoding="utf-8")
    assert f"vectors of {DIM} by film" in page
    assert "The same feature twice" not in page
    text = write_report(trained[0].path).read_text(encoding="utf-8")
    assert "Vectors" in text
    assert "poster" in text
