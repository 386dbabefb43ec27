"""Follows `metrics.jsonl` in a thread, and so a run whose ranks are in any process on any host."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"
_POLL_SECONDS = 0.5
_KNOWN_BYTES = 256
Record = dict[str, Any]


class Follower:
    """Hands on the records that are appended to a file.

    Args:
        path: the file, which may come later; what it holds already is no news.
        hear: gets the new records in order, none too, every half second and at the end. An `OSError` of it
            ends the following, and nothing else.
    """

    def __init__(self, path: Path, hear: Callable[[list[Record]], None]) -> None:
        self._path, self._hear = path, hear
        self._offset, self._known, self._rest = 0, b"", b""
        if path.exists():
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _KNOWN_BYTES))
                self._known = file.read()
                self._offset = file.tell()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="shardrec-follower", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def finish(self) -> None:
        """Hand on what is left, and end."""
        self._done.set()
        self._thread.join()
        with suppress(OSError):
            self._hear(self._read())

    def _follow(self) -> None:
        with suppress(OSError):  # Nobody listens any more; the run goes on all the same.
            while not self._done.wait(_POLL_SECONDS):
                self._hear(self._read())

    def _read(self) -> list[Record]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset - len(self._known))
                # A resumed run rewrites the file without the steps that it does again; by the next look it
                # may be longer than it was.
                rewritten = file.read(len(self._known)) != self._known
                if rewritten:
                    file.seek(0)
                    self._offset, self._known, self._rest = 0, b"", b""
                added = file.read()
        except OSError:
            return []
        self._offset += len(added)
        self._known = (self._known + added)[-_KNOWN_BYTES:]
        *lines, self._rest = (self._rest + added).split(b"\n")
        records = [record for line in lines if (record := _parsed(line)) is not None]
        return _news(records) if rewritten else records


def _parsed(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:  # The end of a line whose beginning was rewritten.
        return None
    return record if isinstance(record, dict) else None


def _news(records: list[Record]) -> list[Record]:
    """Return the records since the newest `start`."""
    starts = [number for number, record in enumerate(records) if record.get("kind") == "start"]
    return records[starts[-1] :] if starts else []
