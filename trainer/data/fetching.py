"""Fetches coming row groups from a store: the bytes of the columns that are read, several row groups at once.

Bytes are fetched first and decoded from memory afterwards. So a network error, which a further try may mend,
is never taken for a damaged file, which none does.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.data.columns import Columns
from trainer.data.part_files import PartFiles, damaged_row_group, missing_part, unreadable_part
from trainer.data.prefetch import when_stopped
from trainer.storage import attempt, open_input

# What waits to be decoded may take this much memory, by the sizes in the manifest (all columns); at least one
# row group is always under way.
_WAITING_BYTES = 1 << 28
_OPEN_FILES = 64
# Columns this near to each other are fetched by one request: that costs less than a second one.
_HOLE_BYTES = 1 << 18
# pyarrow looks for the footer in the last 64 KiB of a file.
_TAIL_BYTES = 1 << 16
_MAGIC = b"PAR1"


@dataclass
class _Part:
    """An open part file; `lock` is held while it is opened."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    source: pa.NativeFile | None = None
    size: int = 0
    metadata: pq.FileMetaData | None = None


class RowGroupFetcher:
    """Fetches row groups ahead, in the order in which they will be taken.

    Args:
        files: part files on a store.
        columns: what to fetch.
        coming: numbers of the row groups, in the order of `take`.
    """

    def __init__(self, files: PartFiles, columns: Columns, coming: Iterable[int]) -> None:
        self._files = files
        self._columns = columns
        self._coming = iter(coming)
        self._next: int | None = next(self._coming, None)
        self._waiting: deque[tuple[int, Future[pq.ParquetFile]]] = deque()
        self._bytes = 0
        self._depth = files.policy.remote_prefetch_row_groups
        self._pool = ThreadPoolExecutor(max(1, self._depth), thread_name_prefix="shardrec-fetch")
        self._parts: OrderedDict[int, _Part] = OrderedDict()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        when_stopped(self._stop.set)

    def take(self, row_group: int) -> pq.ParquetFile:
        """Return a Parquet file that holds the bytes of this row group alone.

        Raises:
            DamagedError: the file is missing or truncated.
            StoreError: the store cannot be read.
        """
        self._submit(max(1, self._depth))
        number, fetched = self._waiting.popleft()
        assert number == row_group, "row groups are taken in another order than they were announced in"
        try:
            return fetched.result()
        finally:
            self._bytes -= self._files.bytes(row_group)
            self._submit(self._depth)

    def footer(self, number: int) -> pq.FileMetaData:
        """Return the footer of a part file, checked.

        Raises:
            DataError: it cannot be read, or differs from the manifest.
            StoreError: the store cannot be read.
        """
        return self._opened(number, "footer").metadata

    def close(self) -> None:
        """Drop what was fetched, and wait for what is under way."""
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._waiting.clear()
        self._parts.clear()

    def _submit(self, depth: int) -> None:
        while self._next is not None and len(self._waiting) < depth:
            size = self._files.bytes(self._next)
            if self._waiting and self._bytes + size > _WAITING_BYTES:
                return
            self._waiting.append((self._next, self._pool.submit(self._fetch, self._next)))
            self._bytes += size
            self._next = next(self._coming, None)

    def _fetch(self, row_group: int) -> pq.ParquetFile:
        number, group = self._files.places[row_group]
        where = f"row group {group}"
        part = self._opened(number, where)
        assert part.metadata is not None
        ranges = _ranges(part.metadata.row_group(group), self._columns)
        parts = [(start, self._read(number, part, start, stop, where)) for start, stop in ranges]
        if any(len(data) < stop - start for (start, stop), (_, data) in zip(ranges, parts, strict=True)):
            raise damaged_row_group(self._files.where(row_group), f"the file ends after {part.size:,} bytes")
        return pq.ParquetFile(pa.PythonFile(FetchedBytes(parts, part.size), mode="r"), metadata=part.metadata)

    def _opened(self, number: int, detail: str) -> _Part:
        with self._lock:
            part = self._parts.setdefault(number, _Part())
            self._parts.move_to_end(number)
            if len(self._parts) > _OPEN_FILES:
                self._parts.popitem(last=False)
        with part.lock:
            if part.metadata is None:
                self._read_footer(number, part, detail)
        return part

    def _read_footer(self, number: int, part: _Part, detail: str) -> None:
        path = self._files.path(number)
        tail = self._read(number, part, -_TAIL_BYTES, 0, detail)
        wanted = int.from_bytes(tail[-8:-4], "little") + 8
        if len(tail) < 12 or tail[-4:] != _MAGIC or wanted > part.size:
            raise unreadable_part(path, f"{part.size:,} bytes without a Parquet footer at their end")
        if wanted > len(tail):
            tail = self._read(number, part, -wanted, 0, detail)
        try:
            source = pa.PythonFile(FetchedBytes([(part.size - len(tail), tail)], part.size), mode="r")
            file = pq.ParquetFile(source)
        except (pa.ArrowException, OSError) as error:
            raise unreadable_part(path, error) from error
        self._files.check(file, number, self._columns, part.size)
        part.metadata = file.metadata

    def _read(self, number: int, part: _Part, start: int, stop: int, detail: str) -> bytes:
        """Return bytes of a part file; a negative start counts from its end."""
        path = self._files.path(number)

        def read() -> bytes:
            source = part.source
            try:
                if source is None:
                    source = open_input(path)
                    part.source, part.size = source, source.size()
                first, last = (max(0, part.size + start), part.size) if start < 0 else (start, stop)
                found: bytes = source.read_at(last - first, first)
                return found
            except Exception:
                part.source = None  # the next try opens it anew
                raise

        try:
            return attempt(path, read, self._files.policy.remote_attempts, detail=detail, stop=self._stop)
        except FileNotFoundError as error:
            raise missing_part(path) from error


