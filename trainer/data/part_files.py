"""The part files of a split: where they lie, and whether they are what the manifest says."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.data.columns import Columns, type_name
from trainer.data.policy import ReadPolicy
from trainer.errors import DamagedError, DataError
from trainer.schema import PartFile, Split
from trainer.storage import Place, StorePath, as_place, list_files
from trainer.store_clients import without_secrets

_PREPARE_AGAIN = "prepare the data set again"


class PartFiles:
    """The part files of one split.

    Attributes:
        remote: whether they lie on a store.
        parts: their entries in the manifest.
        places: part number and row group inside it, by number of the row group in the split.
        policy: how they are read.

    Args:
        dataset: data set folder.
        split: its entry in the manifest.
        policy: how to read.

    Raises:
        DamagedError: a part file is missing, and the policy is not to skip.
        StoreError: the store cannot be read.
    """

    def __init__(self, dataset: str | Place, split: Split, policy: ReadPolicy | None = None) -> None:
        self.folder = as_place(dataset).absolute()
        self.remote = isinstance(self.folder, StorePath)
        self.policy = policy or ReadPolicy()
        self.parts = split.files
        self.places = [
            (part, group) for part, file in enumerate(self.parts) for group in range(len(file.row_groups))
        ]
        self._check_present()

    def path(self, number: int) -> Place:
        """Return where a part file lies."""
        return self.folder / self.parts[number].path

    def rows(self, row_group: int) -> int:
        """Return the rows of a row group, by its number in the split."""
        number, group = self.places[row_group]
        return self.parts[number].row_groups[group]

    def bytes(self, row_group: int) -> int:
        """Return about how many bytes a row group takes in its file, all columns together."""
        part = self.parts[self.places[row_group][0]]
        return part.bytes * self.rows(row_group) // max(1, part.rows)

    def where(self, row_group: int) -> str:
        """Return file and row group in words."""
        number, group = self.places[row_group]
        return f"{self.path(number)}, row group {group}"

    def check(self, file: pq.ParquetFile, number: int, columns: Columns, size: int | None = None) -> None:
        """Check an open part file.

        Args:
            file: open.
            number: of the part.
            columns: what is read of it.
            size: its bytes, where opening it told them: another data set at the URL may have as many rows.

        Raises:
            DataError: it differs from the manifest in bytes, rows, columns or types.
        """
        _check_rows(file, self.parts[number], str(self.path(number)))
        if size is not None and size != self.parts[number].bytes:
            found, wanted = f"{size:,} bytes", f"{self.parts[number].bytes:,} bytes"
            raise _other_part(str(self.path(number)), found, wanted)
        _check_types(file.schema_arrow, columns, str(self.path(number)))

    def _check_present(self) -> None:
        for number in self._missing():
            error = missing_part(self.path(number))
            if self.policy.on_corrupt == "fail":
                raise error
            warnings.warn(f"skipping {self.parts[number].rows:,} rows: {one_line(error)}", stacklevel=2)

    def _missing(self) -> Iterable[int]:
        """Return the part files that are not there; one listing per folder of a store finds all of them."""
        numbers = range(len(self.parts))
        if not isinstance(self.folder, StorePath):
            return [number for number in numbers if not (self.folder / self.parts[number].path).is_file()]
        found: set[str] = set()
        for folder in {part.path.rpartition("/")[0] for part in self.parts}:
            found |= {f"{folder}/{name}" for name in list_files(self.folder / folder)}
        return [number for number in numbers if self.parts[number].path not in found]


def missing_part(path: Place) -> DamagedError:
    """Return the error for a part file that is not there."""
    return DamagedError(
        "a part file that the manifest names is missing",
        where=str(path),
        fixes=["copy the data set folder again, whole", _PREPARE_AGAIN],
    )


def unreadable_part(path: Place, error: BaseException | str) -> DamagedError:
    """Return the error for a part file whose end is damaged."""
    return DamagedError(
        "a part file cannot be read: it is missing, truncated or no Parquet file",
        where=str(path),
        got=error if isinstance(error, str) else without_secrets(error),
        fixes=["copy the file again", _PREPARE_AGAIN, "data.on_corrupt: skip"],
    )


def damaged_row_group(where: str, error: BaseException | str) -> DamagedError:
    """Return the error for a row group whose bytes are damaged."""
    return DamagedError(
        "a row group cannot be decoded: the file is damaged",
        where=where,
        got=error if isinstance(error, str) else without_secrets(error),
        fixes=["copy the file again", _PREPARE_AGAIN, "data.on_corrupt: skip"],
    )


def one_line(error: DataError) -> str:
    """Return an error's rule, place and value on one line."""
    got = f" ({error.got})" if error.got is not None else ""
    return f"{error.what}: {error.where}{got}"


def _check_rows(file: pq.ParquetFile, part: PartFile, path: str) -> None:
    metadata = file.metadata
    found = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    if found != part.row_groups or sum(found) != part.rows:
        rows, wanted = (
            f"{sum(found)} rows in {len(found)} row groups",
            f"{part.rows} rows in {len(part.row_groups)} row groups",
        )
        raise _other_part(path, rows, wanted)


def _other_part(path: str, found: str, wanted: str) -> DataError:
    return DataError(
        "a part file differs from the manifest",
        where=path,
        got=found,
        allowed=wanted,
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
