from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import struct
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.progress import Progress, progress_bar


def _append(folder: Path, *records: dict[str, Any]) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def _start(first: int = 0, total: int = 100, at: float = 0.0) -> dict[str, Any]:
    return {"kind": "start", "step": first, "first_step": first, "total_steps": total, "time": at}


def _train(step: int, at: float, loss: float | None = 0.5) -> dict[str, Any]:
    return {"kind": "train", "step": step, "loss": loss, "samples_per_second": 2048.4, "time": at}


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert true()


def test_a_line_tells_step_speed_loss_and_time_left() -> None:
    progress = Progress().after(_start(first=20, at=1000.0)).after(_train(60, at=1080.0))
    assert progress.seconds_left == 80.0  # 40 steps took 80 s, 40 are left
    assert progress.line() == "step 60/100 (60%), 2,048 samples/s, loss 0.5000, ETA 01:20"


def test_a_loss_that_is_no_number_leaves_the_line_readable() -> None:
    progress = Progress().after(_start()).after(_train(1, at=1.0, loss=None))
    assert "loss" not in progress.line()


def test_lines_and_evaluations_are_shown_while_the_file_grows(tmp_path: Path) -> None:
    said = io.StringIO()
    with progress_bar(tmp_path, stream=said, line_every_seconds=0):
        vectors = {"kind": "pretrained", "table": "film", "ids": 1200, "found": 900, "unknown": 7}
        _append(tmp_path, _start(), vectors, _train(10, at=5.0))
        _until(lambda: "step 10/100 (10%)" in said.getvalue())
        told = "table film: 900 of 1,200 ids start from vectors, 7 of the file are unknown"
        assert said.getvalue().splitlines()[0] == told
        _append(
            tmp_path, {"kind": "evaluation", "step": 10, "epoch": 1, "auc": 0.7512, "rows": 40, "time": 6.0}
        )
        _until(lambda: "step 10, validation: auc 0.7512" in said.getvalue())
        _append(tmp_path, _train(100, at=50.0))
    assert "rows 40" not in said.getvalue()
    assert said.getvalue().splitlines()[-1].startswith("step 100/100 (100%)")


def test_the_records_of_an_earlier_launch_are_not_shown_again(tmp_path: Path) -> None:
    said = io.StringIO()
    _append(
        tmp_path, _start(), _train(40, at=9.0), {"kind": "evaluation", "step": 40, "auc": 0.6, "time": 9.0}
    )
    with progress_bar(tmp_path, stream=said, line_every_seconds=0):
        _append(tmp_path, _start(first=40, at=20.0), _train(50, at=21.0))
    assert "step 40" not in said.getvalue()
    assert "step 50/100" in said.getvalue()


def test_a_file_rewritten_by_a_resumed_run_is_followed_from_its_newest_start(tmp_path: Path) -> None:
    said = io.StringIO()
    evaluation = {"kind": "evaluation", "step": 20, "auc": 0.6, "time": 2.0}
    _append(
        tmp_path, _start(), _train(20, at=2.0), evaluation, *[_train(n, at=3.0) for n in range(30, 90, 10)]
    )
    with progress_bar(tmp_path, stream=said, line_every_seconds=0):
        (tmp_path / "metrics.jsonl").unlink()
        _append(tmp_path, _start(), _train(20, at=2.0), evaluation, _start(first=20, at=50.0))
        _append(tmp_path, _train(30, at=60.0))
    assert "auc" not in said.getvalue()
    assert said.getvalue().startswith("step 30/100")


def test_a_rewritten_file_that_has_grown_beyond_its_old_length_is_noticed(tmp_path: Path) -> None:
    said = io.StringIO()
    _append(tmp_path, _start(), _train(20, at=2.0), _train(30, at=3.0))
    with progress_bar(tmp_path, stream=said, line_every_seconds=0):
        # All between two looks: step 30 is dropped, and what follows is longer.
        (tmp_path / "metrics.jsonl").unlink()
        _append(tmp_path, _start(), _train(20, at=2.0), _start(first=20, total=60, at=50.0))
        _append(tmp_path, *[_train(step, at=float(step)) for step in range(30, 60, 10)])
    assert "step 50/60" in said.getvalue()


def test_the_last_line_of_a_run_that_ended_before_its_last_step_promises_no_time_left(tmp_path: Path) -> None:
    said = io.StringIO()
    with progress_bar(tmp_path, stream=said, line_every_seconds=1000):
        _append(tmp_path, _start(), _train(10, at=5.0))
        _until(lambda: "step 10/100 (10%), 2,048 samples/s, loss 0.5000, ETA 00:45" in said.getvalue())
        _append(tmp_path, _train(60, at=30.0))
    assert said.getvalue().splitlines()[-1] == "step 60/100 (60%), 2,048 samples/s, loss 0.5000"


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    said = io.StringIO()
    with progress_bar(tmp_path, stream=said, line_every_seconds=0):
        _append(tmp_path, _start())
        text = json.dumps(_train(70, at=7.0))
        for part in (text[:20], text[20:] + "\n"):
            with (tmp_path / "metrics.jsonl").open("a") as file:
                file.write(part)
            time.sleep(0.7)
    assert "step 70/100" in said.getvalue()


def test_a_terminal_gets_a_bar(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
    with os.fdopen(theirs, "w") as terminal, progress_bar(tmp_path, stream=terminal):
        _append(tmp_path, _start(first=50, at=0.0), _train(75, at=5.0))
        time.sleep(0.8)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "75/100" in shown
    assert "2,048 samples/s, loss 0.5000" in shown


def test_a_disabled_bar_shows_nothing(tmp_path: Path) -> None:
    said = io.StringIO()
    with progress_bar(tmp_path, enabled=False, stream=said):
        _append(tmp_path, _start(), _train(10, at=5.0))
    assert said.getvalue() == ""
