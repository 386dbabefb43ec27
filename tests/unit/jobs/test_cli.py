"""What the command line makes of errors and of Ctrl-C: one message, one object for machines, no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs import commands, session, verbs
from jobs.cli import main
from jobs.commands import Command
from jobs.ranks.verdict import RankError
from jobs.results import Evaluation
from trainer.errors import ConfigError, ShardrecError


def fail(_: Namespace) -> None:
    raise RuntimeError("the cable is out\n    at org.example.Deep(Deep.java:1)\n")


@pytest.fixture(autouse=True)
def failing_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "COMMANDS", (Command("models", "", lambda _: None, fail),))


@pytest.mark.parametrize(
    ("config", "arguments", "words"),
    [
        ({}, ["--append", "grow"], "not a data set"),
        ({}, ["--append-to", "train"], "means nothing where no rows are added"),
        ({}, ["--history-input", "a", "b"], "means nothing where no rows are added"),
        ({"source": {"path": "rows.csv"}}, [], "needs its column names"),
        ({"label": {"implicit": True}}, [], "every row is a positive"),
        ({}, [], "there is no such file or folder\n  where:   data.source.path"),
        ({"source": {"path": "day=*/*.csv", "header": True}}, [], "no file matches the pattern"),
        ({}, ["--input", "nowhere"], "nowhere/rows.parquet"),
    ],
)
def test_prepare_refuses_before_spark_starts_what_config_and_folder_tell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    config: dict[str, Any], arguments: list[str], words: str,
) -> None:  # fmt: skip
    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("Spark starts")

    monkeypatch.undo()  # the real verbs
    monkeypatch.setattr(session, "spark_session", start)
    monkeypatch.setattr(session, "finds_paths_here", lambda master: True)
    data = {"source": {"path": "rows.parquet"}, "label": {"column": "y"}, **config}
    features = {"dense": [{"columns": "x"}]}
    run = {"name": "a", "data": data, "features": features, "model": {"name": "dlrm"}}
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    out = str(tmp_path / "none")
    assert main(["prepare", str(tmp_path / "run.yaml"), "--out", out, *arguments]) == 2
    assert words in capsys.readouterr().err


def test_an_unexpected_error_is_one_message_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 1
    shown = capsys.readouterr()
    line = fail.__code__.co_firstlineno + 1
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "shardrec: unexpected error: RuntimeError: the cable is out",
        f"  where:   {Path(__file__)}:{line}",
        "  1) run again with --debug for the traceback",
    ]


def test_an_unexpected_error_is_one_object_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 1
    value = json.loads(capsys.readouterr().out)
    assert value.keys() == {"error", "where", "fixes", "kind"}
    assert value["error"] == "unexpected error: RuntimeError: the cable is out"
    assert str(Path(__file__)) in value["where"]
    assert "--debug" in value["fixes"][0]


def test_debug_shows_the_traceback_of_an_unexpected_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--debug"]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "Deep.java" in shown
    assert "run again" not in shown


def test_an_error_without_a_text_keeps_its_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def silent(_: Namespace) -> None:
        raise MemoryError

    monkeypatch.setattr(commands, "COMMANDS", (Command("models", "", lambda _: None, silent),))
    assert main(["models"]) == 1
    assert capsys.readouterr().err.startswith("shardrec: unexpected error: MemoryError\n")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            ConfigError("no\nsuch\nkey", where="a.yaml", got=[1], allowed={"x"}, fixes=["do"], also=["more"]),
            {
                "error": "no",
                "kind": "ConfigError",
                "details": "such\nkey",
                "where": "a.yaml",
                "got": [1],
                "allowed": ["x"],
                "fixes": ["do"],
                "also": ["more"],
            },
        ),
        (
            ConfigError("no file", got=Path("a")),
            {"error": "no file", "kind": "ConfigError", "where": "", "got": "a", "fixes": []},
        ),
        (
            RankError("rank 1 failed", last_lines=["the end"]),
            {
                "error": "rank 1 failed",
                "kind": "RankError",
                "where": "",
                "fixes": [],
                "last_lines": ["the end"],
            },
        ),
    ],
)
def test_each_part_of_an_error_has_a_key_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: ShardrecError,
    expected: dict[str, Any],
) -> None:
    def wrong(_: Namespace) -> None:
        raise error

    monkeypatch.setattr(commands, "COMMANDS", (Command("models", "", lambda _: None, wrong),))
    assert main(["models", "--json"]) == error.exit_code
    assert json.loads(capsys.readouterr().out) == expected


@pytest.mark.usefixtures("python_handles_sigint")
@pytest.mark.parametrize("machine", [False, True])
def test_ctrl_c_is_one_message_whatever_the_verb_makes_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], machine: bool
) -> None:
    def interrupted(_: Namespace) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("an error of py4j") from None

    monkeypatch.setattr(commands, "COMMANDS", (Command("models", "", lambda _: None, interrupted),))
    assert main(["models", *(["--json"] if machine else [])]) == 130
    shown = capsys.readouterr()
    assert shown.err == "shardrec: stopped at once\n"
    if machine:
        assert json.loads(shown.out) == {
            "error": "stopped at once",
            "kind": "Interrupted",
            "where": "",
            "fixes": [],
        }
    else:
        assert shown.out == ""


@pytest.mark.parametrize(
    ("arguments", "message", "fixes"),
    [
        (["modles"], "no such verb", ["did you mean `models`?", "shardrec --help"]),
        (["models", "--fast"], "unrecognized arguments: --fast", ["shardrec --help"]),
        ([], "the following arguments are required: VERB", ["shardrec --help"]),
    ],
)
def test_a_wrong_command_line_is_told_as_every_other_mistake(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, fixes: list[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"UserError: {message}\n")
    assert shown.out == ""
    assert main([*arguments, "--json"]) == 2
    value = json.loads(capsys.readouterr().out)
    assert value["error"].startswith(message)
    assert value["fixes"] == fixes


def test_a_wrong_choice_names_the_nearest_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    assert main(["train", "a.yaml", "--on", "lokal", "--json"]) == 2
    value = json.loads(capsys.readouterr().out)
    assert value["error"] == "--on does not take this value"
    assert (value["where"], value["got"]) == ("shardrec train", "lokal")
    assert value["allowed"] == ["process", "local", "spark", "torchrun"]
    assert value["fixes"][0] == "did you mean `local`?"


def test_rows_without_a_value_are_a_group_called_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    groups = [{"value": value, "rows": 3, "metrics": {"auc": 0.5, "ne": 1.0}} for value in (None, 7, "x")]
    found = Evaluation("test", 9, {"auc": 0.5}, {"gender": groups})
    monkeypatch.setattr(verbs, "evaluate", lambda *_, **__: found)
    assert main(["evaluate", "run", "--by", "gender"]) == 0
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in lines] == ["(missing)", "7", "x"]


def test_metrics_of_lists_are_a_table_and_those_with_an_interval_a_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    lists = {"hr@5": 0.25, "ndcg@5": 0.125, "hr@10": 0.5, "ndcg@10": None}
    segment = {"value": "x", "rows": 3, "metrics": {"gauc": 0.5, **lists}}
    found = Evaluation("test", 9, {"auc": 0.75, **lists, "groups": 3}, {"gender": [segment]})
    monkeypatch.setattr(verbs, "evaluate", lambda *_, **__: found)
    assert main(["evaluate", "run"]) == 0
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert words[1:6] == [
        ["auc:", "0.75"],
        ["groups:", "3"],
        ["at", "K", "5", "10"],
        ["hr", "0.25", "0.5"],
        ["ndcg", "0.125", "None"],
    ]
    assert words[-1][3:] == ["gauc", "0.5", "hr@10", "0.5", "ndcg@10", "None"]
    drawn = replace(found, confidence=0.9, intervals={"hr@10": (0.375, 0.625)})
    monkeypatch.setattr(verbs, "evaluate", lambda *_, **__: drawn)
    assert main(["evaluate", "run", "--confidence", "0.9"]) == 0
    assert "hr@10: 0.5  (0.375 to 0.625)" in capsys.readouterr().out
    assert main(["evaluate", "run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["confidence"], told["intervals"]) == (0.9, {"hr@10": [0.375, 0.625]})


def test_lookups_of_unknown_ids_are_told_by_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    ids = {"user": {"lookups": 1200, "oov_share": 0.125}}
    found = Evaluation("test", 1200, {"auc": 0.5}, {}, ids=ids)
    monkeypatch.setattr(verbs, "evaluate", lambda *_, **__: found)
    assert main(["evaluate", "run"]) == 0
    assert "ids of table user: 12.50 % of 1,200 lookups without a row" in capsys.readouterr().out
    assert main(["evaluate", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ids"] == ids


def test_a_reader_that_has_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "jobs.cli", "config", "schema"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_resume_without_a_checkpoint_says_that_it_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verbs, "train", fail)
    config = Path(commands.__file__).parents[1] / "configs" / "tiny_local.yaml"
    assert main(["train", str(config), "--resume"]) != 0
    assert "runs/tiny_local holds no checkpoint: starting at step 0" in capsys.readouterr().err
