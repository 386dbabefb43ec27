"""What a person at the terminal sees while `prepare` works, when its input is wrong, and after Ctrl-C."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.movielens import unpack_movielens_100k
from tests.end_to_end.conftest import CONFIGS, interrupted, shardrec

pytestmark = pytest.mark.thorough

pytest.importorskip("pyspark")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_movielens_100k(tmp_path_factory.mktemp("raw"))


def test_a_wrong_condition_is_one_message_without_sparks_own(raw: Path, tmp_path: Path) -> None:
    history = "{user: user_id, item: movie_id, time: timestamp, where: ratingg >= 4}"
    group = f"features.sequence=[{{name: liked, history: {history}, table: movie_id}}]"
    done = shardrec("prepare", CONFIGS / "tiny_local.yaml", "--input", raw, "--set", group, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "history.where" in done.stderr
    assert "QueryContextLogger" not in done.stderr
    assert len(done.stderr) < 2000


@pytest.mark.parametrize("seconds", [0.2, 2.0])
def test_ctrl_c_while_spark_works_stops_at_once(raw: Path, tmp_path: Path, seconds: float) -> None:
    arguments = (CONFIGS / "movielens_100k_dhen.yaml", "--input", raw, "--out", tmp_path / "data")
    code, said = interrupted(
        "prepare",
        *arguments,
        cwd=tmp_path,
        when=lambda: list(tmp_path.glob("data.tmp-*")),
        seconds=seconds,
    )
    assert code == 130, said
    assert "Traceback" not in said
    assert "ERROR" not in said
    assert said.splitlines()[0].endswith("s] starting Spark")
    assert said.splitlines()[-1] == "shardrec: stopped at once"
    assert not list(tmp_path.glob("data*"))
