"""Vocabularies in memory: from a text to its id, thousands at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from trainer.features.values import Codes

UNKNOWN = -1
# Values from which on the hash table is faster.
_FEW = 256
# Text that is the usual form of a 64-bit integer: no sign but minus, no leading zero.
INTEGER = "^(0|-?[1-9][0-9]{0,17})$"
_MOST_DIGITS = 18


@dataclass(frozen=True)
class Vocabulary:
    """Values and their ids: about 50 bytes per value beside its text.

    A vocabulary of whole numbers is searched by the numbers themselves, any other by a 64-bit hash of the
    text; texts are compared, so that equal hashes do no harm. Few values are found by binary search, many
    through a hash table; what either needs is made when it is first needed.

    Attributes:
        keys: numbers, or sorted hashes.
        ids: int64, in the order of `keys`.
        texts: Arrow array of text in the order of `keys`; None where the keys are the numbers.
        longest_run: most keys that are equal; 1 but for collisions.
    """

    keys: NDArray[Any]
    ids: Codes
    texts: pa.Array | None
    longest_run: int = 1

    @classmethod
    def of(cls, values: pa.Array, ids: Codes) -> Vocabulary:
        """Return the vocabulary of some distinct texts (Arrow array) and their ids."""
        if len(values) and _all_numbers(values):
            return cls(values.cast(pa.int64()).to_numpy(zero_copy_only=False), ids, None)
        hashes = _hashes(values)
        order = np.argsort(hashes, kind="stable")
        keys = hashes[order]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        run = int(np.diff(np.append(starts, len(keys))).max(initial=1))
        return cls(keys, ids[order], values.take(pa.array(order)), run)

    def ids_of(self, values: pa.Array) -> Codes:
        """Return the id of each value (Arrow array of text or int64), `UNKNOWN` where it has none."""
        if self.texts is None:
            numbers, known = _numbers(values)
            ids = self.ids_of_numbers(numbers)
            return ids if known is None else np.where(known, ids, UNKNOWN)
        texts = values if pa.types.is_string(values.type) else values.cast(pa.string())
        hashes = _hashes(texts)
        found = np.full(len(texts), UNKNOWN, dtype=np.int64)
        first = self._places(hashes)
        for step in range(self.longest_run):
            place = np.minimum(first + step, len(self.keys) - 1)
            rows = np.flatnonzero((found == UNKNOWN) & (self.keys[place] == hashes))
            if len(rows) == 0:
                break
            same = pc.equal(self.texts.take(pa.array(place[rows])), texts.take(pa.array(rows)))
            hits = rows[same.to_numpy(zero_copy_only=False)]
            found[hits] = self.ids[place[hits]]
        return found

    def ids_of_numbers(self, numbers: NDArray[np.int64], unknown: int = UNKNOWN) -> Codes:
        """Return the id of each number, `unknown` where it has none; `texts` must be None."""
        if len(numbers) < _FEW:
            keys, ids = self._sorted
            place = np.minimum(np.searchsorted(keys, numbers), len(keys) - 1)
            return np.where(keys[place] == numbers, ids[place], unknown)
        places = self._table.get_indexer(numbers)  # -1 of what it lacks
        # A sum saves reading the ids from all over memory.
        found: Codes = places + self.ids[0] if self._rises else self.ids[places]
        if not self._rises or unknown != self.ids[0] - 1:
            np.putmask(found, places < 0, unknown)
        return found

    def _places(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return where the first of each hash stands, or any place where there is none."""
        if len(hashes) < _FEW or self.longest_run > 1:
            return np.searchsorted(self.keys, hashes)
        places: NDArray[np.int64] = self._table.get_indexer(hashes)
        return places

    @cached_property
    def _sorted(self) -> tuple[NDArray[Any], Codes]:
        order = np.argsort(self.keys)
        return self.keys[order], self.ids[order]

    @cached_property
    def _table(self) -> Any:
        return pd.Index(self.keys)

    @cached_property
    def _rises(self) -> bool:
        return bool((np.diff(self.ids) == 1).all())


@dataclass(frozen=True)
class EmptyVocabulary(Vocabulary):
    """A vocabulary without values, of a column that was missing in every training row."""

    def ids_of(self, values: pa.Array) -> Codes:
        """Return `UNKNOWN` for each value."""
        return np.full(len(values), UNKNOWN, dtype=np.int64)

    def ids_of_numbers(self, numbers: NDArray[np.int64], unknown: int = UNKNOWN) -> Codes:
        """Return `unknown` for each number."""
        return np.full(len(numbers), unknown, dtype=np.int64)


def _all_numbers(values: pa.Array) -> bool:
    """Return whether `INTEGER` matches all values; without a minus that is told in a fraction of the time."""
    length = pc.binary_length(values)
    zero_first = pc.and_(pc.starts_with(values, "0"), pc.greater(length, 1))
    plain = pc.and_(pc.ascii_is_decimal(values), pc.less_equal(length, _MOST_DIGITS))
    if bool(pc.all(pc.and_not(plain, zero_first)).as_py()):
        return True
    return bool(pc.all(pc.match_substring_regex(values, INTEGER)).as_py())


def _numbers(values: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Return whole numbers, and which of the values are some (None: all)."""
    if pa.types.is_integer(values.type):
        return values.to_numpy(zero_copy_only=False), None
    known = pc.match_substring_regex(values, INTEGER).to_numpy(zero_copy_only=False)
    plain = pc.if_else(pa.array(known), values, pa.scalar("0"))
    return plain.cast(pa.int64()).to_numpy(zero_copy_only=False), known


def _hashes(texts: pa.Array) -> NDArray[np.uint64]:
    objects = texts.to_numpy(zero_copy_only=False)
    hashes: NDArray[np.uint64] = pd.util.hash_array(objects, categorize=False)
    return hashes


def read_vocabulary(folder: Path, most: int | None = None) -> Vocabulary:
    """Read a vocabulary folder (Parquet parts with the columns `value`, `id`, `count`).

    Args:
        folder: its parts are in the order of the ids.
        most: read so many of the first values; default all.
    """
    rows = ds.dataset(folder, format="parquet")
    columns = ["value", "id"]
    table = rows.to_table(columns=columns) if most is None else rows.head(most, columns=columns)
    table = table.combine_chunks()
    if table.num_rows == 0:
        return EmptyVocabulary(np.empty(0, np.int64), np.empty(0, np.int64), None)
    values = table["value"].cast(pa.string())
    ids = table["id"].to_numpy()
    return Vocabulary.of(pa.concat_arrays(values.chunks), ids)


@lru_cache(maxsize=1)
def read_most_frequent(
    dataset: Path, folders: frozenset[tuple[str, str | None]], size: int
) -> Mapping[str, Vocabulary]:
    """Read the `size` most frequent values of each vocabulary of a data set; see `read_vocabularies`."""
    return {folder: read_vocabulary(dataset / folder, size) for folder, _ in folders}


@lru_cache(maxsize=1)
def read_vocabularies(dataset: Path, folders: frozenset[tuple[str, str | None]]) -> Mapping[str, Vocabulary]:
    """Read the vocabularies of a data set, by folder; the last ones stay in memory for the next task.

    Args:
        dataset: its folder.
        folders: inside it, each with the hash of the vocabulary, which tells a data set that was made anew.
    """
    return {folder: read_vocabulary(dataset / folder) for folder, _ in folders}
