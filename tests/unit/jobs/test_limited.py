"""A call in a process of its own: results, errors, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.limited import run_limited
from sharding.errors import PlanError, ShardrecError


def late() -> Exception:
    return PlanError("too late")


def double(number: int) -> int:
    print("not a result")
    return 2 * number


def refuse(_: int) -> None:
    raise PlanError("refused", where="here", fixes=["go away"])


def fail(_: int) -> None:
    raise ValueError("broken")


def sleep(place: str) -> None:
    Path(place).write_text(str(os.getpid()))
    time.sleep(600)


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_result_comes_back_and_prints_do_not_mix_with_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_limited(double, 21, 60, late) == 42
    said = capfd.readouterr()
    assert said.out == ""
    assert "not a result" in said.err


def test_errors_come_back_with_all_they_say() -> None:
    with pytest.raises(PlanError) as error:
        run_limited(refuse, 1, 60, late)
    assert (error.value.what, error.value.where, error.value.fixes) == ("refused", "here", ("go away",))


def test_an_unexpected_error_names_its_place(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ShardrecError, match="unexpected error: ValueError: broken") as error:
        run_limited(fail, 1, 60, late)
    assert error.value.where == f"{__file__}:{fail.__code__.co_firstlineno + 1}"
    assert "--debug" in error.value.fixes[0]
    assert "Traceback" not in capfd.readouterr().err


def test_debug_shows_the_traceback_of_the_process(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ShardrecError) as error:
        run_limited(fail, 1, 60, late, debug=True)
    assert error.value.fixes == ()
    said = capfd.readouterr().err
    assert "Traceback" in said
    assert 'raise ValueError("broken")' in said


def test_files_in_the_working_folder_do_not_hide_the_standard_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("selectors", "statistics", "queue"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not the one that was meant')")
    monkeypatch.delenv("PYTHONPATH", raising=False)  # which may name the working folder
    monkeypatch.chdir(tmp_path)
    assert run_limited(double, 21, 60, late) == 42


def test_what_takes_too_long_is_killed(tmp_path: Path) -> None:
    place = tmp_path / "pid"
    with pytest.raises(PlanError, match="too late"):
        run_limited(sleep, str(place), 15, late)
    with pytest.raises(ProcessLookupError):
        os.kill(int(place.read_text()), 0)


def test_a_process_ends_with_the_one_that_waits_for_it(tmp_path: Path) -> None:
    place = tmp_path / "pid"
    code = f"from tests.unit.jobs.test_limited import *; run_limited(sleep, {str(place)!r}, 600, late)"
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[3])
    try:
        _wait_until(lambda: place.exists() and place.read_text() != "")
    finally:
        caller.kill()
        caller.wait()
    _wait_until(lambda: not _is_running(int(place.read_text())))


def _wait_until(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError("not within a minute")


def _is_running(pid: int) -> bool:
    # Where nobody collects orphans, a process that has ended remains as a zombie.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(ShardrecError, match="exit code -9") as error:
        run_limited(die, 1, 60, late)
    assert error.value.where == __name__
