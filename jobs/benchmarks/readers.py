"""The readers that `shardrec bench read` compares: each yields the rows of one batch after the other."""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import pyarrow.parquet as pq

from jobs.benchmarks.timing import Work
from trainer.batch import Batch
from trainer.data import open_reader, prefetched
from trainer.data.columns import Columns
from trainer.data.part_files import PartFiles
from trainer.schema import Manifest
from trainer.storage import open_input

ARROW = "arrow"
BARE_PYARROW = "pyarrow iter_batches"
PETASTORM = "reader: petastorm"
BATCHED_LOADER = "petastorm BatchedDataLoader"
SHUFFLED = ", shuffled"
IN_ORDER = ", in order"
SHUFFLING_QUEUE_ROWS = 200_000
_PETASTORM_WORKERS = 2
_PREFETCHED_BATCHES = 8


@dataclass(frozen=True)
class Reading:
    """What all of them read.

    Attributes:
        data: data set folder.
        manifest: its manifest.
        split: split to read.
        batch_size: rows of a batch.
        num_lanes: lanes of our readers.
    """

    data: str
    manifest: Manifest
    split: str
    batch_size: int
    num_lanes: int = 32

    @property
    def rows(self) -> int:
        """Return the rows of a pass."""
        return self.manifest.split(self.split).rows

    def batches(self, shuffle: bool, reader: Literal["arrow", "petastorm"] = "arrow") -> Iterator[Batch]:
        """Read an epoch as training does: one rank, every row, batches made ahead."""
        opened = open_reader(
            self.data,
            self.manifest,
            self.split,
            reader=reader,
            global_batch_size=self.batch_size,
            num_lanes=self.num_lanes,
            rank=0,
            world_size=1,
            seed=1,
            shuffle=shuffle,
            tail="pad",
        )
        return prefetched(opened.batches(0), _PREFETCHED_BATCHES)

    def contenders(self) -> dict[str, Callable[[], Work]]:
        """Return the readers that can read this data set here, by name."""
        found: dict[str, Callable[[], Work]] = {
            ARROW + SHUFFLED: partial(self._arrow, True),
            ARROW + IN_ORDER: partial(self._arrow, False),
            BARE_PYARROW: self._bare_pyarrow,
        }
        if importlib.util.find_spec("petastorm") is not None and self._names_are_identifiers():
            found[PETASTORM + SHUFFLED] = self._petastorm
            if self.stacks and not PartFiles(self.data, self.manifest.split(self.split)).remote:
                found[BATCHED_LOADER + SHUFFLED] = partial(self._batched_loader, SHUFFLING_QUEUE_ROWS)
                found[BATCHED_LOADER + IN_ORDER] = partial(self._batched_loader, 0)
        return found

    @property
    def stacks(self) -> bool:
        """Return whether every row holds one value of each feature, as petastorm's own loader needs it."""
        return not self._columns.lists

    @property
    def _columns(self) -> Columns:
        return Columns(self.manifest.spec)

    def _names_are_identifiers(self) -> bool:
        return all(re.fullmatch(r"[^\W\d_]\w*", name) for name in self._columns.types)

    def _arrow(self, shuffle: bool) -> Work:
        return (int((batch.rows_B >= 0).sum()) for batch in self.batches(shuffle))

    def _petastorm(self) -> Work:
        # Rows have no numbers there, but the reader itself compares their count with the manifest.
        left = self.rows
        for batch in self.batches(True, "petastorm"):
            real = min(left, batch.size)
            left -= real
            yield real

    def _bare_pyarrow(self) -> Work:
        """Decode the same columns and do nothing with them."""
        files = PartFiles(self.data, self.manifest.split(self.split))
        for number in range(len(files.parts)):
            source = open_input(files.path(number))
            with pq.ParquetFile(source, pre_buffer=files.remote) as file:
                for batch in file.iter_batches(batch_size=self.batch_size, columns=list(self._columns.types)):
                    yield batch.num_rows

    def _batched_loader(self, queue_rows: int) -> Work:
        """Read with petastorm as its own documentation does.

        Rows may be missing: petastorm 0.13.1 asks whether its workers are idle before it asks whether all
        row groups are handed out. Where the last of them are handed out in between, the reader ends and they
        are never read. It happens to few passes, but to many where there are few row groups.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from petastorm import make_batch_reader
            from petastorm.pytorch import BatchedDataLoader

            files = PartFiles(self.data, self.manifest.split(self.split))
            reader = make_batch_reader(
                [f"file://{files.path(number)}" for number in range(len(files.parts))],
                schema_fields=list(self._columns.types),
                num_epochs=1,
                workers_count=_PETASTORM_WORKERS,
                shuffle_row_groups=queue_rows > 0,
            )
            try:
                loader = BatchedDataLoader(reader, self.batch_size, shuffling_queue_capacity=queue_rows)
                for batch in loader:
                    yield len(next(iter(batch.values())))
            finally:
                reader.stop()
                reader.join()
