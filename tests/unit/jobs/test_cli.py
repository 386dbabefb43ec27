"""What the command line makes of errors that are not ours: one message, a place, no traceback."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest

from jobs import commands
from jobs.cli import main
from jobs.commands import Command


def fail(_: Namespace) -> None:
    raise RuntimeError("the cable is out\n    at org.example.Deep(Deep.java:1)\n")


@pytest.fixture(autouse=True)
def failing_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "COMMANDS", (Command("models", "", lambda _: None, fail),))


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
    assert value.keys() == {"error", "where", "fixes"}
    assert "RuntimeError: the cable is out" in value["error"]
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
