"""The first command that a newcomer runs, from raw ratings to the report."""

from __future__ import annotations

import html
import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from jobs.first_run import claim
from tests.end_to_end.conftest import ROOT, shardrec

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


def test_the_documentation_explains_every_file_of_the_run_folder(
    quickstart: tuple[Path, dict[str, Any]],
) -> None:
    text = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8").split("## Run folder")[1]
    cells = re.findall(r"^\| (`.+?`) \|", text, re.MULTILINE)
    explained = [name for cell in cells for name in re.findall(r"`(.+?)`", cell)]
    patterns = [re.sub(r"<\w+>", "*", name).split("/")[0] for name in explained]
    there = {path.name for path in (quickstart[0] / "run").iterdir()}
    assert {name for name in there if not any(fnmatch(name, pattern) for pattern in patterns)} == set()
    assert {pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in there)} == set()


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


def test_the_folder_may_be_taken_by_the_next_quickstart(quickstart: tuple[Path, dict[str, Any]]) -> None:
    folder = quickstart[0]
    before = (folder / "quickstart.json").read_bytes()
    claim(folder, "movielens_100k_dlrm")
    (folder / "quickstart.json").write_bytes(before)


def test_a_run_that_no_quickstart_made_is_refused_and_stays(
    quickstart: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "mine" / "run" / "checkpoints" / "step_00000001"
    checkpoint.mkdir(parents=True)
    (tmp_path / "mine" / "run" / "config.yaml").write_bytes(
        (quickstart[0] / "run" / "config.yaml").read_bytes()
    )
    before = sorted(tmp_path.rglob("*"))
    done = shardrec("quickstart", "--folder", "mine", "--json", cwd=tmp_path)
    assert done.returncode == 2
    error = json.loads(done.stdout)
    assert error["where"] == "mine"
    assert "--folder" in error["fixes"][0]
    assert sorted(tmp_path.rglob("*")) == before
