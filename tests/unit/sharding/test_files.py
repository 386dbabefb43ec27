"""Files that are added to also where the file system takes no appends, as volumes of Databricks do not."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from jobs import Dataset, RunConfig, train
from sharding.files import open_to_append


@pytest.fixture
def no_appends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let files be opened to append in vain; return those that were."""
    refused, real = [], os.open

    def opened(path: Any, flags: int, *words: Any, **named: Any) -> int:
        if flags & os.O_APPEND:
            refused.append(str(path))
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
        return real(path, flags, *words, **named)

    monkeypatch.setattr(os, "open", opened)
    return refused


def append(path: Path, text: bytes) -> None:
    with os.fdopen(open_to_append(path), "wb") as file:
        file.write(text)


@pytest.mark.parametrize("takes_appends", [True, False])
def test_what_a_file_holds_stays(takes_appends: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    refused = [] if takes_appends else request.getfixturevalue("no_appends")
    for text in (b"first\n", b"second\n", b"third\n"):
        append(tmp_path / "log", text)
    assert (tmp_path / "log").read_bytes() == b"first\nsecond\nthird\n"
    assert len(refused) == (0 if takes_appends else 3)


def test_other_errors_are_raised(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_to_append(tmp_path / "missing" / "log")


def test_a_run_trains_and_goes_on_where_no_file_takes_appends(
    run: RunConfig, data: Dataset, no_appends: list[str], tmp_path: Path
) -> None:
    half = train(run.override("train.max_steps=8"), data, out=tmp_path / "run", show_progress=False)
    train(run, data, out=half.path, show_progress=False)
    lines = (half.path / "metrics.jsonl").read_text().splitlines()
    assert sum('"kind": "start"' in line for line in lines) == 2
    assert any(path.endswith("metrics.jsonl") for path in no_appends)
