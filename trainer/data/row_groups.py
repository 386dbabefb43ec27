"""Opens the part files of a split, checks them against the manifest, and decodes row groups."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from trainer.data.columns import Columns, DecodedRows, type_name
from trainer.errors import DataError
from trainer.schema import PartFile, Split

_OPEN_FILES = 64
_PREPARE_AGAIN = "prepare the data set again"


def locate(dataset: str | Path) -> tuple[fs.FileSystem, str]:
    """Return the file system and the path inside it of a data set folder.

    Args:
        dataset: local path, `file://` or another URI that pyarrow knows (`s3://`, `gs://`, `hdfs://`), or
            `dbfs:/...`, which clusters mount as a local folder.
    """
    text = str(dataset)
    if text.startswith("dbfs:/"):
        path = "/" + text.removeprefix("dbfs:").lstrip("/")
        return fs.LocalFileSystem(), path if path.startswith("/Volumes/") else f"/dbfs{path}"
    if isinstance(dataset, str) and "://" in text:
        filesystem, path = fs.FileSystem.from_uri(text)
        return filesystem, path
    return fs.LocalFileSystem(), str(Path(dataset).absolute())


class PartFiles:
    """The part files of one split.

    Args:
        dataset: data set folder.
        split: its entry in the manifest.

    Raises:
        DataError: a part file is missing.
    """

    def __init__(self, dataset: str | Path, split: Split) -> None:
        self.filesystem, self._root = locate(dataset)
        self.remote = not isinstance(self.filesystem, fs.LocalFileSystem)
        self.parts = split.files
        self.places = [
            (part, group) for part, file in enumerate(self.parts) for group in range(len(file.row_groups))
        ]
        self._check_present()

    def path(self, part: PartFile) -> str:
        """Return the full path of a part file."""
        return f"{self._root}/{part.path}"

    def _check_present(self) -> None:
        paths = [self.path(part) for part in self.parts]
        for info in self.filesystem.get_file_info(paths):
            if info.type != fs.FileType.File:
                raise DataError(
                    "a part file that the manifest names is missing",
                    where=info.path,
                    fixes=["copy the data set folder again, whole", _PREPARE_AGAIN],
                )


class RowGroupReader:
    """Decodes row groups; belongs to one thread.

    Args:
        files: part files of the split.
        columns: what to load.
        shared: row groups that several lanes need; the last two decoded are kept.
    """

    def __init__(self, files: PartFiles, columns: Columns, shared: frozenset[int] = frozenset()) -> None:
        self._files = files
        self._columns = columns
        self._shared = shared
        self._open: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._kept: OrderedDict[int, DecodedRows] = OrderedDict()

    def read(self, row_group: int) -> DecodedRows:
        """Return a decoded row group, by its number in the split.

        Raises:
            DataError: the file is missing or damaged, differs from the manifest, or holds unusable values.
        """
        if row_group in self._kept:
            self._kept.move_to_end(row_group)
            return self._kept[row_group]
        decoded = self._decode(row_group)
        if row_group in self._shared:
            self._kept[row_group] = decoded
            # A lane shares at most its first and its last row group with its neighbours.
            if len(self._kept) > 2:
                self._kept.popitem(last=False)
        return decoded

    def check_files(self) -> None:
        """Check the footer of every part file.

        Raises:
            DataError: a file cannot be read, or differs from the manifest in rows, columns or types.
        """
        for number in range(len(self._files.parts)):
            self._file(number)

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close(force=True)
        self._kept.clear()

    def _decode(self, row_group: int) -> DecodedRows:
        number, group = self._files.places[row_group]
        file = self._file(number)
        path = self._files.path(self._files.parts[number])
        where = f"{path}, row group {group}"
        try:
            table = file.read_row_group(group, columns=list(self._columns.types))
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                "a row group cannot be decoded: the file is damaged",
                where=where,
                got=_first_line(error),
                fixes=["copy the file again", _PREPARE_AGAIN],
            ) from error
        return DecodedRows(self._columns, lambda name: _one_array(table.column(name)), where)

    def _file(self, number: int) -> pq.ParquetFile:
        file = self._open.get(number)
        if file is None:
            part = self._files.parts[number]
            path = self._files.path(part)
            file = self._open[number] = self._opened(path)
            _check_rows(file, part, path)
            _check_types(file.schema_arrow, self._columns, path)
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)[1].close(force=True)
        self._open.move_to_end(number)
        return file

    def _opened(self, path: str) -> pq.ParquetFile:
        try:
            source = self._files.filesystem.open_input_file(path)
            # Remote reads are merged and issued ahead; local ones are faster without the extra copy.
            return pq.ParquetFile(source, pre_buffer=self._files.remote)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                "a part file cannot be read: it is missing, truncated or no Parquet file",
                where=path,
                got=_first_line(error),
                fixes=["copy the file again", _PREPARE_AGAIN],
            ) from error


def _check_rows(file: pq.ParquetFile, part: PartFile, path: str) -> None:
    metadata = file.metadata
    found = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    if found != part.row_groups or sum(found) != part.rows:
        raise DataError(
            "a part file differs from the manifest",
            where=path,
            got=f"{sum(found)} rows in {len(found)} row groups",
            allowed=f"{part.rows} rows in {len(part.row_groups)} row groups",
            fixes=["restore the file that belongs to this manifest", _PREPARE_AGAIN],
        )


def _check_types(schema: pa.Schema, columns: Columns, path: str) -> None:
    for name, expected in columns.types.items():
        places = schema.get_all_field_indices(name)
        found = [type_name(schema.field(place).type) for place in places]
        if found != [expected]:
            what = {0: "is missing", 1: "has the wrong type"}.get(len(found), "occurs twice")
            raise DataError(
                f"a prepared column {what}",
                where=f"{path}, column {name!r}",
                got=", ".join(found) or f"columns {', '.join(schema.names[:20])}",
                allowed=expected,
                fixes=[_PREPARE_AGAIN],
            )


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    joined = column.combine_chunks()
    return joined.chunk(0) if isinstance(joined, pa.ChunkedArray) else joined


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
