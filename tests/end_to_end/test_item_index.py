"""From events to an index of items, and items for rows of users: against vectors and rows read here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as pads
import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from jobs import (
    Cluster,
    Dataset,
    RunConfig,
    TrainResult,
    index,
    mine_negatives,
    prepare,
    recommend,
    search,
    train,
)
from jobs.cli import main
from jobs.scoring.recommendation import recommend_lists
from trainer.assembly import build_task
from trainer.errors import ConfigError, DataError, UserError
from trainer.run_folder import RunFolder

pytestmark = pytest.mark.slow

USERS, SONGS, PLAYS = 80, 60, 14


def plays() -> pd.DataFrame:
    """Return users who each play songs of one of three styles, in an order of their own."""
    rng = np.random.default_rng(5)
    rows = []
    for user in range(USERS):
        own = rng.permutation(SONGS // 3)[:PLAYS] * 3 + user % 3
        rows += [(1000 + user, f"s{song}", place, 1 + user % 2) for place, song in enumerate(own)]
    return pd.DataFrame(rows, columns=["user", "song", "time", "country"])


def config(root: Path, model: dict[str, Any], **train_keys: Any) -> RunConfig:
    return RunConfig.from_dict(
        {
            "name": "songs",
            "data": {
                "root": str(root),
                "source": {"path": "plays.parquet"},
                "joins": [{"source": {"path": "songs.parquet"}, "on": ["song"]}],
                "label": {"implicit": True},
                "keep": ["user"],
                "split": {"method": "leave_last", "leave_last": {"user": "user", "time": "time"}},
                "user_rows": {
                    "by": "user",
                    "order_by": "time",
                    "lists": {"seen": "song"},
                    "targets": "song",
                    "user_columns": ["country"],
                    "splits": ["valid", "test"],
                },
                "num_lanes": 4,
            },
            "features": {
                "sparse": [{"columns": ["user", "song", "country"], "ops": "vocabulary"}],
                "sequence": [
                    {"columns": "seen", "table": "song", "pooling": "none"},
                    {
                        "name": "before",
                        "history": {"user": "user", "item": "song", "time": "time", "max_length": 5},
                        "table": "song",
                        "pooling": "none",
                    },
                ],
            },
            "model": {"item": "song", "embedding_dim": 8, **model},
            "metrics": {"at": [5, 10]},
            "recommend": {"user": "user", "item": "song", "title": "title", "time": "time"},
            "train": {
                "global_batch_size": 64,
                "epochs": 4,
                "dense_optimizer": {"name": "adam", "learning_rate": 0.01},
                "embedding_optimizer": {"name": "adagrad", "learning_rate": 0.1},
                **train_keys,
            },
        }
    )


TOWERS = {"name": "two_tower", "query_features": ["user", "country", "before"], "output_dim": 8}


@pytest.fixture(scope="module")
def prepared(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    root = tmp_path_factory.mktemp("songs")
    plays().to_parquet(root / "plays.parquet")
    titles = pd.DataFrame(
        {"song": [f"s{n}" for n in range(SONGS)], "title": [f"Song {n}" for n in range(SONGS)]}
    )
    titles.to_parquet(root / "songs.parquet")
    return root, prepare(None, config(root, TOWERS), root / "data")


@pytest.fixture(scope="module")
def trained(prepared: tuple[Path, Dataset]) -> TrainResult:
    root, data = prepared
    return train(config(root, TOWERS), data, out=root / "towers", show_progress=False)


@pytest.fixture(scope="module")
def flat(trained: TrainResult, prepared: tuple[Path, Dataset]) -> Path:
    return index(trained, prepared[0] / "flat").path


def weights_of(result: TrainResult, folder: Path) -> Any:
    """Return the plain model with the checkpoint's weights: no process group, no plan, no reader."""
    run = RunFolder(result.path)
    dcp_to_torch_save(run.checkpoints / result.result["checkpoint"], folder / "weights.pt")
    task, _ = build_task(run.config(), run.manifest())
    task.load_state_dict(torch.load(folder / "weights.pt")["model"], assign=True)
    return task.model.eval()


def vectors(folder: Path) -> pd.DataFrame:
    return pads.dataset(folder / "items", format="parquet").to_table().to_pandas()


