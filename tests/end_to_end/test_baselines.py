"""Baselines from raw events to the table beside a run, against pandas and scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from jobs import Dataset, RunConfig, baseline, evaluate, prepare, train
from jobs.cli import main
from trainer.errors import ConfigError, DataError

SONGS, USERS, PLAYS = 30, 80, 10
TRAIN = {"global_batch_size": 64, "epochs": 2, "dense_optimizer": {"name": "adam", "learning_rate": 0.01}}


def plays() -> pd.DataFrame:
    """Return distinct songs of each user in order of time: popular ones first, and those of their parity."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        weights = np.where(np.arange(SONGS) % 2 == user % 2, 8.0, 1.0) / (1 + np.arange(SONGS)) ** 0.25
        for place, song in enumerate(rng.choice(SONGS, PLAYS, replace=False, p=weights / weights.sum())):
            stars = (5.0 if song % 2 == user % 2 else 2.0) - (song % 4 == 0)
            rows.append((f"u{user}", int(song), place, stars, user % 3))
    return pd.DataFrame(rows, columns=["user", "song", "time", "stars", "country"])


def _run(data: dict[str, Any], features: dict[str, Any], **sections: Any) -> RunConfig:
    values = {"name": "songs", "data": {**data, "num_lanes": 4}, "features": features, "train": TRAIN}
    return RunConfig.from_dict(values | {"model": {"name": "dlrm", "embedding_dim": 4}} | sections)


def _users_run() -> RunConfig:
    user_rows = {"by": "user", "order_by": "time", "lists": {"seen": "song"}, "targets": "song"}
    split = {"method": "leave_last", "leave_last": {"user": "user", "time": "time"}}
    return _run(
        {"label": {"implicit": True}, "keep": ["user"], "split": split, "user_rows": user_rows},
        {"sequence": [{"columns": "seen", "ops": "vocabulary", "pooling": "none"}]},
        model={"name": "sasrec", "embedding_dim": 8, "objective": "softmax", "negatives": {}},
        metrics={
            "at": [3, 5],
            "names": ["recall", "ndcg", "coverage", "serendipity", "popularity_lift", "intra_list_diversity"],
        },
    )


def _events_run(label: dict[str, Any], **metrics: Any) -> RunConfig:
    return _run(
        {"label": label, "keep": ["user", "song", "country"], "split": {"fractions": [0.7, 0.0, 0.3]}},
        {"sparse": [{"columns": ["song", "country"], "ops": "vocabulary"}]},
        recommend={"user": "user", "item": "song"},
        **({"metrics": metrics} if metrics else {}),
    )


