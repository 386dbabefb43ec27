"""Which columns of a data set become which part of a batch, and the checks on their values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainer.errors import DataError
from trainer.records import TaskLabel
from trainer.schema import WEIGHT_COLUMN, Feature, FeatureSpec, Manifest

Floats = NDArray[np.float32]
Ids = NDArray[Any]  # int32 or int64
Offsets = NDArray[np.int64]

_PREPARE_AGAIN = "prepare the data set again"


@dataclass(frozen=True)
class Jagged:
    """Lists of ids: row i holds `values[offsets[i]:offsets[i + 1]]`; `offsets[0]` need not be 0."""

    values: Ids
    offsets: Offsets


@dataclass(frozen=True)
class Columns:
    """The columns that a reader loads; all others stay on disk.

    Attributes:
        spec: feature spec of the data set.
    """

    spec: FeatureSpec

    @cached_property
    def dense(self) -> tuple[Feature, ...]:
        """Return the dense features, in the order of `Batch.dense_BF`, where vectors follow them."""
        return self.spec.dense

    @cached_property
    def dense_width(self) -> int:
        """Return the columns of `Batch.dense_BF` that dense features take."""
        return sum(feature.dim or 1 for feature in self.dense)

    @cached_property
    def single(self) -> tuple[Feature, ...]:
        """Return the features of exactly one id per row: those of `Batch.sparse`, then those of vectors."""
        return tuple(f for f in (*self.spec.sparse, *self.spec.vectors) if not f.is_list)

    @cached_property
    def lists(self) -> tuple[Feature, ...]:
        """Return the features of any number of ids per row."""
        return tuple(feature for feature in self.spec.sparse if feature.is_list)

    @cached_property
    def keys(self) -> list[str]:
        """Return the keys of `Batch.sparse`."""
        return [feature.name for feature in self.spec.sparse]

    @cached_property
    def types(self) -> dict[str, str]:
        """Return the Parquet column names with their types: `float`, `int64`, or `list<...>` of one."""
        types = {f.name: "float" if f.dim is None else "list<float>" for f in self.dense}
        types |= {f.name: "list<int64>" if f.is_list else "int64" for f in (*self.single, *self.lists)}
        types |= dict.fromkeys(self.spec.label_columns, "float")
        if self.spec.weight is not None:
            types[WEIGHT_COLUMN] = "float"
        return types

    @cached_property
    def id_dtype(self) -> type[np.signedinteger[Any]]:
        """Return the type that ids are held in before they reach a batch; int32 halves the memory."""
        largest = max((f.num_embeddings or 0 for f in (*self.single, *self.lists)), default=0)
        return np.int32 if largest <= 2**31 else np.int64

    def bytes_per_row(self, manifest: Manifest) -> int:
        """Return the memory of one decoded row; lists count with their mean length."""
        width = np.dtype(self.id_dtype).itemsize
        total = 4.0 * self.dense_width + width * len(self.single) + 12 + 4 * len(self.spec.tasks)
        for feature in self.lists:
            statistics = manifest.statistics.get(feature.name)
            total += 8 + width * (statistics.mean_length if statistics else 1.0)
        return round(total)


def type_name(kind: pa.DataType) -> str:
    """Return an Arrow type in the words of `Columns.types`."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{type_name(kind.value_type)}>"
    return str(kind)


