"""Columns as sorted distinct values with their counts: what every statistic of the report is made of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

# Tables up to this many rows are counted without hashing.
COUNTED_DIRECTLY = 1_000_000

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Counted:
    """Distinct values of a column.

    Attributes:
        values: sorted, each once.
        counts: how often each occurs, same length.
    """

    values: NDArray[Any]
    counts: Ints

    @cached_property
    def total(self) -> int:
        """Return how many values there are."""
        return int(self.counts.sum())

    @cached_property
    def cumulative(self) -> Ints:
        """Return how many values are at most each value."""
        return np.cumsum(self.counts)

    def at_most(self, points: NDArray[Any]) -> Ints:
        """Return how many values are at most each point."""
        return np.concatenate([[0], self.cumulative])[np.searchsorted(self.values, points, side="right")]

    def quantiles(self, shares: Floats) -> Floats:
        """Return the smallest values that the shares of all values do not exceed (inverse of the CDF)."""
        # Without the rounding, 0.1 * 30 would be more than 3.
        ranks = np.ceil(np.round(shares * self.total, 6)).astype(np.int64)
        places = np.searchsorted(self.cumulative, np.maximum(ranks, 1))
        return np.asarray(self.values[places], dtype=np.float64)

    def count_of(self, wanted: NDArray[Any]) -> Ints:
        """Return how often each of some values occurs."""
        if not len(self.values):
            return np.zeros(len(wanted), dtype=np.int64)
        places = np.minimum(np.searchsorted(self.values, wanted), len(self.values) - 1)
        return np.where(self.values[places] == wanted, self.counts[places], 0)


def count_values(values: NDArray[Any]) -> tuple[Counted, Ints]:
    """Count numbers, none of which is NaN.

    Returns:
        The distinct values, and for each number its place among them.
    """
    # Hashed, so that only distinct values are sorted. Adding 0 makes one zero of two, whose hashes differ.
    encoded = pa.array(values + 0).dictionary_encode()
    distinct, codes = encoded.dictionary.to_numpy(), encoded.indices.to_numpy()
    order = np.argsort(distinct)
    place_of = np.empty(len(order), dtype=np.int64)
    place_of[order] = np.arange(len(order))
    counts = np.bincount(codes, minlength=len(order))
    return Counted(distinct[order], counts[order].astype(np.int64)), place_of[codes]


def count_ids(ids: Ints, num_embeddings: int) -> tuple[Counted, Ints]:
    """Count ids, which lie between 0 and `num_embeddings - 1`; see `count_values`."""
    if num_embeddings > COUNTED_DIRECTLY:
        return count_values(ids)
    counts = np.bincount(ids, minlength=num_embeddings)
    values = np.flatnonzero(counts)
    places = np.zeros(num_embeddings, dtype=np.int64)
    places[values] = np.arange(len(values))
    return Counted(values.astype(np.int64), counts[values].astype(np.int64)), places[ids]


def order_fingerprint(places: Ints) -> bytes:
    """Return a digest of a column of numbers that is the same for every rising scale of its values.

    Args:
        places: of each row's value among the distinct ones.
    """
    return hashlib.blake2b(places.astype(np.int32).tobytes(), digest_size=16).digest()


def renaming_fingerprint(codes: Ints, num_codes: int, lengths: Ints | None = None) -> bytes:
    """Return a digest of a column of ids that is the same for every one-to-one renaming.

    Where most ids occur once, nearly every column is a renaming of every other one: there it is the same for
    equal ids alone.

    Args:
        codes: of the ids, 0 to `num_codes - 1`, in the order of the rows.
        num_codes: how many distinct ones there are.
        lengths: for lists, how many codes each row has.
    """
    named = codes.astype(np.int32)
    if 2 * num_codes <= len(codes):
        first = np.zeros(num_codes, dtype=np.int32)
        # The last write wins, so that each code keeps the place where it occurs first.
        first[codes[::-1]] = np.arange(len(codes), dtype=np.int32)[::-1]
        named = first[codes]
    digest = hashlib.blake2b(named.tobytes(), digest_size=16)
    if lengths is not None:
        digest.update(lengths.tobytes())
    return digest.digest()