@pytest.fixture(scope="module")
def users(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("users") / "data"
    return prepare(spark.createDataFrame(plays()), _users_run(), out)


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Return the rank of each user's last song among the songs not heard before; ties go to the others."""
    frame = plays()
    heard = frame[frame["time"] < PLAYS - 1].groupby("user", sort=False)["song"].agg(set)
    last = frame[frame["time"] == PLAYS - 1].set_index("user")["song"]
    ranks = []
    for place, (user, songs) in enumerate(heard.items()):
        others = [song for song in range(SONGS) if song not in songs and song != last[user]]
        ranks.append(1 + sum(scores[place, others] >= scores[place, last[user]]))
    return np.array(ranks)


def _matrix(until: int) -> np.ndarray:
    frame = plays()
    heard = np.zeros((USERS, SONGS))
    some = frame[frame["time"] < until]
    heard[some["user"].str[1:].astype(int), some["song"]] = 1
    return heard


def test_popularity_and_item_knn_rank_as_dense_matrices_do(users: Dataset, tmp_path: Path) -> None:
    trained, listed = _matrix(PLAYS - 2), _matrix(PLAYS - 1)
    likeness = cosine_similarity(trained.T)
    np.fill_diagonal(likeness, 0)
    scores = {
        "popularity": np.tile(trained.sum(axis=0), (USERS, 1)),
        "item_knn": (listed @ likeness).astype(np.float32),
    }
    for name, of_users in scores.items():
        found = baseline(_users_run(), users, name, out=tmp_path / name, confidence=0.9)
        assert list(found.evaluations) == ["valid", "test"]
        metrics = found.evaluations["test"].metrics
        ranks = _ranks(of_users)
        assert metrics["rows"] == USERS
        assert metrics["recall@5"] == pytest.approx((ranks <= 5).mean(), abs=0.02)
        gain = np.where(ranks <= 5, 1 / np.log2(1 + ranks), 0)
        assert metrics["ndcg@5"] == pytest.approx(gain.mean(), abs=0.02)
        low, high = found.evaluations["test"].intervals["ndcg@5"]
        assert low < metrics["ndcg@5"] < high
        assert 0 < metrics["coverage"] <= 1
        # Nothing that popularity finds surprises; and baselines have no vectors to tell songs apart by.
        assert (metrics["serendipity"] == 0) == (name == "popularity")
        assert "intra_list_diversity" not in metrics
        if name == "popularity":
            assert metrics["recall@5"] == (ranks <= 5).mean()  # counts are exact


def test_als_finds_tastes_and_stands_beside_a_run(
    users: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _users_run()
    popular = baseline(run, users, out=tmp_path / "popular", splits=["test"])
    config = tmp_path / "songs.yaml"
    config.write_text(run.to_yaml())
    chosen = {"rank": 2, "iterations": 6, "alpha": 4, "regularisation": 0.1}
    options = [word for name, value in chosen.items() for word in ("--option", f"{name}={value}")]
    command = ["baseline", str(config), "--data", str(users.path), "--model", "als", *options]
    assert main([*command, "--split", "test", "--out", str(tmp_path / "als"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["options"]["rank"] == 2
    als = told["evaluations"]["test"]["metrics"]
    # Half of the songs are of a user's parity, eight times as likely as others.
    assert als["ndcg@5"] > popular.evaluations["test"].metrics["ndcg@5"]

    trained = train(run, users, out=tmp_path / "run", show_progress=False)
    of_run = evaluate(trained)
    assert of_run.metrics["intra_list_diversity"] > 0
    beside = ["--baseline", str(tmp_path / "popular"), "--baseline", str(tmp_path / "als")]
    assert main(["report", str(trained.path), *beside]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["test", "sasrec", "popularity", "als"]
    recall = next(line.split() for line in lines if line.startswith("Recall@5"))
    values = (of_run.metrics["recall@5"], popular.evaluations["test"].metrics["recall@5"], als["recall@5"])
    assert [float(value) for value in recall[1:]] == pytest.approx(values, abs=1e-4)
    assert "Beside baselines, test split" in (trained.path / "report.html").read_text()


def test_scores_of_events_are_measured_by_their_order(spark: Any, tmp_path: Path) -> None:
    run = _events_run({"column": "stars", "positive_at_least": 4}, group="user")
    data = prepare(spark.createDataFrame(plays()), run, tmp_path / "data")
    rows = {split: _read(tmp_path / "data" / split) for split in ("train", "test")}
    liked = rows["train"][rows["train"]["label"] == 1]
    found = baseline(run, data, out=tmp_path / "popular", by="country")
    test = found.evaluations["test"]
    expected = rows["test"]["keep.song"].map(liked.groupby("keep.song").size()).fillna(0)
    assert test.metrics["auc"] == pytest.approx(roc_auc_score(rows["test"]["label"], expected))
    assert {"log_loss", "ne", "calibration", "mean_prediction"}.isdisjoint(test.metrics)
    assert {"gauc", "groups"} <= test.metrics.keys()
    here = rows["test"]["keep.country"] == 1
    by_country = {one["value"]: one["metrics"]["auc"] for one in test.by["country"]}
    assert by_country[1] == pytest.approx(roc_auc_score(rows["test"]["label"][here], expected[here]))

    # Users are no feature of this data set: the kept column tells whose events its rows are.
    knn = baseline(run, data, "item_knn", out=tmp_path / "knn").evaluations["test"].metrics
    names = sorted(liked["keep.user"].unique())
    heard = np.zeros((len(names), SONGS))
    heard[[names.index(user) for user in liked["keep.user"]], liked["keep.song"].astype(int)] = 1
    likeness = cosine_similarity(heard.T)
    np.fill_diagonal(likeness, 0)
    of_user = dict(zip(names, heard @ likeness, strict=True))
    scores = [
        of_user[user][int(song)] if user in of_user else 0.0
        for user, song in zip(rows["test"]["keep.user"], rows["test"]["keep.song"], strict=True)
    ]
    assert knn["auc"] == pytest.approx(roc_auc_score(rows["test"]["label"], np.float32(scores)), abs=0.01)


def test_als_predicts_ratings_and_the_others_only_order_them(spark: Any, tmp_path: Path) -> None:
    run = _events_run({"column": "stars", "kind": "rating"})
    data = prepare(spark.createDataFrame(plays()), run, tmp_path / "data")
    stars = _read(tmp_path / "data" / "test")["label"]
    found = baseline(run, data, "als", out=tmp_path / "als", rank=2, iterations=6, regularisation=0.1)
    metrics = found.evaluations["test"].metrics
    assert metrics["mae"] < 0.85 * stars.std()
    assert metrics["rmse"] >= metrics["mae"]
    with pytest.raises(ConfigError, match=r"no predictions(.|\n)*metrics\.group(.|\n)*--model als"):
        baseline(run, data, "popularity", out=tmp_path / "popular")
    assert not (tmp_path / "popular").exists()
    nobody = RunConfig.from_dict({**run.as_dict(), "recommend": None})
    with pytest.raises(ConfigError, match="which columns are the user and the item"):
        baseline(nobody, data, out=tmp_path / "nobody")
    stranger = run.override("recommend.user=listener")
    with pytest.raises(DataError, match=r"user listener(.|\n)*add listener to data\.keep"):
        baseline(stranger, data, out=tmp_path / "nobody")
    with pytest.raises(DataError, match="none of the splits has rows"):
        baseline(run, data, "als", out=tmp_path / "nobody", splits=["valid"])


def _read(folder: Path) -> pd.DataFrame:
    return pd.concat([pq.read_table(path).to_pandas() for path in sorted(folder.glob("*.parquet"))])