class DecodedRows:
    """The columns of some rows as numpy arrays, every value checked.

    Args:
        columns: what to expect.
        get: returns a column's Arrow array by name.
        where: names the file and row group in errors.
    """

    def __init__(self, columns: Columns, get: Callable[[str], pa.Array], where: str) -> None:
        self._where = where
        self._get = get
        self.dense = [self._dense(feature) for feature in columns.dense]
        self.single = [self._single(feature) for feature in columns.single]
        self.lists = [self._list(feature) for feature in columns.lists]
        labels = zip(columns.spec.label_columns, columns.spec.tasks, strict=True)
        self.labels = np.stack([self._label(name, task) for name, task in labels], axis=1)
        self.weights = self._weights() if columns.spec.weight is not None else None

    def _floats(self, name: str) -> Floats:
        return self._finite(name, self._without_nulls(name, self._get(name)))

    def _finite(self, name: str, array: pa.Array) -> Floats:
        values: Floats = array.to_numpy(zero_copy_only=False)
        # One pass in the usual case: the sum is finite only where every value is (or it overflows).
        with np.errstate(over="ignore", invalid="ignore"):
            suspicious = not np.isfinite(values.sum())
        if suspicious:
            self._refuse(name, values, ~np.isfinite(values), "a finite number")
        return values

    def _dense(self, feature: Feature) -> Floats:
        if feature.dim is None:
            return self._floats(feature.name)
        inner, offsets = self._inner(feature.name)
        wrong = np.diff(offsets) != feature.dim
        self._refuse(feature.name, np.diff(offsets), wrong, f"lists of {feature.dim} numbers")
        return self._finite(feature.name, inner).reshape(-1, feature.dim)

    def _label(self, name: str, task: TaskLabel) -> Floats:
        """Return a task's label, NaN for rows that do not count for it."""
        array = self._get(name) if task.may_be_unknown else self._without_nulls(name, self._get(name))
        values: Floats = array.to_numpy(zero_copy_only=False)
        unknown = np.isnan(values) & task.may_be_unknown
        if task.is_rating:
            self._refuse(name, values, ~(np.isfinite(values) | unknown), "a finite number")
        else:
            self._refuse(name, values, ~((values == 0) | (values == 1) | unknown), "0 or 1")
        return values

    def _weights(self) -> Floats:
        values = self._floats(WEIGHT_COLUMN)
        self._refuse(WEIGHT_COLUMN, values, values < 0, "a finite number >= 0")
        return values

    def _single(self, feature: Feature) -> Ids:
        array = self._without_nulls(feature.name, self._get(feature.name))
        return self._ids(feature, array.to_numpy(zero_copy_only=False))

    def _list(self, feature: Feature) -> Jagged:
        inner, offsets = self._inner(feature.name)
        values = inner.to_numpy(zero_copy_only=False)
        return Jagged(self._ids(feature, values), offsets - offsets[0])

    def _inner(self, name: str) -> tuple[pa.Array, Offsets]:
        """Return the values of all lists of a column, and the offsets as they are stored."""
        array = self._without_nulls(name, self._get(name))
        offsets = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
        self._check_offsets(name, offsets, len(array.values))
        inner = array.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
        return self._without_nulls(name, inner), offsets

    def _check_offsets(self, name: str, offsets: Offsets, size: int) -> None:
        """Check that the lists lie one behind the other in their `size` values: nothing else looks."""
        if (np.diff(offsets, prepend=0) < 0).any() or offsets[-1] > size:
            lengths = np.diff(offsets)
            wrong = int(np.argmax((lengths < 0) | (offsets[:-1] < 0) | (offsets[1:] > size)))
            raise DataError(
                "a list of a prepared column has no possible length",
                where=f"{self._where}, column {name!r}, list number {wrong}",
                got=f"from {offsets[wrong]} to {offsets[wrong + 1]} of {size} values",
                fixes=[_PREPARE_AGAIN],
            )

    def _ids(self, feature: Feature, values: Ids) -> Ids:
        assert feature.num_embeddings is not None
        last = feature.num_embeddings - 1
        if len(values) and (values.min() < 0 or values.max() > last):
            wrong = (values < 0) | (values > last)
            self._refuse(feature.name, values, wrong, f"0 to num_embeddings - 1 = {last}")
        return values

    def _without_nulls(self, name: str, array: pa.Array) -> pa.Array:
        if array.null_count:
            raise DataError(
                "a prepared column holds nulls",
                where=f"{self._where}, column {name!r}",
                got=f"{array.null_count} nulls",
                allowed="no nulls: missing ids are 0, missing lists empty, missing numbers filled",
                fixes=[_PREPARE_AGAIN],
            )
        return array

    def _refuse(self, name: str, values: NDArray[Any], wrong: NDArray[np.bool_], allowed: str) -> None:
        if not wrong.any():
            return
        first = int(np.argmax(wrong))
        raise DataError(
            "a prepared column holds a value that cannot be used",
            where=f"{self._where}, column {name!r}, value number {first}",
            got=f"{values[first]} (and {int(wrong.sum()) - 1} more like it)",
            allowed=allowed,
            fixes=[_PREPARE_AGAIN],
        )
