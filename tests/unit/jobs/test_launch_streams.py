from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.ranks.streams import captured_output, last_lines, screen

SCRIPT = """
import ctypes, os, sys
from pathlib import Path
from jobs.ranks.streams import captured_output, screen
print("before")
with screen() as person, captured_output(Path(sys.argv[1])):
    print("python out")
    sys.stderr.write("python err\\n")
    os.write(1, b"descriptor\\n")
    ctypes.CDLL(None).puts(b"c library")
    os.system("echo child")
    person.write("for the person\\n")
print("after")
"""


def test_everything_printed_goes_to_the_file_and_nothing_to_the_screen(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "log.txt"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, log], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "before\nafter\n"
    assert done.stderr == "for the person\n"
    assert sorted(log.read_text().splitlines()) == [
        "c library",
        "child",
        "descriptor",
        "python err",
        "python out",
    ]


def test_streams_that_are_no_descriptors_are_captured_and_given_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    streams = sys.stdout, sys.stderr
    with screen() as person, captured_output(tmp_path / "log.txt"):
        print("inside")
        os.write(2, b"raw\n")
        ctypes.CDLL(None).puts(b"c")
        person.write("seen")
    assert (sys.stdout, sys.stderr) == streams
    print("outside")
    assert capsys.readouterr() == ("outside\n", "seen")
    assert sorted((tmp_path / "log.txt").read_text().split()) == ["c", "inside", "raw"]


def test_captures_append_and_end_with_an_error_too(tmp_path: Path) -> None:
    def fail(text: str) -> None:
        with captured_output(tmp_path / "log.txt"):
            print(text)
            raise KeyError(text)

    for text in ("one", "two"):
        with pytest.raises(KeyError):
            fail(text)
    assert (tmp_path / "log.txt").read_text() == "one\ntwo\n"


def test_last_lines_end_at_the_newest_mark(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("attempt a: x\nold\nattempt b: x\n\n" + "".join(f"line {n}\n" for n in range(30)))
    assert last_lines(path, 2, after="attempt b:") == ["line 28", "line 29"]
    assert "old" not in last_lines(path, 100, after="attempt b:")
    assert last_lines(tmp_path / "missing.txt") == []


def test_last_lines_of_a_huge_log_are_read_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("x" * 200_000 + "\nend\n")
    assert last_lines(path, 1) == ["end"]
