"""Tables that tasks hand on to other tasks: as Arrow streams in Spark's rows, or through files.

Where all tasks run on one machine, files are several times faster than Spark's shuffle, whose rows then hold
only where the streams lie.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pyarrow as pa

from jobs.session import is_local, over_connect

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class Streams:
    """How the tasks of a session hand tables on.

    Attributes:
        folder: of the files; None where the streams go through Spark.
    """

    folder: str | None = None

    def sender(self) -> Sender:
        """Return what a task, or a group of its rows, hands tables on with; to be closed."""
        return Sender(self.folder)


@contextmanager
def streams_between_tasks(spark: SparkSession, dataset: Path) -> Iterator[Streams]:
    """Make a folder for streams in the data set under construction, where all tasks run on this machine."""
    if over_connect(spark) or not is_local(spark):
        yield Streams()
        return
    # Tasks that are being ended may still write.
    with TemporaryDirectory(dir=dataset, prefix="_streams", ignore_cleanup_errors=True) as folder:
        yield Streams(folder)


class Sender:
    """Hands tables on; all that one sender sends lies in one file."""

    def __init__(self, folder: str | None = None) -> None:
        self._path = None if folder is None else Path(folder) / uuid.uuid4().hex
        self._file: pa.NativeFile | None = None

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def send(self, table: pa.Table) -> bytes:
        """Return the stream of a table, or where it lies: what `received` takes."""
        if self._path is None:
            sink = pa.BufferOutputStream()
            _write(table, sink)
            return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]
        if self._file is None:
            self._file = pa.OSFile(str(self._path), "wb")
        start, size = append_stream(table, self._file)
        return json.dumps({"path": str(self._path), "start": start, "size": size}).encode()


def received(sent: bytes) -> pa.Table:
    """Return the table that a task has handed on."""
    if not sent.startswith(b"{"):  # a stream begins with four bytes of ones
        return pa.ipc.open_stream(sent).read_all()
    place = json.loads(sent)
    return stream_at(place["path"], place["start"], place["size"])


def append_stream(table: pa.Table, file: pa.NativeFile) -> tuple[int, int]:
    """Write a table behind what a file holds; returns where its stream starts, and its bytes."""
    start = file.tell()
    _write(table, file)
    return start, file.tell() - start


def stream_at(path: str, start: int, size: int) -> pa.Table:
    """Return the table that `append_stream` wrote."""
    with pa.memory_map(path) as file:
        file.seek(start)
        return pa.ipc.open_stream(file.read_buffer(size)).read_all()


def _write(table: pa.Table, sink: pa.NativeFile) -> None:
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
