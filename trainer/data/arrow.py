"""The default reader: pyarrow, lanes, and a state of (epoch, step) that resumes exactly at any world size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing

from trainer.batch import SKIPPED_ROW, Batch
from trainer.data.batching import BatchAssembler
from trainer.data.blocks import RowBlock, Source, concatenate, pack
from trainer.data.columns import Columns, DecodedRows
from trainer.data.order import LaneOrder, Piece, SplitOrder
from trainer.data.part_files import PartFiles
from trainer.data.policy import BlankRows, ReadPolicy
from trainer.data.prefetch import in_background
from trainer.data.reader import Share, check_layout, check_step
from trainer.data.row_groups import RowGroupReader
from trainer.data.vectors import open_vectors
from trainer.schema import Manifest
from trainer.storage import Place

# What the shuffle windows of all lanes together may take where one rank holds every lane. Windows shrink to
# fit, the same way at every world size; a window never gets smaller than one row group.
_WINDOW_BYTES = 1 << 30
# Decoded row groups that wait for their rows to be put in order.
_DECODED_AHEAD = 2


class ArrowReader:
    """One rank's share of a split, read with pyarrow.

    Attributes:
        rows: rows of the split, all ranks together.
        steps_per_epoch: batches of an epoch, the same on every rank.
        resumes_exactly: True.
        window_row_groups: row groups per lane that are shuffled together.
    """

    resumes_exactly = True

    def __init__(
        self,
        dataset: str | Place,
        manifest: Manifest,
        split: str,
        share: Share,
        *,
        seed: int,
        shuffle: bool,
        window_row_groups: int,
        policy: ReadPolicy | None = None,
    ) -> None:
        self.steps_per_epoch = check_layout(
            manifest,
            split,
            global_batch_size=share.global_batch_size,
            num_lanes=share.num_lanes,
            world_size=share.world_size,
            tail=share.tail,
        )
        entry = manifest.split(split)
        self.rows = entry.rows
        self._share = share
        self._columns = Columns(manifest.spec)
        self._files = PartFiles(manifest.folder_in(dataset), entry, policy)
        self._vectors = open_vectors(manifest, dataset)
        largest = max(rows for file in entry.files for rows in file.row_groups)
        budget = _WINDOW_BYTES // (share.num_lanes * largest * self._columns.bytes_per_row(manifest))
        self.window_row_groups = max(1, min(window_row_groups, budget))
        self._order = SplitOrder(
            entry,
            num_lanes=share.num_lanes,
            seed=seed,
            shuffle=shuffle,
            window_row_groups=self.window_row_groups,
        )
        touched = Counter(p.row_group for lane in share.lanes for p in self._order.lane_pieces(lane))
        self._shared = frozenset(group for group, lanes in touched.items() if lanes > 1)

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches `first_step` to `steps_per_epoch - 1` of an epoch; decodes nothing before them.

        Raises:
            DataError: a part file is missing, damaged, or holds values that cannot be used.
            StoreError: the store cannot be read.
            UserError: the place lies outside the epoch.
        """
        check_step(epoch, first_step, self.steps_per_epoch)
        return self._batches(epoch, first_step)

    def _batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        rows_per_lane = self._share.rows_per_lane
        lanes = [self._order.lane(lane, epoch) for lane in self._share.lanes]
        assembler = BatchAssembler(self._columns, len(lanes), rows_per_lane, self._vectors)
        steps = range(first_step, self.steps_per_epoch, assembler.steps_at_once)
        spans = [(s, min(s + assembler.steps_at_once, self.steps_per_epoch)) for s in steps]
        cuts = [(start * rows_per_lane, stop * rows_per_lane) for start, stop in spans]
        # Windows are loaded ahead of their use, in the very order in which the lanes come to need them.
        ahead = max(1, len(lanes) // 4)
        with closing(in_background(self._windows(lanes, cuts), ahead)) as windows:
            cursors = [_LaneCursor(self._columns, lane, windows) for lane in lanes]
            for (start, stop), (first, last) in zip(cuts, spans, strict=True):
                blocks = [cursor.take(start, stop) for cursor in cursors]
                yield from assembler.assemble(blocks, last - first)

    def _windows(self, lanes: list[LaneOrder], cuts: list[tuple[int, int]]) -> Iterator[RowBlock]:
        # Row groups are decoded while the rows of those before are put in order.
        with closing(in_background(self._row_groups(lanes, cuts), _DECODED_AHEAD)) as decoded:
            for lane, window in _in_order(lanes, cuts):
                sources = [_source(next(decoded), piece) for piece in lane.pieces(window)]
                yield pack(self._columns, sources, lane.permutation(window))

    def _row_groups(self, lanes: list[LaneOrder], cuts: list[tuple[int, int]]) -> Iterator[DecodedRows]:
        coming = (piece.row_group for lane, n in _in_order(lanes, cuts) for piece in lane.pieces(n))
        reader = RowGroupReader(self._files, self._columns, self._shared, coming)
        try:
            for lane, window in _in_order(lanes, cuts):
                for piece in lane.pieces(window):
                    yield reader.read(piece.row_group)
        finally:
            reader.close()


def _source(rows: DecodedRows, piece: Piece) -> Source:
    first_row = SKIPPED_ROW if isinstance(rows, BlankRows) else piece.first_row
    return Source(rows, piece.start, piece.stop, first_row)


def _in_order(lanes: list[LaneOrder], cuts: list[tuple[int, int]]) -> Iterator[tuple[LaneOrder, int]]:
    """Yield the windows of all lanes in the order in which the cuts come to need them."""
    for number, (start, stop) in enumerate(cuts):
        for lane in lanes:
            for window in lane.windows_between(start, stop):
                # A window that an earlier cut has reached into is loaded already.
                if number == 0 or lane.window_starts[window] >= start:
                    yield lane, window


class _LaneCursor:
    """Walks through a lane's stream; takes the next window off the shared queue when it needs one."""

    def __init__(self, columns: Columns, lane: LaneOrder, windows: Iterator[RowBlock]) -> None:
        self._columns = columns
        self._lane = lane
        self._windows = windows
        self._block: RowBlock | None = None
        self._window = -1

    def take(self, start: int, stop: int) -> RowBlock:
        """Return stream positions `start` to `stop - 1`, padded where the lane ends before."""
        blocks = []
        for window in self._lane.windows_between(start, stop):
            if window != self._window or self._block is None:
                self._block = next(self._windows)
                self._window = window
            offset = int(self._lane.window_starts[window])
            low, high = max(start - offset, 0), min(stop - offset, self._block.size)
            blocks.append(self._block.slice(low, high))
        return concatenate(self._columns, blocks, padding=max(0, stop - max(start, self._lane.rows)))
