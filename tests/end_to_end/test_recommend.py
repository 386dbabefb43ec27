"""Recommendations against raw rows, and against the trained weights applied to rows put together here."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from jobs import Dataset, RunConfig, TrainResult, recommend, train
from jobs.cli import main
from jobs.scoring.mining import mine_negatives
from jobs.scoring.recommendation import recommend_lists
from jobs.session import spark_session
from tests.end_to_end.conftest import interrupted
from tests.support.object_store import ObjectStore
from trainer.assembly import build_task
from trainer.batch import Batch
from trainer.errors import CheckpointError, DataError
from trainer.reporting import write_report
from trainer.run_folder import RunFolder, read_json

pytestmark = pytest.mark.thorough

K = 10
OUT_OF_VOCABULARY = 1


@pytest.fixture(scope="module")
def result(
    movielens: tuple[RunConfig, Dataset], tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunConfig, TrainResult]:
    run, data = movielens
    # Few steps, which a penalty on the tables would keep from telling movies apart.
    short = ("train.max_steps=20", "train.evaluate_every_steps=null", "train.early_stopping=null")
    run = run.override(*short, "train.embedding_l2=0")
    return run, train(run, data, out=tmp_path_factory.mktemp("recommend") / "run", show_progress=False)


@pytest.fixture(scope="module")
def raw(movielens: tuple[RunConfig, Dataset]) -> dict[str, pd.DataFrame]:
    root = Path(movielens[0].data.root)
    return {name: pd.read_parquet(root / f"{name}.parquet") for name in ("ratings", "users", "movies")}


@pytest.fixture(scope="module")
def everything(result: tuple[RunConfig, TrainResult]) -> pd.DataFrame:
    """All candidates of two users: `k` is larger than the catalogue."""
    return recommend(result[1], users=[405, 1], k=100_000).toPandas()


def rated(raw: dict[str, pd.DataFrame], user: int) -> set[int]:
    ratings = raw["ratings"]
    return set(ratings.loc[ratings["user_id"] == user, "movie_id"])


def vocabulary(dataset: Path, name: str) -> dict[str, int]:
    table = pd.read_parquet(dataset / "vocabulary" / name)
    return dict(zip(table["value"].astype(str), table["id"], strict=True))


def model_input(result: TrainResult, raw: dict[str, pd.DataFrame], pairs: pd.DataFrame) -> Batch:
    """Put together what the model takes, with pandas, from raw rows and what `prepare` fitted."""
    folder = RunFolder(result.path)
    spec = folder.manifest().spec
    rows = pairs.merge(raw["users"], on="user_id", how="left").merge(raw["movies"], on="movie_id", how="left")
    dense: list[Any] = []
    for feature in spec.dense:
        params = {key: value for op in feature.ops for key, value in op.params.items()}
        values = rows[feature.column].astype("Float64").fillna(params["value"]).to_numpy(dtype=np.float64)
        dense.append((values - params["mean"]) / params["std"])
    keys, values, lengths = [], [], []
    for feature in spec.sparse:
        ids = vocabulary(folder.dataset(), feature.name)
        for cell in rows[feature.column]:
            tokens = list(cell) if feature.is_list else [cell]
            values += [ids.get(str(token), OUT_OF_VOCABULARY) for token in tokens]
            lengths.append(len(tokens))
        keys.append(feature.name)
    count = len(rows)
    return Batch(
        torch.tensor(np.stack(dense, axis=1), dtype=torch.float32),
        KeyedJaggedTensor.from_lengths_sync(
            keys, torch.tensor(values, dtype=torch.int64), torch.tensor(lengths, dtype=torch.int64)
        ),
        torch.zeros(count, 1),
        torch.ones(count),
        torch.arange(count),
    )


def probabilities(result: TrainResult, batch: Batch, folder: Path) -> np.ndarray:
    """Run the checkpoint's weights in the plain model: no process group, no plan, no reader."""
    run_folder = RunFolder(result.path)
    weights = folder / "weights.pt"
    dcp_to_torch_save(run_folder.checkpoints / result.result["checkpoint"], weights)
    task, _ = build_task(run_folder.config(), run_folder.manifest())
    task.load_state_dict(torch.load(weights)["model"], assign=True)
    task.eval()
    with torch.no_grad():
        return torch.sigmoid(task.model(batch)).squeeze(1).numpy()


