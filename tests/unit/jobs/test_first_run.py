"""The quickstart replaces what a quickstart made, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.first_run import CONFIG, FirstRun, claim
from jobs.movielens import unpack_movielens_100k
from jobs.scoring.lists import Recommendations
from tests.support.datasets import write_dataset
from trainer.config import RunConfig
from trainer.errors import UserError

NAME = RunConfig.load(CONFIG).name
CONFIGS = CONFIG.parent


def _run(folder: Path, config: Path = CONFIG) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(RunConfig.load(config).to_yaml(), encoding="utf-8")
    return folder


def test_a_new_folder_is_marked_before_anything_else_is_in_it(tmp_path: Path) -> None:
    claim(tmp_path / "a" / "b", NAME)
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["quickstart.json"]
    claim(tmp_path / "a" / "b", NAME)


def test_what_an_earlier_quickstart_left_may_be_replaced(tmp_path: Path) -> None:
    claim(tmp_path, NAME)
    _run(tmp_path / "run")
    write_dataset(tmp_path / "data", rows=8, name=NAME)
    claim(tmp_path, NAME)


@pytest.mark.parametrize("part", ["run", "data"])
def test_a_run_or_data_set_in_a_folder_without_the_mark_is_an_error(tmp_path: Path, part: str) -> None:
    # The same config does not make it the quickstart's.
    if part == "run":
        _run(tmp_path / "run")
    else:
        write_dataset(tmp_path / "data", rows=8, name=NAME)
    with pytest.raises(UserError) as caught:
        claim(tmp_path, NAME)
    assert caught.value.where == str(tmp_path)
    assert caught.value.got == str(tmp_path / part)
    assert "--folder" in caught.value.fixes[0]
    assert str(tmp_path / part) in caught.value.fixes[1]
    # Nothing was claimed by the attempt: the next one fails as well.
    with pytest.raises(UserError):
        claim(tmp_path, NAME)


def test_a_run_of_another_config_in_a_marked_folder_is_an_error(tmp_path: Path) -> None:
    claim(tmp_path, NAME)
    _run(tmp_path / "run", CONFIGS / "tiny_local.yaml")
    with pytest.raises(UserError, match="no quickstart made"):
        claim(tmp_path, NAME)


def test_files_that_are_no_data_set_are_not_replaced(tmp_path: Path) -> None:
    claim(tmp_path, NAME)
    (tmp_path / "data").mkdir()
    claim(tmp_path, NAME)  # an empty folder holds nothing that could be lost
    (tmp_path / "data" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="data"):
        claim(tmp_path, NAME)


@pytest.mark.parametrize("text", ['{"metrics": {}}', "[]", "no JSON"])
def test_a_file_that_only_bears_the_name_of_the_mark_is_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "quickstart.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"quickstart\.json"):
        claim(tmp_path, NAME)
    assert (tmp_path / "quickstart.json").read_text(encoding="utf-8") == text


def test_the_total_says_that_start_up_is_not_in_it() -> None:
    seconds = {"prepare": 10.4, "train": 20.4}
    metrics = dict.fromkeys(("auc", "ne", "log_loss", "calibration", "accuracy"), 0.5)
    text = FirstRun(Path("x"), metrics, Recommendations("user", "item", []), Path("r"), seconds).text()
    assert "(in all 31 s, without start-up)" in text


def test_unpacking_keeps_files_that_are_there(tmp_path: Path) -> None:
    mine = pa.table({"user_id": [7]})
    pq.write_table(mine, tmp_path / "users.parquet")
    unpack_movielens_100k(tmp_path)
    assert pq.read_table(tmp_path / "users.parquet") == mine
    assert pq.read_metadata(tmp_path / "ratings.parquet").num_rows == 100_000
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "movies.parquet",
        "ratings.parquet",
        "users.parquet",
    ]
