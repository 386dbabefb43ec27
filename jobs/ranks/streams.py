"""Sends what a process prints to a file, C and C++ code included, and keeps a way to the screen."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from sharding.files import open_to_append

_TAIL_BYTES = 64 * 1024


@contextmanager
def screen() -> Iterator[TextIO]:
    """Yield the stderr that a person sees, which stays theirs inside `captured_output`."""
    if not _is_descriptor(sys.stderr, 2):  # A notebook or a test: the object itself leads to the person.
        yield sys.stderr
        return
    with os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="replace") as stream:
        yield stream


@contextmanager
def captured_output(path: Path) -> Iterator[None]:
    """Append everything that this process prints to a file: Python's streams and file descriptors 1 and 2.

    Args:
        path: the file; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open_to_append(path)
    _flush()
    saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    streams = (sys.stdout, sys.stderr)
    try:
        for descriptor in saved:
            os.dup2(file, descriptor)
        sys.stdout, sys.stderr = _to_descriptor(streams[0], 1), _to_descriptor(streams[1], 2)
        yield
    finally:
        _flush()
        sys.stdout, sys.stderr = streams
        for descriptor, original in saved.items():
            os.dup2(original, descriptor)
            os.close(original)
        os.close(file)


def last_lines(path: Path, count: int = 15, after: str | None = None) -> list[str]:
    """Return the last lines of a text file, or none when it cannot be read.

    Args:
        path: the file.
        count: at most so many lines.
        after: only lines behind the last line that contains this text.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    if after is not None:
        starts = [number for number, line in enumerate(lines) if after in line]
        lines = lines[starts[-1] + 1 :] if starts else lines
    return [line.rstrip() for line in lines if line.strip()][-count:]


def _is_descriptor(stream: Any, descriptor: int) -> bool:
    try:
        return bool(stream.fileno() == descriptor)
    except (AttributeError, OSError, ValueError):
        return False


def _to_descriptor(stream: TextIO, descriptor: int) -> TextIO:
    """Return a stream to the descriptor that writes each line at once: a killed rank must not lose any."""
    if _is_descriptor(stream, descriptor):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(line_buffering=True)
        return stream
    # Never closed by us: loggers made meanwhile keep it and may still write through it afterwards.
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).fflush(None)