def test_every_score_is_the_model_s_probability_for_the_pair(
    result: tuple[RunConfig, TrainResult],
    raw: dict[str, pd.DataFrame],
    everything: pd.DataFrame,
    tmp_path: Path,
) -> None:
    batch = model_input(result[1], raw, everything[["user_id", "movie_id"]])
    expected = probabilities(result[1], batch, tmp_path)
    assert expected.std() > 0.01  # a model that learnt nothing would hide wrong pairs
    np.testing.assert_allclose(everything["score"], expected, atol=2e-6)


def test_items_come_best_first_with_ranks_from_1_and_the_users_in_the_order_asked(
    everything: pd.DataFrame,
) -> None:
    assert list(dict.fromkeys(everything["user_id"])) == [405, 1]
    for _, rows in everything.groupby("user_id"):
        assert rows["score"].is_monotonic_decreasing
        assert rows["rank"].tolist() == list(range(1, len(rows) + 1))


def test_all_unseen_items_and_no_seen_ones_are_candidates(
    raw: dict[str, pd.DataFrame], everything: pd.DataFrame
) -> None:
    catalogue = set(raw["movies"]["movie_id"])
    for user in (1, 405):
        found = everything.loc[everything["user_id"] == user, "movie_id"]
        assert len(found) == len(set(found))
        assert set(found) == catalogue - rated(raw, user)


def test_exclude_seen_false_ranks_the_whole_catalogue(
    result: tuple[RunConfig, TrainResult],
    raw: dict[str, pd.DataFrame],
    everything: pd.DataFrame,
    tmp_path: Path,
) -> None:
    run, trained = result
    copy = shutil.copytree(trained.path, tmp_path / "run")
    (copy / "config.yaml").write_text(
        run.override("recommend.exclude_seen=false").to_yaml(), encoding="utf-8"
    )
    found = recommend(copy, users=[1], k=100_000).toPandas()
    assert set(found["movie_id"]) == set(raw["movies"]["movie_id"])
    unseen = everything[everything["user_id"] == 1].set_index("movie_id")["score"]
    same = found.set_index("movie_id")["score"].loc[unseen.index]
    np.testing.assert_allclose(same, unseen, atol=2e-6)


def test_titles_and_genres_are_those_of_the_raw_movies(
    raw: dict[str, pd.DataFrame], everything: pd.DataFrame
) -> None:
    movies = raw["movies"].set_index("movie_id")
    for row in everything.groupby("user_id").head(K).itertuples():
        assert row.title == movies.loc[row.movie_id, "title"]
        assert row.subtitle == ", ".join(movies.loc[row.movie_id, "genres"])


@pytest.mark.parametrize("kind", ["strings", "numpy", "spark"])
def test_users_may_be_ids_as_text_an_array_or_a_spark_frame(
    result: tuple[RunConfig, TrainResult], everything: pd.DataFrame, kind: str
) -> None:
    users: Any = {
        "strings": lambda: ["405", "1"],
        "numpy": lambda: np.array([405, 1]),
        "spark": lambda: spark_session("test").createDataFrame([(405,), (1,)], "user_id long"),
    }[kind]()
    found = recommend_lists(result[1], users, K)
    best = everything.groupby("user_id").head(K)
    assert {entry.user: [item.item for item in entry.items] for entry in found.users} == {
        user: rows["movie_id"].tolist() for user, rows in best.groupby("user_id")
    }
    if kind != "spark":  # rows of a frame have no order
        assert [entry.user for entry in found.users] == [405, 1]


def test_the_liked_titles_are_the_user_s_newest_with_label_1(
    result: tuple[RunConfig, TrainResult], raw: dict[str, pd.DataFrame]
) -> None:
    found = recommend_lists(result[1], [42], 1).users[0]
    mine = raw["ratings"].query("user_id == 42 and rating >= 4")
    newest = mine.sort_values(["timestamp", "movie_id"], ascending=[False, True]).head(5)
    assert found.liked == raw["movies"].set_index("movie_id").loc[newest["movie_id"], "title"].tolist()


