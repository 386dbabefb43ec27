"""`shardrec synth` from the command line: one object, Ctrl-C, and a signal that a model can learn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import RunConfig, evaluate, prepare, synthesize, train
from tests.end_to_end.conftest import interrupted, shardrec

pytestmark = pytest.mark.thorough

pytest.importorskip("pyspark")


def test_synth_prints_one_object_and_leaves_a_config_that_is_fine(tmp_path: Path) -> None:
    done = shardrec("synth", "--rows", "2_000", "--out", "data/synth", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["synthetic"] is True
    assert value["rows"] == 2000
    assert 0.7 < value["best"]["auc"] < 0.9
    assert "synthetic rows" in done.stderr
    assert RunConfig.load(value["config"]).name == "synthetic_criteo"
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["synth"]


def test_ctrl_c_while_tasks_write_leaves_nothing(tmp_path: Path) -> None:
    # Far more rows than are made before the signal; it comes once two tasks are writing their files.
    code, said = interrupted(
        "synth", "--rows", "2000000000", "--out", tmp_path / "synth",
        cwd=tmp_path,
        when=lambda: list(tmp_path.glob("synth.tmp-*/rows/.synthetic-*")),
    )  # fmt: skip
    assert code == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[0].endswith("s] starting Spark")
    assert said.splitlines()[-1] == "shardrec: stopped at once"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_dlrm_comes_close_to_the_best_reachable_auc(tmp_path: Path) -> None:
    # Few ids, each seen often, so that their effects can be learnt.
    made = synthesize(tmp_path / "synth", rows=400_000, dense=4, sparse=6, cardinality=500)
    run = RunConfig.load(made.config).override(
        "train.epochs=2", "train.global_batch_size=512", "train.embedding_optimizer.learning_rate=0.1"
    )
    data = prepare(None, run, tmp_path / "data")
    metrics = evaluate(train(run, data, out=tmp_path / "run", show_progress=False), "test").metrics
    # The test split holds 40,000 rows: its AUC strays by about 0.0025.
    assert made.best.auc - 0.015 < metrics["auc"] < made.best.auc + 0.0125
    assert made.best.ne - 0.0125 < metrics["ne"] < made.best.ne + 0.025
