"""Raw columns that `data.keep` carried through to the prepared rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainer.data.columns import Columns, type_name
from trainer.data.part_files import PartFiles
from trainer.data.policy import ReadPolicy
from trainer.data.row_groups import RowGroupReader
from trainer.errors import DamagedError, DataError
from trainer.schema import KEEP_PREFIX, Manifest
from trainer.storage import Place


@dataclass(frozen=True)
class _KeptColumn(Columns):
    """One kept column, or none."""

    kept: tuple[tuple[str, str], ...] = ()

    @property
    def types(self) -> dict[str, str]:
        return dict(self.kept)


class KeptColumns:
    """The kept raw columns of a split.

    Args:
        dataset: data set folder, local or on a store.
        manifest: its manifest.
        split: `train`, `valid` or `test`.
        policy: what to do about damaged part files and a slow or failing store.

    Raises:
        DataError: the split is empty, or a part file is missing or damaged.
        StoreError: the store cannot be read.
    """

    def __init__(self, dataset: Place, manifest: Manifest, split: str, policy: ReadPolicy) -> None:
        self._spec = manifest.spec
        self._files = PartFiles(manifest.folder_in(dataset), manifest.split(split), policy)
        self._schema = self._any_schema()

    def require(self, column: str, asked_by: str = "--by") -> None:
        """Check that a column was kept.

        Args:
            column: its raw name.
            asked_by: flag or config key that names it.

        Raises:
            DataError: it was not.
        """
        kept = [n.removeprefix(KEEP_PREFIX) for n in self._schema.names if n.startswith(KEEP_PREFIX)]
        if column not in kept:
            raise DataError(
                "the data set does not hold this column",
                where=f"{self._files.folder}: {asked_by} {column}",
                allowed=kept,
                fixes=[f"add {column} to data.keep and prepare again"],
            )

    @property
    def starts(self) -> NDArray[np.int64]:
        """Return the number of the first row of each row group, and the end of the last one."""
        sizes = [self._files.rows(group) for group in range(len(self._files.places))]
        return np.concatenate([[0], np.cumsum(np.array(sizes, np.int64))])

    def read(self, column: str, row_groups: Iterable[int]) -> Iterator[pa.Array]:
        """Yield a column's values in each of these row groups, nulls where one is skipped.

        Raises:
            DataError: a part file is damaged, or holds another type than the first.
            StoreError: the store cannot be read.
        """
        name, groups = KEEP_PREFIX + column, list(row_groups)
        kind = self._schema.field(name).type
        wanted = _KeptColumn(self._spec, ((name, type_name(kind)),))
        reader = RowGroupReader(self._files, wanted, coming=groups)
        try:
            for group in groups:
                yield self._chunk(reader, group, name, kind)
        finally:
            reader.close()

    def _chunk(self, reader: RowGroupReader, group: int, name: str, kind: pa.DataType) -> pa.Array:
        try:
            return reader.table(group).column(name).combine_chunks().cast(kind)
        except DamagedError:
            if self._files.policy.on_corrupt == "fail":
                raise
            return pa.nulls(self._files.rows(group), kind)

    def _any_schema(self) -> pa.Schema:
        """Return the schema of the first part file that can be read."""
        reader = RowGroupReader(self._files, _KeptColumn(self._spec))
        last = len(self._files.parts) - 1
        try:
            for number in range(last + 1):
                try:
                    return reader.schema(number)
                except DamagedError:
                    if self._files.policy.on_corrupt == "fail" or number == last:
                        raise
        finally:
            reader.close()
        raise AssertionError("a split with rows has part files")
