"""What is made of rows in the order of id and time, batch by batch, and carried from batch to batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """Rows in the order of id and time, and where in this batch their id and moment begin.

    Attributes:
        inputs: arrays of N values by name.
        known_N: whether the row has an id.
        key_start_N: index of the first row of the row's id, -1 where the id goes on from the batch before.
        moment_start_N: the same for rows of one id and time.
    """

    inputs: Mapping[str, pa.Array]
    known_N: NDArray[np.bool_]
    key_start_N: NDArray[np.int64]
    moment_start_N: NDArray[np.int64]


class Kernel(Protocol):
    """Makes values of rows; one kernel sees batches in order, and carries what later rows need."""

    def __call__(self, batch: Batch) -> pa.Array:
        """Return N values of N rows."""

    def state(self) -> Any:
        """Return what rows after the last one need, if they have its id; picklable."""

    def absorb(self, state: Any) -> None:
        """Take in the rows behind a state, which are later ones of the last row's id."""


def marks(
    key: pa.Array, time: pa.Array, last: tuple[pa.Array, pa.Array] | None
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Return `known_N`, `key_start_N` and `moment_start_N` of a batch."""
    known = as_numpy(pc.is_valid(key))
    last_key, last_time = last or (None, None)
    # Rows without an id have nothing to do with each other.
    new_key = ~known | changes(key, last_key)
    return known, starts(new_key), starts(new_key | changes(time, last_time))


def changes(values: pa.Array, last: pa.Array | None) -> NDArray[np.bool_]:
    """Return where a value is not the one before; `last` is that before the first, as an array of one."""
    before = pa.concat_arrays([pa.nulls(1, values.type) if last is None else last, values[:-1]])
    gone = as_numpy(pc.is_null(values)) != as_numpy(pc.is_null(before))
    found: NDArray[np.bool_] = as_numpy(pc.fill_null(pc.not_equal(values, before), False)) | gone
    return found


def starts(new_N: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for each row the last place up to it where something new began, -1 where there is none."""
    return np.maximum.accumulate(np.where(new_N, np.arange(len(new_N)), -1))


def as_numpy(array: pa.Array) -> NDArray[Any]:
    """Return the values as numpy has them."""
    return np.asarray(array.to_numpy(zero_copy_only=False))


@dataclass(frozen=True)
class Events:
    """Where each row's earlier events lie among all events in order: those carried over, then the batch's.

    Attributes:
        counts_N: whether the row is an event.
        total: number of events.
        first_N: place of the first event of the row's id.
        end_N: place behind the last earlier event of the row's id.
    """

    counts_N: NDArray[np.bool_]
    total: int
    first_N: NDArray[np.int64]
    end_N: NDArray[np.int64]


def events(batch: Batch, carried: int, earlier: int, moment_start_N: NDArray[np.int64]) -> Events:
    """Find each row's earlier events.

    Args:
        batch: with the input `counts`.
        carried: events carried over from the batch before.
        earlier: of them, those earlier than the moment that goes on from the batch before.
        moment_start_N: row from which on nothing is earlier, -1 for one of the batch before.
    """
    counts = as_numpy(pc.fill_null(batch.inputs["counts"], False)) & batch.known_N
    place = carried + np.cumsum(counts) - counts
    first = np.where(batch.key_start_N < 0, 0, place[batch.key_start_N])
    end = np.where(moment_start_N < 0, earlier, place[moment_start_N])
    return Events(counts, carried + int(counts.sum()), first, end)
