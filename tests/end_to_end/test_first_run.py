"""The first command that a newcomer runs, from raw ratings to the report."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.end_to_end.conftest import shardrec

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    pytest.importorskip("pyspark")
    where = tmp_path_factory.mktemp("first")
    done = shardrec("quickstart", "--folder", where / "all", "--json", cwd=where)
    assert done.returncode == 0, done.stderr
    # Anything else on stdout, before or after the object, makes this fail.
    value: dict[str, Any] = json.loads(done.stdout)
    return where / "all", value


def test_the_model_reaches_auc_078(quickstart: tuple[Path, dict[str, Any]]) -> None:
    metrics = quickstart[1]["metrics"]
    assert metrics["auc"] >= 0.78
    assert metrics["ne"] < 1
    assert 0.9 < metrics["calibration"] < 1.1


def test_three_users_get_ten_movies_each_that_they_have_not_rated(
    quickstart: tuple[Path, dict[str, Any]],
) -> None:
    folder, value = quickstart
    ratings = pd.read_parquet(folder / "ml-100k" / "ratings.parquet")
    titles = pd.read_parquet(folder / "ml-100k" / "movies.parquet").set_index("movie_id")["title"]
    users = value["recommendations"]["users"]
    assert [str(entry["user"]) for entry in users] == ["1", "42", "405"]
    lists = []
    for entry in users:
        items = entry["items"]
        movies = [item["item"] for item in items]
        assert [item["rank"] for item in items] == list(range(1, 11))
        assert len(set(movies)) == 10
        assert not set(movies) & set(ratings.loc[ratings["user_id"] == entry["user"], "movie_id"])
        assert [item["title"] for item in items] == titles.loc[movies].tolist()
        scores = [item["score"] for item in items]
        assert scores == sorted(scores, reverse=True)
        assert all(0 < score < 1 for score in scores)
        assert entry["liked"]
        assert set(entry["liked"]) <= set(titles)
        lists.append(movies)
    # The lists are personal: no two users get the same one.
    assert len({tuple(movies) for movies in lists}) == 3


def test_the_run_folder_is_whole(quickstart: tuple[Path, dict[str, Any]]) -> None:
    folder, value = quickstart
    run = folder / "run"
    files = ["config.yaml", "manifest.json", "plan.json", "env.json", "metrics.jsonl", "result.json"]
    files += ["report.html", "evaluation_test.json", "recommendations.json"]
    assert [name for name in files if not (run / name).is_file()] == []
    assert len(list(run.glob("log/rank_*.txt"))) == 2
    assert list(run.glob("checkpoints/step_*/state.json"))
    assert list(run.glob("tensorboard/**/events.out.tfevents*"))
    assert {path.name for path in (folder / "data").iterdir()} >= {"train", "valid", "test", "manifest.json"}
    stored = json.loads((run / "recommendations.json").read_text(encoding="utf-8"))
    assert stored["users"] == value["recommendations"]["users"]
    assert json.loads((run / "result.json").read_text(encoding="utf-8"))["world_size"] == 2


def test_the_report_holds_everything_it_shows(quickstart: tuple[Path, dict[str, Any]]) -> None:
    folder, value = quickstart
    report = Path(value["report"])
    assert report.samefile(folder / "run" / "report.html")
    page = report.read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert not re.findall(
        r"<(?:script|link|img|iframe|source)\b[^>]+(?:src|href)=(?![\"']?(?:data:|#))", page
    )
    assert not re.findall(r"@import|url\((?![\"']?(?:data:|#))", page)
    assert f"{value['metrics']['auc']:.4f}" in page
    for entry in value["recommendations"]["users"]:
        assert entry["items"][0]["title"] in html.unescape(page)
