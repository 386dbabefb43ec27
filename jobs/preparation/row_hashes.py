"""Two 64-bit hashes of every raw row, the same from Spark and from Arrow: they deal and order the rows.

A row's hash is the exclusive or of one hash per column: XXH64 of the value, seeded with that of the column's
name, as Spark's `xxhash64(name, value)` gives it. That passes over nulls, so a list that is empty or holds
some has another hash beside, of their places.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray
from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.columns import HASH, ORDER
from trainer.features.hashing import SPARK_SEED
from trainer.features.raw_values import with_nulls_uncovered

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

Hashes = NDArray[np.uint64]

_P1, _P2, _P3, _P4, _P5 = (
    np.uint64(p)
    for p in (
        0x9E3779B185EBCA87,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0x85EBCA77C2B2AE63,
        0x27D4EB2F165667C5,
    )
)
_NULLS = "nulls"
# Numbers hashed at once: they stay in the processor's cache.
_BLOCK = 65_536


def with_row_hashes(frame: DataFrame, names: list[str], seed: int) -> DataFrame:
    """Add two 64-bit hashes of the whole raw row: one deals it into a split, one orders it.

    They depend on the values alone: not on partitions, cores, or the order of rows and columns. Equal rows
    share both hashes, hence their split, and their order among themselves means nothing.
    """
    parts: list[Column] = [F.lit(0).cast("bigint")]
    parts += [F.xxhash64(F.lit(name), C.value_to_hash(frame, name)) for name in names]
    places = [(name, found) for name in names if (found := C.null_places(frame, name)) is not None]
    parts += [
        F.when(found.isNotNull(), F.xxhash64(F.lit(_NULLS), F.lit(name), found)).otherwise(F.lit(0))
        for name, found in places
    ]
    row = reduce(lambda a, b: a.bitwiseXOR(b), parts)
    return frame.withColumns(
        {
            HASH: F.xxhash64(F.lit(seed), F.lit("split"), row),
            ORDER: F.xxhash64(F.lit(seed), F.lit("order"), row),
        }
    )


def row_hashes(columns: Mapping[str, pa.Array], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what `with_row_hashes` adds, `HASH` and `ORDER`, int64 [N].

    Args:
        columns: all columns of N rows, of types that `hashable` takes.
        seed: of the split.
    """
    row = np.zeros(len(next(iter(columns.values()))), dtype=np.uint64)
    for name, values in columns.items():
        row ^= _column(values, text_seed(name))
        if pa.types.is_list(values.type):
            row ^= _null_hashes(values, text_seed(name, text_seed(_NULLS)))
    return tuple(_longs(row, np.uint64(s)).view(np.int64) for s in _seeds(seed))  # type: ignore[return-value]


def _seeds(seed: int) -> tuple[int, int]:
    start = int(_ints(np.array([seed]), np.uint64(SPARK_SEED))[0])
    return text_seed("split", start), text_seed("order", start)


def text_seed(text: str, seed: int = SPARK_SEED) -> int:
    """Return the hash of a text, which seeds the next one in a row of values."""
    return xxhash.xxh64_intdigest(text.encode(), seed=seed)


def hashable(kind: pa.DataType) -> bool:
    """Return whether `row_hashes` takes a type: Spark reads it, and hashes it as this module does."""
    if pa.types.is_list(kind):
        return not pa.types.is_list(kind.value_type) and hashable(kind.value_type)
    plain = pa.types.is_signed_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_date32(kind)
    fractional = pa.types.is_float32(kind) or pa.types.is_float64(kind)
    return bool(plain or fractional or pa.types.is_string(kind) or kind in _TIMES)


_TIMES = (pa.timestamp("us"), pa.timestamp("us", "UTC"))


def _column(values: pa.Array, seed: int) -> Hashes:
    if pa.types.is_list(values.type):
        return _lists(values, seed)
    hashes = _values(values, np.uint64(seed))
    if values.null_count:
        np.putmask(hashes, values.is_null().to_numpy(zero_copy_only=False), np.uint64(seed))  # as Spark does
    return hashes


def _values(values: pa.Array, seed: Hashes | np.uint64) -> Hashes:
    """Return the hash of each value; what stands for nulls means nothing."""
    kind = values.type
    if pa.types.is_string(kind):
        return _texts(values, seed)
    if pa.types.is_temporal(kind):
        values = values.view(pa.int64() if kind.bit_width == 64 else pa.int32())
    if pa.types.is_boolean(kind):
        return _ints(pc.fill_null(values, False).to_numpy(zero_copy_only=False), seed)
    values = with_nulls_uncovered(values)
    if pa.types.is_float32(kind) or pa.types.is_float64(kind):
        x = values.to_numpy(zero_copy_only=False) + 0.0  # of -0.0 makes 0.0
        x[np.isnan(x)] = np.nan
        return _ints(x.view(np.int32), seed) if x.itemsize == 4 else _longs(x.view(np.uint64), seed)
    whole = (
        values.view(pa.int64() if kind.bit_width == 64 else pa.int32()) if kind.bit_width >= 32 else values
    )
    x = whole.to_numpy(zero_copy_only=False)
    return _longs(x.view(np.uint64), seed) if kind.bit_width == 64 else _ints(x, seed)