def test_vectors_are_the_item_tower_s_under_raw_ids(trained: TrainResult, flat: Path, tmp_path: Path) -> None:
    model, found = weights_of(trained, tmp_path), vectors(flat)
    ids = pd.read_parquet(RunFolder(trained.path).dataset() / "vocabulary" / "song").set_index("value")["id"]
    assert set(found["item"]) == {f"s{n}" for n in range(SONGS)}
    assert found["id"].tolist() == ids.loc[found["item"]].tolist()
    rows = model.state_dict()["lookup.embedding_collection.embeddings.song.weight"][found["id"].tolist()]
    with torch.no_grad():
        expected = torch.nn.functional.normalize(model.item_tower(rows), dim=1).numpy()
    np.testing.assert_allclose(np.stack(found["vector"]), expected, atol=1e-5)
    told = json.loads((flat / "index.json").read_text())
    assert (told["count"], told["dimension"], told["kind"], told["item"]) == (SONGS, 8, "flat", "song")
    assert (told["checkpoint"], told["temperature"]) == (trained.result["checkpoint"], 0.05)


def expected_lists(
    trained: TrainResult, flat: Path, tmp_path: Path, seen: pd.Series, k: int
) -> dict[int, list[str]]:
    """Return by user the best songs that it has not seen: the towers on what pandas read."""
    model, found = weights_of(trained, tmp_path), vectors(flat)
    folder = RunFolder(trained.path).dataset()
    ids = {
        name: pd.read_parquet(folder / "vocabulary" / name).set_index("value")["id"].to_dict()
        for name in ("user", "song", "country")
    }
    state = model.state_dict()
    tables = {
        name: next(
            v
            for key, v in state.items()
            if (key.endswith(f".{name}.weight") and "embeddings" in key)
            or key.endswith(f"embedding_bags.{name}.weight")
        )
        for name in ids
    }
    lists = {}
    for user, songs in seen.items():
        parts = [
            tables["user"][ids["user"][str(user)]],
            tables["country"][ids["country"][str(1 + (user - 1000) % 2)]],
            tables["song"][[ids["song"][song] for song in songs[-5:]]].mean(dim=0),
        ]
        with torch.no_grad():
            query = torch.nn.functional.normalize(model.query_tower(torch.cat(parts)), dim=0).numpy()
        scores = np.stack(found["vector"]) @ query
        order = [found["item"][place] for place in np.argsort(-scores)]
        lists[user] = [song for song in order if song not in songs][:k]
    return lists


def listed(events: int) -> pd.Series:
    """Return by user the songs of so many first events."""
    rows = plays()
    return rows[rows["time"] < events].groupby("user")["song"].agg(list)


def test_recommend_ranks_all_songs_that_a_row_of_the_split_does_not_list(
    trained: TrainResult, flat: Path, tmp_path: Path
) -> None:
    users = [1003, 1000, 1041]
    found = recommend_lists(trained, users, 6)
    expected = expected_lists(trained, flat, tmp_path, listed(PLAYS - 1), 6)
    assert [entry.user for entry in found.users] == users
    for entry in found.users:
        assert [item.item for item in entry.items] == expected[entry.user]
        assert [item.rank for item in entry.items] == list(range(1, 7))
        assert [item.title for item in entry.items] == [f"Song {s.item[1:]}" for s in entry.items]
        assert entry.liked[0] == f"Song {plays().query('user == @entry.user')['song'].iloc[-1][1:]}"
    valid = recommend_lists(trained, users, 6, split="valid")
    expected = expected_lists(trained, flat, tmp_path, listed(PLAYS - 2), 6)
    assert [[item.item for item in entry.items] for entry in valid.users] == [expected[u] for u in users]