class FetchedBytes:
    """A file of which only some ranges are there, as pyarrow reads files of Python.

    Args:
        parts: offset and bytes of each range, by offset.
        size: of the whole file.
    """

    def __init__(self, parts: list[tuple[int, bytes]], size: int) -> None:
        self._starts = [start for start, _ in parts]
        self._parts = [memoryview(data) for _, data in parts]
        self._size = size
        self._place = 0
        self.closed = False

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to an offset; whence as in `io`."""
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def tell(self) -> int:
        """Return the offset."""
        return self._place

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        return bytes(self.read_buffer(size))

    def read_buffer(self, size: int = -1) -> memoryview:
        """Return the next bytes without a copy.

        Raises:
            OSError: they were not fetched.
        """
        stop = self._size if size < 0 else min(self._size, self._place + size)
        if stop <= self._place:
            return memoryview(b"")
        number = bisect_right(self._starts, self._place) - 1
        first = self._place - self._starts[number]
        if number < 0 or first + stop - self._place > len(self._parts[number]):
            raise OSError(f"bytes {self._place} to {stop} were not fetched")
        found = self._parts[number][first : first + stop - self._place]
        self._place = stop
        return found

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Drop the bytes."""
        self.closed = True
        self._parts = []


def _ranges(row_group: pq.RowGroupMetaData, columns: Columns) -> list[tuple[int, int]]:
    """Return start and end of the bytes of the wanted columns, near ones joined."""
    chunks = []
    for number in range(row_group.num_columns):
        chunk = row_group.column(number)
        path: str = chunk.path_in_schema
        # As pyarrow picks columns: by the path, or any beginning of it that ends at a dot.
        names = (path[:end] for end in range(len(path) + 1) if end == len(path) or path[end] == ".")
        if any(name in columns.types for name in names):
            offsets = [chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset]
            chunks.append((min(offsets), min(offsets) + chunk.total_compressed_size))
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(chunks):
        if joined and start - joined[-1][1] <= _HOLE_BYTES:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined
