"""Decodes row groups, from local files or from the bytes that were fetched of a store."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.data.columns import Columns, DecodedRows
from trainer.data.fetching import RowGroupFetcher
from trainer.data.part_files import PartFiles, damaged_row_group, one_line, unreadable_part
from trainer.data.policy import BlankRows
from trainer.errors import DamagedError, DataError

_OPEN_FILES = 64
# A lane shares at most its first and its last row group with its neighbours.
_KEPT = 2


class RowGroupReader:
    """Decodes row groups; belongs to one thread.

    Args:
        files: part files of the split.
        columns: what to load.
        shared: row groups that several lanes need; the last two decoded are kept.
        coming: the row groups that will be read, in order, so that a store is read ahead.
    """

    def __init__(
        self,
        files: PartFiles,
        columns: Columns,
        shared: frozenset[int] = frozenset(),
        coming: Iterable[int] = (),
    ) -> None:
        self._files = files
        self._columns = columns
        self._shared = shared
        self._open: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._kept: OrderedDict[int, DecodedRows] = OrderedDict()
        self._fetcher: RowGroupFetcher | None = None
        if files.remote:
            self._fetcher = RowGroupFetcher(files, columns, _decoded(coming, shared))

    def read(self, row_group: int) -> DecodedRows:
        """Return a decoded row group, by its number in the split; `BlankRows` where it is skipped.

        Raises:
            DamagedError: the file is missing or damaged, or holds unusable values, and is not to be skipped.
            DataError: the file differs from the manifest.
            StoreError: the store cannot be read.
        """
        if row_group in self._kept:
            self._kept.move_to_end(row_group)
            return self._kept[row_group]
        decoded = self._decode_or_skip(row_group)
        if row_group in self._shared:
            self._kept[row_group] = decoded
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return decoded

    def table(self, row_group: int) -> pa.Table:
        """Return the columns of a row group as they are.

        Raises:
            DamagedError: the file is missing or damaged.
            DataError: the file differs from the manifest.
            StoreError: the store cannot be read.
        """
        number, group = self._files.places[row_group]
        file = self._file(number) if self._fetcher is None else self._fetcher.take(row_group)
        try:
            return file.read_row_group(group, columns=list(self._columns.types))
        except (pa.ArrowException, OSError) as error:
            raise damaged_row_group(self._files.where(row_group), error) from error

    def schema(self, number: int) -> pa.Schema:
        """Return the schema of a part file, checked.

        Raises:
            DataError: it cannot be read, or differs from the manifest in rows, columns or types.
            StoreError: the store cannot be read.
        """
        return (
            self._file(number) if self._fetcher is None else self._fetcher.footer(number)
        ).schema.to_arrow_schema()

    def check_files(self) -> None:
        """Check the footer of every part file.

        Raises:
            DataError: a file cannot be read, or differs from the manifest in rows, columns or types.
            StoreError: the store cannot be read.
        """
        for number in range(len(self._files.parts)):
            self.schema(number)

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close(force=True)
        self._kept.clear()
        if self._fetcher is not None:
            self._fetcher.close()

    def _decode_or_skip(self, row_group: int) -> DecodedRows:
        try:
            return self._decode(row_group)
        except DamagedError as error:
            if self._files.policy.on_corrupt == "fail":
                raise
            rows = self._files.rows(row_group)
            # Python shows a warning of the same words once, not in every epoch.
            warnings.warn(f"skipping {rows:,} rows: {one_line(error)}", stacklevel=2)
            return BlankRows(self._columns, rows)

    def _decode(self, row_group: int) -> DecodedRows:
        table = self.table(row_group)
        try:
            get, where = lambda name: _one_array(table.column(name)), self._files.where(row_group)
            return DecodedRows(self._columns, get, where)
        except DataError as error:  # flipped bytes that still decode show as values that cannot be
            raise DamagedError(
                error.what, where=error.where, got=error.got, allowed=error.allowed, fixes=error.fixes
            ) from error

    def _file(self, number: int) -> pq.ParquetFile:
        file = self._open.get(number)
        if file is None:
            path = self._files.path(number)
            try:
                file = pq.ParquetFile(str(path))
            except (pa.ArrowException, OSError) as error:
                raise unreadable_part(path, error) from error
            self._open[number] = file
            self._files.check(file, number, self._columns)
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)[1].close(force=True)
        self._open.move_to_end(number)
        return file


def _decoded(row_groups: Iterable[int], shared: frozenset[int]) -> Iterator[int]:
    """Yield the row groups that `RowGroupReader.read` will decode, since it has not kept them."""
    kept: OrderedDict[int, None] = OrderedDict()
    for row_group in row_groups:
        if row_group in kept:
            kept.move_to_end(row_group)
            continue
        yield row_group
        if row_group in shared:
            kept[row_group] = None
            if len(kept) > _KEPT:
                kept.popitem(last=False)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    joined = column.combine_chunks()
    return joined.chunk(0) if isinstance(joined, pa.ChunkedArray) else joined