@pytest.mark.parametrize("candidates", ["all", "100000"])
def test_mined_negatives_are_the_best_unseen_items_after_those_skipped(
    result: tuple[RunConfig, TrainResult],
    everything: pd.DataFrame,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    candidates: str,
) -> None:
    out, folder = tmp_path / "mined" / "hard.parquet", str(result[1].path)
    named = ["--users", "405,1", "--k", "4", "--skip-top", "2", "--out", str(out)]
    chosen = ["--exclude", "known", "--candidates-per-user", candidates]
    assert main(["mine", folder, *named, *chosen, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"negatives": str(out), "users": 2, "rows": 8}
    found = pd.read_parquet(out)
    wanted = everything[everything["rank"].between(3, 6)]
    columns = ["user_id", "movie_id", "rank", "score"]
    pd.testing.assert_frame_equal(found, wanted[columns].reset_index(drop=True), check_exact=False)
    assert [path.name for path in out.parent.iterdir()] == ["hard.parquet"]


def test_mined_negatives_are_drawn_for_each_user_and_may_be_held_out_items(
    result: tuple[RunConfig, TrainResult],
    raw: dict[str, pd.DataFrame],
    everything: pd.DataFrame,
    tmp_path: Path,
) -> None:
    drawn = mine_negatives(result[1], tmp_path / "drawn.parquet", 50, candidates_per_user=50, exclude="known")
    found = pd.read_parquet(drawn.path)
    users = raw["ratings"]["user_id"].unique()
    assert (drawn.users, drawn.rows) == (len(users), 50 * len(users))
    seen = set(zip(raw["ratings"]["user_id"], raw["ratings"]["movie_id"], strict=True))
    assert seen.isdisjoint(zip(found["user_id"], found["movie_id"], strict=True))
    assert not found.duplicated(["user_id", "movie_id"]).any()
    assert found["user_id"].is_monotonic_increasing
    one = found[found["user_id"] == 405]
    assert one["rank"].tolist() == list(range(1, 51))
    known = everything[everything["user_id"] == 405].set_index("movie_id")["score"]
    np.testing.assert_allclose(one["score"], known.loc[one["movie_id"]], atol=2e-6)
    times = found["movie_id"].value_counts()
    assert len(times) > 0.99 * len(raw["movies"])
    assert times.max() < 8 * times.mean()

    again = mine_negatives(result[1], tmp_path / "1.parquet", 50, candidates_per_user=50, users=[405])
    free = pd.read_parquet(again.path)
    dataset = RunFolder(result[1].path).dataset()
    train = pd.concat(map(pd.read_parquet, sorted((dataset / "train").glob("*.parquet"))))
    assert len(train) < len(raw["ratings"])
    assert again.rows == 50
    # All items but the training positives can be drawn, among them some that the user rated.
    whole = mine_negatives(result[1], tmp_path / "2.parquet", 5_000, candidates_per_user=None, users=[405])
    ratings = raw["ratings"].query("user_id == 405")
    taken = set(raw["movies"]["movie_id"]) - set(pd.read_parquet(whole.path)["movie_id"])
    liked = set(ratings.loc[ratings["rating"] >= 4, "movie_id"])
    assert taken < liked
    assert len(liked) == len(ratings.query("rating >= 4"))
    held_out = liked - taken
    assert 0 < len(held_out) < 0.5 * len(liked)
    assert taken.isdisjoint(free["movie_id"])


def test_fewer_candidates_than_asked_for_are_a_mistake_of_the_command(
    result: tuple[RunConfig, TrainResult], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mine", str(result[1].path), "--k", "20", "--candidates-per-user", "19", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)
    assert (error["where"], error["got"]) == ("--candidates-per-user", 19)


def test_an_unknown_user_is_named(result: tuple[RunConfig, TrainResult]) -> None:
    with pytest.raises(DataError, match="without a single raw row") as raised:
        recommend(result[1], users=[1, 987_654_321], k=3)
    assert "987654321" in str(raised.value)


@pytest.mark.parametrize("verb", ["recommend", "mine"])
@pytest.mark.parametrize("users", ["", " , "])
def test_no_users_are_a_mistake_of_the_command(
    result: tuple[RunConfig, TrainResult], capsys: pytest.CaptureFixture[str], verb: str, users: str
) -> None:
    assert main([verb, str(result[1].path), "--users", users, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)
    assert (error["error"], error["where"]) == ("no user is named", "--users")


def test_ids_keep_the_type_of_the_raw_rows_also_of_a_user_who_has_seen_everything(
    result: tuple[RunConfig, TrainResult], raw: dict[str, pd.DataFrame]
) -> None:
    rows = raw["ratings"].head(1)
    all_seen = raw["movies"][["movie_id"]].assign(
        **{name: rows[name].iloc[0] for name in rows.columns if name not in ("movie_id", "user_id")},
        user_id=42,
    )
    events = spark_session("test").createDataFrame(
        pd.concat([raw["ratings"].query("user_id == 1"), all_seen])
    )
    found = recommend_lists(result[1], ["1", "42"], 2, events=events).as_json()
    assert [(type(entry["user"]), entry["user"]) for entry in found["users"]] == [(int, 1), (int, 42)]
    first, second = found["users"]
    assert [type(item["item"]) for item in first["items"]] == [int, int]
    assert second["items"] == []


def test_raw_rows_may_lie_on_a_store(
    result: tuple[RunConfig, TrainResult], store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.renew(monkeypatch)
    url = store.upload(Path(result[0].data.root), "raw")
    remote = recommend_lists(result[1], [1, 42], 3, events=url).as_json()
    assert remote == recommend_lists(result[1], [1, 42], 3).as_json()
    assert not list((result[1].path / "jobs").glob("raw*"))


def test_a_checkpoint_may_be_named_as_the_message_about_an_unfinished_run_says(
    result: tuple[RunConfig, TrainResult], tmp_path: Path
) -> None:
    copy = shutil.copytree(result[1].path, tmp_path / "run")
    (copy / "result.json").unlink()
    with pytest.raises(DataError, match="--checkpoint"):
        recommend_lists(copy, [1], 1)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        recommend_lists(copy, [1], 1, checkpoint="step_00000007")
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(CheckpointError, match="none is saved yet"):
        recommend_lists(copy, [1], 1, checkpoint="step_00000007")
    shutil.copytree(result[1].path / "checkpoints", copy / "checkpoints")
    found = recommend_lists(copy, [1], 1, checkpoint=result[1].result["checkpoint"])
    assert found.users[0].items == recommend_lists(result[1], [1], 1).users[0].items


def test_lists_of_the_run_itself_are_kept_for_the_report(
    result: tuple[RunConfig, TrainResult], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(result[1].path)
    folder.recommendations_file.unlink(missing_ok=True)
    named = ["--checkpoint", result[1].result["checkpoint"]]
    assert main(["recommend", str(folder.path), "--users", "1", "--k", "2", *named]) == 0
    assert not folder.recommendations_file.exists()
    capsys.readouterr()
    assert main(["recommend", str(folder.path), "--users", "1", "--k", "2", "--json"]) == 0
    assert read_json(folder.recommendations_file) == json.loads(capsys.readouterr().out)
    title = read_json(folder.recommendations_file)["users"][0]["items"][0]["title"]
    assert title in html.unescape(write_report(folder.path).read_text(encoding="utf-8"))


def test_ctrl_c_is_one_message_and_leaves_nothing_behind(result: tuple[RunConfig, TrainResult]) -> None:
    folder = result[1].path
    code, said = interrupted(
        "recommend",
        folder,
        "--users",
        "1,42",
        cwd=folder.parent,
        when=lambda: list(folder.glob("jobs/recommend_*")),
    )
    assert code == 130, said
    assert said == "shardrec: stopped at once\n"
    assert list(folder.glob("jobs/*")) == []
