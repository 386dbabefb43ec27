"""Files that are whole whenever somebody looks."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def open_to_append(path: Path) -> int:
    """Return a file descriptor that writes behind what a file holds; the file is made where it is missing.

    Volumes of Databricks take no appends: there the file is written anew, the old content first.

    Raises:
        OSError: it cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT
    try:
        return os.open(path, flags | os.O_APPEND, 0o644)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL):
            raise
    held = path.read_bytes() if path.exists() else b""
    descriptor = os.open(path, flags | os.O_TRUNC, 0o644)
    while held:
        held = held[os.write(descriptor, held) :]
    return descriptor


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader, or who comes after a crash, finds the old text or the new one.

    Raises:
        OSError: it cannot be written; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
