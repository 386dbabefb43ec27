"""A data set folder is replaced in one step, and what killed runs left is undone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.preparation import commit
from jobs.preparation.commit import output_folder, restore, staged_folder
from trainer.errors import DataError, UserError
from trainer.schema import MANIFEST_FILE


def write(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_FILE).write_text(text)


def dead_process() -> int:
    """Return the id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_halfway(target: Path) -> None:
    with staged_folder(target) as folder:
        write(folder, "half")
        raise RuntimeError("boom")


@pytest.mark.parametrize("exchange", [True, False], ids=["one system call", "two renames"])
def test_new_data_takes_the_place_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(commit, "_exchange", lambda *_: False)
    target = tmp_path / "deep" / "data"
    for text in ("first", "second"):
        with staged_folder(target) as folder:
            assert folder.parent == target.parent
            write(folder, text)
        assert (target / MANIFEST_FILE).read_text() == text
        assert names(target.parent) == ["data"]


def test_the_exchange_is_one_system_call_here(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    write(first, "a")
    write(second, "b")
    if not commit._exchange(first, second):
        pytest.skip("this system or file system cannot exchange folders")
    assert (first / MANIFEST_FILE).read_text() == "b"
    assert (second / MANIFEST_FILE).read_text() == "a"


def test_failure_leaves_the_old_data_and_no_rubbish(tmp_path: Path) -> None:
    target = tmp_path / "data"
    write(target, "old")
    with pytest.raises(RuntimeError, match="boom"):
        fail_halfway(target)
    assert (target / MANIFEST_FILE).read_text() == "old"
    assert names(tmp_path) == ["data"]


def test_kill_between_two_renames_is_undone_at_the_next_start(tmp_path: Path) -> None:
    target = tmp_path / "data"
    host, pid = commit._host(), dead_process()
    write(tmp_path / f"data.old-{host}-{pid}-0123abcd", "old")
    write(tmp_path / f"data.tmp-{host}-{pid}-4567abcd", "new")
    restore(target)
    assert names(tmp_path) == ["data"]
    assert (target / MANIFEST_FILE).read_text() == "old"


def test_folders_of_living_and_of_foreign_runs_stay(tmp_path: Path) -> None:
    target = tmp_path / "data"
    living = tmp_path / f"data.tmp-{commit._host()}-{os.getppid()}-0123abcd"
    foreign = tmp_path / "data.tmp-elsewhere-1-0123abcd"
    abandoned = tmp_path / "data.tmp-elsewhere-2-0123abcd"
    own = commit.sibling(target, "tmp")
    # As in containers, where each run may have the same process id.
    same_id, older = (tmp_path / f"data.tmp-{commit._host()}-{os.getpid()}-{n}123abcd" for n in (1, 2))
    for folder in (living, foreign, abandoned, own, same_id, older):
        write(folder, "")
    for folder in (abandoned, own, older):
        os.utime(folder, (0, 0))
    bystanders = ["data.tmp-notes", "data2.tmp-elsewhere-1-0123abcd", "data.old"]
    for name in bystanders:
        write(tmp_path / name, "")
    restore(target)
    kept = [living.name, foreign.name, own.name, same_id.name]
    assert names(tmp_path) == sorted([*kept, *bystanders])


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_data_set_is_not_replaced(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "data"
    if kind == "file":
        target.write_text("mine")
    else:
        (target / "photos").mkdir(parents=True)
    with pytest.raises(DataError, match="not a data set"), staged_folder(target):
        raise AssertionError("must not get here")
    assert target.exists()


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with staged_folder(tmp_path / "data") as folder:
        write(folder, "new")
    assert names(tmp_path / "data") == [MANIFEST_FILE]


def test_mounted_stores_are_opened_through_their_folder() -> None:
    assert output_folder("dbfs:/Volumes/ml/ads/v3") == Path("/Volumes/ml/ads/v3")
    assert output_folder("dbfs:/tmp/x") == Path("/dbfs/tmp/x")
    assert output_folder("file:///tmp/x") == Path("/tmp/x")
    with pytest.raises(UserError, match="folder that this machine can open"):
        output_folder("s3a://bucket/x")


@pytest.mark.parametrize("name", ["data[1]", "{a,b}", "data*", "what?"])
def test_a_name_that_spark_takes_for_a_pattern_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="for a pattern") as error:
        output_folder(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_a_link_stays_and_the_folder_behind_it_is_replaced(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "store" / "data"
    write(target, "old")
    link.symlink_to(target)
    with staged_folder(output_folder(link)) as folder:
        write(folder, "new")
    assert link.is_symlink()
    assert (target / MANIFEST_FILE).read_text() == "new"
    assert (names(tmp_path), names(target.parent)) == (["link", "store"], ["data"])