def test_raw_rows_make_rows_of_now_that_list_all_events(
    trained: TrainResult, prepared: tuple[Path, Dataset], flat: Path, tmp_path: Path
) -> None:
    found = recommend_lists(trained, ["1002", "1077"], 50, events=prepared[0])
    expected = expected_lists(trained, flat, tmp_path, listed(PLAYS), 50)
    assert {e.user: [i.item for i in e.items] for e in found.users} == {u: expected[u] for u in (1002, 1077)}
    with pytest.raises(DataError, match="without a single raw row"):
        recommend_lists(trained, [5], 3, events=prepared[0])


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_an_index_recommends_what_scoring_every_item_does(
    trained: TrainResult, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--parameter", "nlist=4"] if kind == "ivf" else []
    assert (
        main(["index", str(trained.path), "--out", str(tmp_path / "i"), "--kind", kind, *chosen, "--json"])
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["count"]) == (kind, SONGS)
    assert told["parameters"] == json.loads((tmp_path / "i" / "index.json").read_text())["parameters"]
    by_model = recommend(trained, k=8).toPandas().sort_values(["user", "rank"])
    by_index = recommend(trained, k=8, index=tmp_path / "i").toPandas().sort_values(["user", "rank"])
    assert len(by_model) == len(by_index) == 8 * USERS
    seen = {(user, song) for user, songs in listed(PLAYS - 1).items() for song in songs}
    assert seen.isdisjoint(zip(by_index["user"], by_index["song"], strict=True))
    if kind == "flat":
        columns = ["user", "song", "rank", "score", "title"]
        pd.testing.assert_frame_equal(
            by_index[columns].reset_index(drop=True), by_model[columns].reset_index(drop=True), atol=2e-6
        )
    both = by_index.merge(by_model, on=["user", "song"])
    assert len(both) >= 0.9 * len(by_model)


def assert_same_lists(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """The same items for the same users; scores are sums in another order."""
    for one, other in zip(ours["users"], theirs["users"], strict=True):
        scores = [[item.pop("score") for item in user["items"]] for user in (one, other)]
        assert scores[0] == pytest.approx(scores[1], abs=2e-6)
        assert one == other


def test_two_ranks_write_the_same_index_and_lists(trained: TrainResult, flat: Path, tmp_path: Path) -> None:
    two = index(trained, tmp_path / "two", cluster=Cluster.local(ranks=2))
    ours, theirs = vectors(flat), vectors(two.path)
    assert len(list((two.path / "items").glob("*.parquet"))) == 2
    assert theirs[["item", "id"]].equals(ours[["item", "id"]])
    np.testing.assert_allclose(np.stack(theirs["vector"]), np.stack(ours["vector"]), atol=1e-6)
    queries = np.stack(ours["vector"])[:5]
    found = search(two, queries, 4)
    assert found.items_QK[:, 0].tolist() == ours["item"][:5].tolist()
    one = recommend_lists(trained, [1001, 1002], 5).as_json()
    two_ranks = recommend_lists(trained, [1001, 1002], 5, cluster=Cluster.local(ranks=2)).as_json()
    assert_same_lists(two_ranks, one)


def test_mined_negatives_are_the_best_songs_after_those_skipped(
    trained: TrainResult, flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hard.parquet"
    chosen = ["--k", "4", "--skip-top", "2", "--candidates-per-user", "all", "--out", str(out)]
    assert main(["mine", str(trained.path), *chosen, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"negatives": str(out), "users": USERS, "rows": 4 * USERS}
    found = pd.read_parquet(out)
    # `exclude: train`: what valid and test are to find may be a negative.
    expected = expected_lists(trained, flat, tmp_path, listed(PLAYS - 2), 6)
    assert found["user"].is_monotonic_increasing
    for user, rows in found.groupby("user"):
        assert rows["song"].tolist() == expected[user][2:]
        assert rows["rank"].tolist() == [3, 4, 5, 6]
    known = mine_negatives(trained, out, SONGS, exclude="known", candidates_per_user=None, users=[1004])
    rest = {f"s{n}" for n in range(SONGS)} - {*listed(PLAYS)[1004]}
    assert set(pd.read_parquet(known.path)["song"]) == rest
    drawn = mine_negatives(trained, out, 5, exclude="known", candidates_per_user=5)
    some = pd.read_parquet(drawn.path)
    played = {(user, song) for user, songs in listed(PLAYS).items() for song in songs}
    assert played.isdisjoint(zip(some["user"], some["song"], strict=True))
    assert not some.duplicated(["user", "song"]).any()
    assert some["song"].nunique() > 0.8 * SONGS


def test_mistakes_are_named(
    trained: TrainResult, prepared: tuple[Path, Dataset], flat: Path, tmp_path: Path
) -> None:
    root, data = prepared
    with pytest.raises(DataError, match="without a row in test") as raised:
        recommend(trained, [1000, 77])
    assert "77" in str(raised.value)
    with pytest.raises(DataError, match="events, not users"):
        recommend(trained, [1000], split="train")
    with pytest.raises(UserError, match="list all events of a user"):
        mine_negatives(trained, tmp_path / "n.parquet", events=root)
    with pytest.raises(DataError, match="not an index of items"):
        index(trained, root / "data")
    ncf = config(root, {"name": "ncf", "user": "user", "objective": "bpr"}, max_steps=2)
    other = train(ncf, data, out=tmp_path / "ncf", show_progress=False)
    with pytest.raises(ConfigError, match="model's scores are none") as refused:
        index(other, tmp_path / "none")
    assert "two_tower" in str(refused.value)
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match="model's scores are none"):
        recommend(other, [1000], index=flat)
    mf = train(
        config(root, {"name": "mf", "user": "user"}, max_steps=2),
        data,
        out=tmp_path / "mf",
        show_progress=False,
    )
    with pytest.raises(UserError, match="another run or checkpoint"):
        recommend(mf, [1000], index=flat)
    # An item's bias is a column of its vector, so that the index finds what the model ranks first.
    biased = index(mf, tmp_path / "biased")
    assert biased.info.dimension == 8 + 2
    lists = [recommend_lists(mf, [1000, 1001], 7, index=given).as_json() for given in (None, biased)]
    assert_same_lists(*lists)