def _texts(values: pa.Array, seed: Hashes | np.uint64) -> Hashes:
    if isinstance(seed, np.ndarray):
        pairs = zip(values.cast(pa.binary()).to_pylist(), seed.tolist(), strict=True)
        return np.array([xxhash.xxh64_intdigest(text or b"", seed=s) for text, s in pairs], np.uint64)
    found = values.dictionary_encode()
    codes = pc.fill_null(found.indices, 0).to_numpy(zero_copy_only=False)
    distinct = found.dictionary.cast(pa.binary()).to_pylist()
    own = int(seed)
    hashes = np.array([xxhash.xxh64_intdigest(text, seed=own) for text in distinct], np.uint64)
    return hashes[codes] if len(hashes) else np.zeros(len(values), np.uint64)


def _lists(lists: pa.Array, seed: int) -> Hashes:
    """Hash the values of each list one after another, each seeded with the hash before it."""
    starts, lengths = _spans(lists)
    values = lists.values
    hashes = np.full(len(lists), seed, dtype=np.uint64)
    for place in range(int(lengths.max(initial=0))):
        rows = np.flatnonzero(lengths > place)
        chosen = values.take(pa.array(starts[rows] + place))
        there = chosen.is_valid().to_numpy(zero_copy_only=False)
        rows, chosen = rows[there], chosen.drop_null()
        hashes[rows] = _values(chosen, hashes[rows])
    return hashes


def _null_hashes(lists: pa.Array, seed: int) -> Hashes:
    """Return the hash of the places of nulls of each list, 0 for null and for lists of values alone."""
    starts, lengths = _spans(lists)
    values = lists.values
    hashes = np.zeros(len(lists), dtype=np.uint64)
    hashes[(lengths == 0) & lists.is_valid().to_numpy(zero_copy_only=False)] = text_seed("", seed)
    if not values.null_count:
        return hashes
    null = ~values.is_valid().to_numpy(zero_copy_only=False)
    before = np.concatenate([[0], np.cumsum(null)])
    for row in np.flatnonzero(before[starts + lengths] > before[starts]).tolist():
        places = np.flatnonzero(null[starts[row] : starts[row] + lengths[row]])
        hashes[row] = text_seed(",".join(map(str, places)), seed)
    return hashes


def _spans(lists: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each list begins among the values of all, and its length, 0 for null."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return lists.offsets.to_numpy(zero_copy_only=False)[:-1].astype(np.int64), lengths.astype(np.int64)


def _longs(x: NDArray[Any], seed: Hashes | np.uint64) -> Hashes:
    """Return XXH64 of the 8 bytes of each number."""
    return _blocks(x, seed, _long_block)


def _ints(x: NDArray[Any], seed: Hashes | np.uint64) -> Hashes:
    """Return XXH64 of the 4 bytes of each number."""
    return _blocks(x, seed, _int_block)


def _blocks(x: NDArray[Any], seed: Hashes | np.uint64, function: Any) -> Hashes:
    made = np.empty(len(x), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for start in range(0, len(x), _BLOCK):
            part = slice(start, start + _BLOCK)
            function(x[part], seed[part] if isinstance(seed, np.ndarray) else seed, made[part])
    return made


def _long_block(x: NDArray[np.uint64], seed: Any, h: Hashes) -> None:
    np.multiply(x, _P2, out=h)
    _rotate(h, 31)
    h *= _P1
    h ^= seed + (_P5 + np.uint64(8))
    _rotate(h, 27)
    h *= _P1
    h += _P4
    _finish(h)


def _int_block(x: NDArray[Any], seed: Any, h: Hashes) -> None:
    h[:] = x.astype(np.int32).view(np.uint32)
    h *= _P1
    h ^= seed + (_P5 + np.uint64(4))
    _rotate(h, 23)
    h *= _P2
    h += _P3
    _finish(h)


def _rotate(h: Hashes, bits: int) -> None:
    high = h << np.uint64(bits)
    h >>= np.uint64(64 - bits)
    h |= high


def _finish(h: Hashes) -> None:
    h ^= h >> np.uint64(33)
    h *= _P2
    h ^= h >> np.uint64(29)
    h *= _P3
    h ^= h >> np.uint64(32)
