"""Rows of an evaluation on all ranks, in any order that is asked for, however many there are.

A rank holds a part of its rows in memory and the others in temporary files. To bring all rows in an order,
each part is sorted, the ranks agree where to cut the order into ranges of bounded size, and rank r receives
ranges r, r + world_size, ... from all ranks, one at a time. So no rank ever holds more than a few parts'
worth of rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from trainer.data.kept import KeptColumns
from trainer.errors import DataError

Rows = NDArray[np.void]
"""Structured array with the fields of a `RowStore`."""
Block = TypeVar("Block")
ROWS_IN_MEMORY = 1 << 20
_FIELDS = [("row", np.int64), ("place", np.uint32), ("score", np.float32)]
_FIELDS += [("label", np.float32), ("weight", np.float32)]
_LEAST_SAMPLES = 64


class RowStore:
    """This rank's rows, with fields `row`, `place`, `score`, `label`, `weight`, and int64 ones of one's own.

    `place` orders rows by falling score, NaN last.

    Args:
        fields: further int64 fields, which are 0 at first.
        device: where ranks exchange tensors.
        rows_in_memory: rows of a part. Parts beyond the first lie in the folder for temporary files; ranges
            have no more than twice as many rows, but for a run of rows that must not be cut.
    """

    def __init__(
        self, fields: Sequence[str], device: torch.device, rows_in_memory: int | None = None
    ) -> None:
        self.dtype = np.dtype([*_FIELDS, *((field, np.int64) for field in fields)])
        self._device = device
        self._limit = ROWS_IN_MEMORY if rows_in_memory is None else rows_in_memory
        self._waiting: list[Rows] = []
        self._first = np.zeros(0, self.dtype)
        # Of the parts; all but the first lie in the file, one behind the other.
        self._sizes: list[int] = []
        self._file: IO[bytes] | None = None

    def add(
        self,
        rows_N: NDArray[np.int64],
        scores_N: NDArray[np.float32],
        labels_N: NDArray[np.float32],
        weights_N: NDArray[np.float32],
    ) -> None:
        """Add rows of this rank; all of them before any order is asked for."""
        block = np.zeros(len(rows_N), self.dtype)
        block["row"], block["label"], block["weight"] = rows_N, labels_N, weights_N
        block["score"], block["place"] = scores_N, _place(scores_N)
        self._waiting.append(block)
        if sum(map(len, self._waiting)) >= self._limit:
            self._end_part()

    def parts(self) -> Iterator[Rows]:
        """Yield this rank's rows part by part; what is changed in place stays."""
        if self._waiting:
            self._end_part()
        for number in range(len(self._sizes)):
            part = self._read(number)
            yield part
            self._write(number, part)

    def fill(
        self,
        field: str,
        kept: KeptColumns,
        column: str,
        keys_of: Callable[[pa.Array], NDArray[np.int64]],
    ) -> None:
        """Set a field of this rank's rows from a kept column.

        Args:
            field: the field.
            kept: columns of the split.
            column: the column's raw name.
            keys_of: what makes the field's numbers of values.

        Raises:
            DataError: the column cannot be read.
        """
        starts = kept.starts
        for part in self.parts():
            part[:] = part[np.argsort(part["row"], kind="stable")]
            rows_N = np.ascontiguousarray(part["row"])
            bounds = np.searchsorted(rows_N, starts)
            groups = np.flatnonzero(np.diff(bounds))
            for group, values in zip(groups, kept.read(column, groups.tolist()), strict=True):
                here = slice(bounds[group], bounds[group + 1])
                part[field][here] = keys_of(values.take(pa.array(rows_N[here] - starts[group])))

    def in_order(
        self, keys: Sequence[str], *, uncut: int | None = None, leave_out: int | None = None
    ) -> Iterator[Rows]:
        """Yield the ranges of all ranks' rows that this rank receives; every rank calls this.

        Args:
            keys: fields that rows are sorted by, the most important one first; together they tell rows apart.
            uncut: rows that agree in so many of the first keys are in one range; default all keys.
            leave_out: rows without a larger value of the first key are left out.

        Yields:
            Sorted rows, on every rank equally often; round i on rank r is range `i * world_size + r`. Where
            ranges run out they are empty.
        """
        begins: list[int] = []
        samples = [np.zeros(0, self.dtype)[list(keys)]]
        step = self._sample_step()
        for part in self.parts():
            part[:] = part[_order(part, keys)]
            begin = 0 if leave_out is None else int(np.searchsorted(part[keys[0]], leave_out, side="right"))
            begins.append(begin)
            samples.append(part[list(keys)][begin::step].copy())
        cuts = self._cuts(samples, step)
        if uncut is not None:
            cuts = np.unique(cuts[list(keys[:uncut])])
        ends = [
            [begin, *_positions(part, cuts), len(part)]
            for begin, part in zip(begins, map(self._read, range(len(begins))), strict=True)
        ]
        world, ranges = world_size(), len(cuts) + 1
        for first in range(0, ranges, world):
            outgoing = [np.zeros(0, self.dtype) for _ in range(world)]
            for number in range(first, min(first + world, ranges)):
                pieces = [self._read(part, *ends[part][number : number + 2]) for part in range(len(ends))]
                outgoing[number - first] = np.concatenate([outgoing[number - first], *pieces])
            block = self._exchanged(outgoing)
            yield block[_order(block, keys)]

    def _end_part(self) -> None:
        block, self._waiting = np.concatenate(self._waiting), []
        if not self._sizes:
            self._first = block
        self._sizes.append(len(block))
        self._write(len(self._sizes) - 1, block)

    def _read(self, number: int, start: int = 0, stop: int | None = None) -> Rows:
        """Return rows `start` to `stop` of a part, by default all."""
        stop = self._sizes[number] if stop is None else stop
        if number == 0:
            return self._first[start:stop]
        assert self._file is not None
        self._file.seek((sum(self._sizes[1:number]) + start) * self.dtype.itemsize)
        data = bytearray((stop - start) * self.dtype.itemsize)
        if self._file.readinto(data) != len(data):  # type: ignore[attr-defined]
            raise OSError("the file of an evaluation's rows ends too early")
        return np.frombuffer(data, self.dtype)

    def _write(self, number: int, part: Rows) -> None:
        if number == 0:
            return  # changed in place
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="shardrec_rows_")  # noqa: SIM115
            self._file.seek(sum(self._sizes[1:number]) * self.dtype.itemsize)
            self._file.write(part.tobytes())
        except OSError as error:
            raise DataError(
                f"rows of the evaluation cannot be written to a temporary file: {error.strerror}",
                where=tempfile.gettempdir(),
                fixes=["set TMPDIR to a folder with more space", "use more ranks"],
            ) from error

    def _sample_step(self) -> int:
        """Return how many rows of a part a sample stands for, the same on all ranks."""
        if self._waiting:
            self._end_part()
        # A range is too large by less than a step of each part.
        parts: int = sum(_gathered(len(self._sizes)))
        return max(1, self._limit // max(_LEAST_SAMPLES, parts))

    def _cuts(self, samples: Sequence[Rows], step: int) -> Rows:
        """Return where ranges after the first begin, the same on all ranks."""
        every = np.concatenate([found for of_rank in _gathered(samples) for found in of_rank])
        assert every.dtype.names is not None
        every = every[_order(every, every.dtype.names)]
        per_range = max(1, self._limit // step)
        cuts: Rows = every[per_range::per_range]
        return cuts

    def _exchanged(self, outgoing: Sequence[Rows]) -> Rows:
        """Send a block to each rank and return what this one received."""
        if len(outgoing) == 1:
            return outgoing[0]
        sizes = torch.tensor([block.nbytes for block in outgoing], device=self._device)
        coming = torch.empty_like(sizes)
        dist.all_to_all_single(coming, sizes)
        sent = torch.from_numpy(np.concatenate(outgoing).view(np.uint8)).to(self._device)
        received = torch.empty(int(coming.sum()), dtype=torch.uint8, device=self._device)
        dist.all_to_all_single(received, sent, coming.tolist(), sizes.tolist())
        return received.cpu().numpy().view(self.dtype)


def folded(
    blocks: Iterable[Block],
    state: NDArray[np.float64],
    add: Callable[[NDArray[np.float64], Block], NDArray[np.float64]],
    device: torch.device,
) -> NDArray[np.float64]:
    """Add up blocks of all ranks, one range after another, and return the sum on every rank.

    What iterating over `blocks` computes is done by all ranks at once; `add` is called by one after another.

    Args:
        blocks: of this rank, from `RowStore.in_order`.
        state: to begin with; may be changed.
        add: returns the state with a block added.
        device: where ranks exchange tensors.
    """
    for block in blocks:
        for rank in range(world_size()):
            if rank == _own_rank():
                state = add(state, block)
            if world_size() > 1:
                tensor = torch.from_numpy(np.ascontiguousarray(state)).to(device)
                dist.broadcast(tensor, src=rank)
                state = tensor.cpu().numpy()
    return state


def world_size() -> int:
    """Return the number of ranks, 1 where there is no process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def _own_rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _gathered(value: Any) -> list[Any]:
    """Return the value of each rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def _place(scores_N: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return numbers that rise as the scores fall; equal scores have equal ones, 0.0 and -0.0 among them."""
    bits_N = (scores_N.astype(np.float32) + np.float32(0)).view(np.uint32)
    sign = np.uint32(1 << 31)
    falling_N = np.where(bits_N & sign, bits_N, ~(bits_N | sign))
    return np.where(np.isnan(scores_N), np.uint32(0xFFFFFFFF), falling_N).astype(np.uint32)


def _order(rows: Rows, keys: Sequence[str]) -> NDArray[np.int64]:
    order_N: NDArray[np.int64] = np.lexsort([rows[key] for key in reversed(keys)])
    return order_N


def _positions(part: Rows, cuts: Rows) -> list[int]:
    """Return for each cut how many rows of a sorted part come before it."""
    assert cuts.dtype.names is not None
    first, *others = cuts.dtype.names
    column = np.ascontiguousarray(part[first])
    positions = []
    lows = np.searchsorted(column, cuts[first], side="left")
    highs = np.searchsorted(column, cuts[first], side="right")
    for cut, low, high in zip(cuts, lows.tolist(), highs.tolist(), strict=True):
        for key in others:
            equal = part[key][low:high]
            low, high = (low + int(np.searchsorted(equal, cut[key], side=side)) for side in ("left", "right"))
        positions.append(low)
    return positions
