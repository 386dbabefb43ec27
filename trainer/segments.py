"""Values of a kept column as numbers: groups of rows, and the segments that metrics are broken down by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch.distributed as dist
import xxhash
from numpy.typing import NDArray

from trainer.row_store import world_size

NO_GROUP = np.iinfo(np.int64).min
"""Key of a row whose group is missing."""
OTHER = -1
"""Number of a segment that is not among the largest."""


def group_keys(values_N: pa.Array) -> NDArray[np.int64]:
    """Return a number for each value: integers as they are, others hashed to 64 bits, null `NO_GROUP`."""
    if pa.types.is_integer(values_N.type) and values_N.type != pa.uint64():
        return np.asarray(values_N.cast(pa.int64()).fill_null(int(NO_GROUP)))
    values, place_N = _distinct(values_N)
    return np.array([NO_GROUP if value is None else _hashed(value) for value in values], np.int64)[place_N]


class Segments:
    """Numbers the values of a column and counts their rows; nulls are a value of their own.

    Attributes:
        found: what `largest` returned.
    """

    def __init__(self) -> None:
        self.found: list[tuple[Any, int]] = []
        self._rows: dict[int, int] = {}
        self._values: dict[int, Any] = {}
        self._number: dict[int, int] = {}

    def keys(self, values_N: pa.Array, *, count: bool = True) -> NDArray[np.int64]:
        """Return a number of 64 bits for each value, and count these rows unless they are counted already."""
        if not _in_json(values_N.type):
            texts = [None if value is None else str(value) for value in values_N.to_pylist()]
            values_N = pa.array(texts, pa.string())
        values, place_N = _distinct(values_N)
        keys = np.array([_hashed(value) for value in values], np.int64)
        rows_of = np.bincount(place_N, minlength=len(values)).tolist() if count else []
        for key, value, rows in zip(keys.tolist(), values, rows_of, strict=count):
            self._values[key] = value
            self._rows[key] = self._rows.get(key, 0) + rows
        return keys[place_N]

    def largest(self, limit: int) -> list[tuple[Any, int]]:
        """Return the values of all ranks with most rows, and their rows; every rank calls this."""
        found: list[Any] = [(self._values, self._rows)]
        if world_size() > 1:
            found = [None] * world_size()
            dist.all_gather_object(found, (self._values, self._rows))
        values: dict[int, Any] = {}
        rows: dict[int, int] = {}
        for of_values, of_rows in found:
            values.update(of_values)
            for key, count in of_rows.items():
                rows[key] = rows.get(key, 0) + count
        biggest = sorted(rows, key=lambda key: (-rows[key], values[key] is None, str(values[key])))[:limit]
        self._number = {key: number for number, key in enumerate(biggest)}
        self.found = [(values[key], rows[key]) for key in biggest]
        return self.found

    def numbers(self, keys_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the place of each key's value among the largest, or `OTHER`."""
        distinct, place_N = np.unique(keys_N, return_inverse=True)
        numbers = np.array([self._number.get(key, OTHER) for key in distinct.tolist()], np.int64)
        return numbers[place_N]


def _distinct(values_N: pa.Array) -> tuple[list[Any], NDArray[np.int64]]:
    """Return the distinct values, and for each value its place among them."""
    encoded = values_N.dictionary_encode(null_encoding="encode")
    return encoded.dictionary.to_pylist(), np.asarray(encoded.indices).astype(np.int64)


def _hashed(value: Any) -> int:
    """Return 64 bits, with a sign, of a value and its type."""
    return xxhash.xxh3_64_intdigest(repr(value).encode()) - (1 << 63)


def _in_json(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return any(test(kind) for test in tests)
