"""The folder where a data set for a store is made: what a killed run left goes, what was not copied stays."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.preparation.commit import restore
from jobs.store_output import _staged
from trainer.errors import StoreError
from trainer.storage import StorePath

URL = StorePath("s3://bucket/ads")
SPARK: Any = SimpleNamespace(conf=SimpleNamespace(get=lambda *_: "local[2]"))

KILLED = """
import sys, time
from tests.unit.jobs.test_store_output import made_in, made
def put(folder, target):
    print("copying", flush=True)
    time.sleep(600)
made_in(sys.argv[1], put)
"""


def made(folder: Path, _: Any) -> Any:
    """Write something where the data set is to be made."""
    folder.mkdir()
    (folder / "part").write_text("rows")
    return SimpleNamespace(path=folder, report_text="")


def made_in(staging: str | Path, put: Any, url: StorePath = URL) -> Any:
    return _staged(url, staging, SPARK, made, put)


def copied(folder: Path, _: Any) -> Any:
    assert (folder / "part").read_text() == "rows"
    return SimpleNamespace(manifest=None)


def test_what_a_killed_run_left_goes_with_the_next_one_to_the_same_url(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"copying\n"
        (living,) = tmp_path.iterdir()
        made_in(tmp_path, copied)
        assert list(tmp_path.iterdir()) == [living], "of a run that goes on"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert (living / "data" / "part").exists()
    made_in(tmp_path, copied, StorePath("s3://bucket/other"))
    assert list(tmp_path.iterdir()) == [living], "of another URL"
    made_in(tmp_path, copied)
    assert list(tmp_path.iterdir()) == []


def test_what_was_prepared_stays_where_the_copy_fails(tmp_path: Path) -> None:
    def fail(*_: Any) -> Any:
        raise StoreError("the store is gone")

    with pytest.raises(StoreError) as error:
        made_in(tmp_path, fail)
    (kept,) = tmp_path.iterdir()
    assert error.value.fixes[0].endswith(f"shardrec copy {kept}/data s3://bucket/ads")
    made_in(tmp_path, copied)
    restore(tmp_path / kept.name)
    assert list(tmp_path.iterdir()) == [kept]


def test_nothing_stays_where_the_preparation_fails(tmp_path: Path) -> None:
    def fail(folder: Path, _: Any) -> Any:
        folder.mkdir()
        raise StoreError("no rows")

    with pytest.raises(StoreError, match="no rows"):
        _staged(URL, tmp_path, SPARK, fail, copied)
    assert list(tmp_path.iterdir()) == []
