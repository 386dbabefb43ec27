"""The order of samples: lanes, windows of row groups, and their seeded permutations. Needs only numpy.

Rows of a split are numbered 0 to N - 1 through its files. Lane i of L owns rows floor(i * N / L) to
floor((i + 1) * N / L) - 1, so lanes differ by at most one row. In every epoch a lane permutes its pieces (the
parts of row groups inside its range), groups them into windows, and permutes the rows of each window; its
stream is the windows one after the other. Global batch k takes rows k * b to (k + 1) * b - 1 of every lane's
stream. Nothing here knows the world size: that is why the rows of a batch are the same at every world size.

Random numbers come from `SeedSequence([seed, epoch, lane, n])` through raw PCG64 words, whose streams numpy
keeps stable for ever (its `Generator` methods may change): n = 0 orders the pieces of a lane, n = 1 + w
the rows of its window w. A change of the order in this file breaks the resume of running jobs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.schema import Split

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop - 1` of one row group; row groups are numbered through all files of the split."""

    row_group: int
    start: int
    stop: int
    first_row: int
    """Number in the split of the row at `start`."""


def seeded_permutation(size: int, *key: int) -> Index:
    """Return a permutation of 0 to size - 1 that depends on the key alone, on every numpy version.

    Args:
        size: number of entries.
        key: non-negative integers.
    """
    if size < 2:
        return np.arange(size, dtype=np.int64)
    raw = np.random.PCG64(np.random.SeedSequence(key)).random_raw(size)
    # The position sits in the low bits, so that keys are unique and any sorting algorithm gives one answer.
    bits = np.uint64(int(size).bit_length())
    keys = (raw << bits) | np.arange(size, dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64((1 << int(bits)) - 1)).astype(np.int64)


def lane_bounds(rows: int, num_lanes: int) -> Index:
    """Return [num_lanes + 1] row numbers: lane i owns rows `bounds[i]` to `bounds[i + 1] - 1`."""
    return np.array([lane * rows // num_lanes for lane in range(num_lanes + 1)], dtype=np.int64)


class LaneOrder:
    """The stream of one lane in one epoch.

    Attributes:
        rows: rows of the lane.
        window_starts: [windows + 1] position in the stream of each window's first row, and the end.
    """

    def __init__(self, pieces: list[Piece], windows: list[int], key: tuple[int, int, int] | None) -> None:
        self._pieces = pieces
        self._windows = windows
        self._key = key
        sizes = np.array([piece.stop - piece.start for piece in pieces], dtype=np.int64)
        ends = np.concatenate([[0], np.cumsum(sizes)])
        self.window_starts: Index = ends[windows]
        self.rows = int(ends[-1])

    def windows_between(self, start: int, stop: int) -> range:
        """Return the windows that hold stream positions `start` to `stop - 1`."""
        stop = min(stop, self.rows)
        if start >= stop:
            return range(0)
        first = int(np.searchsorted(self.window_starts, start, side="right")) - 1
        last = int(np.searchsorted(self.window_starts, stop, side="left"))
        return range(first, last)

    def pieces(self, window: int) -> list[Piece]:
        """Return the pieces of a window."""
        return self._pieces[self._windows[window] : self._windows[window + 1]]

    def permutation(self, window: int) -> Index | None:
        """Return the order of the rows of `pieces(window)`, laid end to end; None for as they are."""
        if self._key is None:
            return None
        size = int(self.window_starts[window + 1] - self.window_starts[window])
        return seeded_permutation(size, *self._key, 1 + window)


class SplitOrder:
    """The order of one split.

    Args:
        split: its entry in the manifest.
        num_lanes: lanes that its rows are dealt into.
        seed: of all permutations.
        shuffle: False reads every lane from front to back.
        window_row_groups: pieces of a window.
    """

    def __init__(
        self, split: Split, *, num_lanes: int, seed: int, shuffle: bool, window_row_groups: int
    ) -> None:
        sizes = [rows for file in split.files for rows in file.row_groups]
        self._starts: Index = np.concatenate([[0], np.cumsum(np.array(sizes, dtype=np.int64))])
        self._lanes = lane_bounds(split.rows, num_lanes)
        self._seed = seed
        self._shuffle = shuffle
        self._window = window_row_groups

    def lane(self, lane: int, epoch: int) -> LaneOrder:
        """Return the stream of a lane in an epoch (both from 0)."""
        pieces = self.lane_pieces(lane)
        if not self._shuffle:
            return LaneOrder(pieces, self._cuts(len(pieces), lane), None)
        order = seeded_permutation(len(pieces), self._seed, epoch, lane, 0)
        key = (self._seed, epoch, lane)
        return LaneOrder([pieces[i] for i in order], self._cuts(len(pieces), lane), key)

    def lane_pieces(self, lane: int) -> list[Piece]:
        """Return the parts of row groups inside the lane's range, in file order."""
        start, stop = int(self._lanes[lane]), int(self._lanes[lane + 1])
        if start == stop:
            return []
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = int(np.searchsorted(self._starts, stop, side="left"))
        pieces = []
        for group in range(first, last):
            offset, end = int(self._starts[group]), int(self._starts[group + 1])
            low, high = max(start, offset), min(stop, end)
            if low < high:  # an empty row group gives no piece
                pieces.append(Piece(group, low - offset, high - offset, low))
        return pieces

    def _cuts(self, pieces: int, lane: int) -> list[int]:
        # First windows differ in size from lane to lane, so that lanes do not all load at the same batch.
        first = 1 + lane % self._window if pieces > self._window else self._window
        return sorted({0, *range(first, pieces, self._window), pieces})
