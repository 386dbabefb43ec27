"""Puts a finished folder in place in one step, so that a kill at any moment leaves a whole one.

A data set (or another folder of ours, known by its marker file) is built in a sibling folder
`<out>.tmp-<host>-<pid>-<n>`. When it is complete the two folders are exchanged by one system call (Linux
`renameat2`), and the old one is deleted. File systems without that call take two renames; a kill between them
leaves the old one as `<out>.old-...`, and the next start puts it back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.preparation.failures import named_failures
from trainer.errors import DataError, UserError
from trainer.schema import MANIFEST_FILE
from trainer.storage import local_path

_FOREIGN_IS_DEAD_SECONDS = 24 * 3600
_PATTERN = "*?[]{}\\"
# Names that this process gave to folders.
_OWN: set[str] = set()
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder: the file, written last, by which it is known, and what errors call it."""

    marker: str
    name: str


DATA_SET = FolderKind(MANIFEST_FILE, "a data set")


def output_folder(out: str | Path, option: str = "--out") -> Path:
    """Return the folder behind `--out`, or behind another option.

    A link stands for the folder that it leads to, so that the link stays when the data set is replaced.

    Raises:
        UserError: it is a URL that this machine has no file system for, or Spark would read it as a pattern.
    """
    path = local_path(str(out))
    if path is None:
        raise UserError(
            "the output must go to a folder that this machine can open",
            where=option,
            got=str(out),
            fixes=[
                "a local or mounted folder",
                "on Databricks a volume: /Volumes/<catalog>/<schema>/<volume>/...",
            ],
        )
    folder = Path(os.path.realpath(path) if os.path.islink(path) else path).absolute()
    special = sorted(set(_PATTERN) & set(str(folder)))
    if special:
        raise UserError(
            "Spark takes the name of the output for a pattern, so it could not read what it wrote",
            where=option,
            got=str(folder),
            allowed=f"folders without any of {' '.join(_PATTERN)}",
            fixes=[f"choose another {option}, without {' '.join(special)}"],
        )
    return folder


@contextmanager
def staged_folder(target: Path, kind: FolderKind = DATA_SET) -> Iterator[Path]:
    """Give an empty folder beside the target; on success it takes the target's place, else it is deleted.

    Args:
        target: the folder to make or to replace.
        kind: what it becomes, and what may be replaced.

    Raises:
        DataError: the target exists and is of no such kind.
        UserError: no permission to write, or the disk is full.
    """
    with named_failures(str(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        restore(target, kind)
        _check_replaceable(target, kind)
        staging = sibling(target, "tmp")
        staging.mkdir()
    try:
        with named_failures(str(target)):
            yield staging
            assert (staging / kind.marker).exists(), f"{kind.name} is committed with its {kind.marker}"
            _swap(staging, target)
    finally:
        _discard(staging, target)


def restore(target: Path, kind: FolderKind = DATA_SET) -> None:
    """Undo what killed runs left: put an old folder back, and delete folders of runs that are dead."""
    pattern = re.compile(re.escape(target.name) + r"\.(tmp|old)-(.+)-(\d+)-[0-9a-f]{8}")
    for path in sorted(target.parent.glob(_literal(target.name) + ".*-*")):
        found = pattern.fullmatch(path.name)
        if found is None or not _is_dead(path, host=found.group(2), process=int(found.group(3))):
            continue
        if found.group(1) == "old" and not target.exists() and (path / kind.marker).exists():
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _literal(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def sibling(target: Path, kind: str) -> Path:
    """Return a new name beside a folder: a `tmp` one is deleted, an `old` one put back, after a kill."""
    made = target.with_name(f"{target.name}.{kind}-{_host()}-{os.getpid()}-{secrets.token_hex(4)}")
    _OWN.add(made.name)
    return made


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_.]", "_", socket.gethostname())


def _is_dead(path: Path, host: str, process: int) -> bool:
    # In containers of one host name, a run may have the process id of one before it, or of one beside it.
    own = process == os.getpid()
    if host != _host() or (own and path.name not in _OWN):
        return time.time() - path.stat().st_mtime > _FOREIGN_IS_DEAD_SECONDS
    if own:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _check_replaceable(target: Path, kind: FolderKind) -> None:
    if not target.exists():
        return
    if not target.is_dir() or (any(target.iterdir()) and not (target / kind.marker).exists()):
        raise DataError(
            f"the output exists and is not {kind.name}, so it is not replaced",
            where=str(target),
            fixes=["choose another --out", "delete it yourself"],
        )


def _discard(folder: Path, target: Path) -> None:
    """Delete a folder into which tasks that were told to stop may still write.

    Under another name they do not find it, so no file of theirs can come while it is being emptied.
    """
    doomed = sibling(target, "tmp")
    try:
        folder.rename(doomed)
    except OSError:  # It is gone already, or cannot be renamed.
        doomed = folder
    shutil.rmtree(doomed, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)  # A task that makes missing folders may have made it anew.


def _swap(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
        return
    if _exchange(staging, target):
        return  # the old one is now in the staging folder, which the caller deletes
    old = sibling(target, "old")
    target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one step; False where the system or file system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(second))
