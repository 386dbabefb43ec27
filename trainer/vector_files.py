"""Files of vectors with raw ids, read a batch at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from trainer.config.plan import PretrainedConfig
from trainer.errors import DataError
from trainer.features.number_lists import number_lists
from trainer.features.raw_values import one_array
from trainer.storage import Place, as_place, attempt, file_system, local_copy

_BATCH_BYTES = 1 << 24


@dataclass(frozen=True)
class VectorFile:
    """Vectors by raw id.

    Attributes:
        config: place and columns.
        dim: length that the vectors must have.
        where: key path of the table's setting, for errors.
    """

    config: PretrainedConfig
    dim: int
    where: str

    def batches(self) -> Iterator[tuple[pa.Array, NDArray[np.float32]]]:
        """Yield raw ids and vectors [N, dim], some MiB at a time and a row group of Parquet in memory.

        Raises:
            DataError: the file is missing or damaged, lacks a column, or holds a missing id or a vector of
                another length or of other things than finite numbers; with one of the ids.
            StoreError: the store cannot be read.
        """
        place = as_place(self.config.path)
        rows = max(1, _BATCH_BYTES // (8 * self.dim))
        try:
            if self.config.by_row_number:
                yield from self._of_array(place, rows)
            else:
                for table in self._tables(place):
                    for batch in table.to_batches(max_chunksize=rows):
                        yield self._checked(*map(one_array, batch.columns))
        except FileNotFoundError as error:
            raise self._error("there is no such file of vectors", got=self.config.path) from error
        except (OSError, ValueError, EOFError) as error:  # Arrow's errors are ValueErrors.
            raise self._error(
                "the file of vectors cannot be read: it is damaged or of another format",
                got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            ) from error

    def _tables(self, place: Place) -> Iterator[pa.Table]:
        """Yield id and vector columns of each row group."""

        def opened() -> list[Any]:
            filesystem, path = file_system(place)
            if not filesystem.get_file_info(path).type.value:
                raise FileNotFoundError(path)
            dataset = ds.dataset(path, filesystem=filesystem, format="parquet")
            self._check_columns(dataset.schema)
            return [group for file in dataset.get_fragments() for group in file.split_by_row_group()]

        columns = [self.config.id_column, self.config.vector_column]
        for group in attempt(place, opened):
            yield attempt(place, partial(group.to_table, columns=columns))

    def _check_columns(self, schema: pa.Schema) -> None:
        for key in ("id_column", "vector_column"):
            name = getattr(self.config, key)
            if name not in schema.names:
                raise DataError(
                    "the file of vectors lacks a column",
                    where=f"{self.where}.{key}",
                    got=name,
                    allowed=schema.names,
                )

    def _checked(self, ids: pa.Array, lists: pa.Array) -> tuple[pa.Array, NDArray[np.float32]]:
        if ids.null_count:
            raise self._error("a vector of the file has no id", got=f"{ids.null_count} of {len(ids)} rows")
        column = self.config.vector_column or ""
        values_ND, _, lengths_N = number_lists(lists, column, self.dim, where=f"{self.where}.vector_column")
        if lengths_N is not None:
            row = int(np.argmax(lengths_N != self.dim))
            raise self._other_width(int(lengths_N[row]), ids[row].as_py())
        return ids, self._finite(ids, values_ND)

    def _of_array(self, place: Place, rows: int) -> Iterator[tuple[pa.Array, NDArray[np.float32]]]:
        with tempfile.TemporaryDirectory() as folder:
            values = np.load(local_copy(place, Path(folder)), mmap_mode="r", allow_pickle=False)
            if values.ndim != 2 or values.dtype.kind not in "fiu":
                raise self._error(
                    "the file must hold one vector in each row",
                    got=f"{values.dtype} {list(values.shape)}",
                    allowed="numbers [ids, columns]",
                )
            if values.shape[1] != self.dim:
                raise self._other_width(values.shape[1], 0)
            for start in range(0, len(values), rows):
                part = np.asarray(values[start : start + rows])
                ids = pa.array(np.arange(start, start + len(part)))
                yield ids, self._finite(ids, part)

    def _finite(self, ids: pa.Array, values_ND: NDArray[Any]) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):  # What is too large becomes infinite.
            made: NDArray[np.float32] = values_ND.astype(np.float32)
        good_N = np.isfinite(made).all(axis=1)
        if not good_N.all():
            raise self._error(
                "a vector of the file holds something else than finite 32-bit numbers",
                got=f"id {ids[int(np.argmin(good_N))].as_py()!r}",
            )
        return made

    def _other_width(self, got: int, example: object) -> DataError:
        table = self.where.split(".")[1]
        return DataError(
            "the vectors have another length than the rows of the table",
            where=f"{self.where}: {self.config.path}, id {example!r}",
            got=got,
            allowed=self.dim,
            fixes=[f"tables.{table}.embedding_dim: {got}"],
        )

    def _error(self, what: str, got: object, allowed: object = None) -> DataError:
        return DataError(what, where=f"{self.where}: {self.config.path}", got=got, allowed=allowed)
