"""The petastorm reader (make_batch_reader), for those who have petastorm in place.

petastorm deals whole row groups to ranks: the row group with number i goes to rank i % world_size. Steps per
epoch follow from that and the manifest, so that no rank waits for another. It promises no order over restarts
or world sizes: a run resumes at the start of an epoch only, and `Batch.rows_B` is -1 everywhere.

With `tail: drop` the rank with the fewest rows sets the steps of all, so row groups that are few or unequal
leave out many rows of every epoch, where the arrow reader leaves out little more than a global batch at most.
The reader warns when it leaves out more than one.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from trainer.batch import Batch
from trainer.data.batching import BatchAssembler
from trainer.data.blocks import RowBlock, Source, concatenate, pack
from trainer.data.columns import Columns, DecodedRows
from trainer.data.order import seeded_permutation
from trainer.data.part_files import PartFiles
from trainer.data.policy import ReadPolicy
from trainer.data.reader import Share, check_layout, check_step
from trainer.data.row_groups import RowGroupReader
from trainer.data.vectors import open_vectors
from trainer.errors import ConfigError, DataError, ShardrecError, UserError
from trainer.schema import Manifest, Split
from trainer.storage import Place, StorePath, as_place

# With several workers row groups come in the order in which they happen to be ready, whatever the seed; and
# decoding is no slower with one, since pyarrow decodes columns in parallel.
_WORKERS = 1
_QUEUED_ROW_GROUPS = 5
_TRIED_GROUPS_PER_RANK = 64
_DTYPES = {"float": np.dtype(np.float32), "list<float>": np.dtype(np.float32), "int64": np.dtype(np.int64)}


class PetastormReader:
    """One rank's share of a split, read with petastorm.

    Attributes:
        rows: rows of the split, all ranks together.
        steps_per_epoch: batches of an epoch, the same on every rank.
        resumes_exactly: False.
    """

    resumes_exactly = False

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
        self._petastorm = _import_petastorm()
        _check_reach(dataset, policy)
        check_layout(
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
        self._seed = seed
        self._shuffle = shuffle
        self._window = window_row_groups if shuffle else 1
        self._columns = Columns(manifest.spec)
        _check_names(self._columns)
        sizes = [rows for file in entry.files for rows in file.row_groups]
        self._shard_rows = _shard_rows(sizes, share, split)
        # petastorm refuses more shards than row groups; a rank beyond them opens nothing.
        self._shards = min(share.world_size, len(sizes))
        self.steps_per_epoch = _steps(self._shard_rows, share, split)
        if share.rank == 0:
            _warn_of_lost_rows(entry, self.steps_per_epoch, share, split)
        self._files = PartFiles(dataset, entry, policy)
        self._vectors = open_vectors(manifest, dataset)
        self._where = f"{self._files.folder}, split {split!r} (petastorm does not name the file)"
        self._urls = [f"file://{self._files.path(number)}" for number in range(len(entry.files))]

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch.

        Raises:
            DataError: a part file is missing, damaged, or holds values that cannot be used.
            UserError: `first_step` is above 0.
        """
        check_step(epoch, first_step, self.steps_per_epoch)
        if first_step:
            raise UserError(
                "the petastorm reader cannot resume inside an epoch: it gives no fixed order of rows",
                where="data.reader: petastorm",
                got=f"step {first_step} of epoch {epoch}",
                allowed="step 0",
                fixes=["data.reader: arrow", "resume from a checkpoint at the end of an epoch"],
            )
        return self._batches(epoch)

    def _batches(self, epoch: int) -> Iterator[Batch]:
        size = self._share.batch_size_per_rank
        assembler = BatchAssembler(self._columns, 1, size, self._vectors)
        rows = self._blocks(epoch)
        try:
            waiting: list[RowBlock] = []
            done = 0
            while done < self.steps_per_epoch:
                steps = min(assembler.steps_at_once, self.steps_per_epoch - done)
                wanted = steps * size
                have = sum(block.size for block in waiting)
                while have < wanted and (block := next(rows, None)) is not None:
                    waiting.append(block)
                    have += block.size
                joined = concatenate(self._columns, waiting, padding=max(0, wanted - have))
                yield from assembler.assemble([joined.slice(0, wanted)], steps)
                waiting = [joined.slice(wanted, joined.size)]
                done += steps
        finally:
            rows.close()

    def _blocks(self, epoch: int) -> Any:
        """Yield windows of row groups as blocks, each in shuffled order."""
        if not self._shard_rows[self._share.rank]:
            return
        reader = self._open(epoch)
        try:
            sources: list[Source] = []
            seen, window = 0, 0
            for decoded in self._row_groups(reader):
                sources.append(Source(decoded, 0, len(decoded.labels), -1))
                seen += len(decoded.labels)
                if len(sources) == self._window:
                    yield self._pack(sources, epoch, window)
                    sources, window = [], window + 1
            if sources:
                yield self._pack(sources, epoch, window)
        finally:
            # Not its context manager: that one prints to stdout.
            reader.stop()
            reader.join()
        expected = self._shard_rows[self._share.rank]
        if seen != expected:
            raise DataError(
                "petastorm read another number of rows than the manifest says",
                where=f"rank {self._share.rank}",
                got=seen,
                allowed=expected,
                fixes=["data.reader: arrow"],
            )

    def _pack(self, sources: list[Source], epoch: int, window: int) -> RowBlock:
        order = None
        if self._shuffle:
            size = sum(source.stop - source.start for source in sources)
            order = seeded_permutation(size, self._seed, epoch, self._share.rank, window)
        return pack(self._columns, sources, order)

    def _open(self, epoch: int) -> Any:
        check = RowGroupReader(self._files, self._columns)
        try:
            check.check_files()
        finally:
            check.close()
        # By module, and not only around this call: petastorm's worker threads warn about the old pyarrow
        # API that it needs for as long as they run.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"petastorm\b")
        seed = int(np.random.SeedSequence([self._seed, epoch]).generate_state(1)[0]) or 1
        try:
            return self._petastorm.make_batch_reader(
                self._urls,
                schema_fields=[re.escape(name) for name in self._columns.types],
                reader_pool_type="thread",
                workers_count=_WORKERS,
                results_queue_size=_QUEUED_ROW_GROUPS,
                shuffle_row_groups=self._shuffle,
                seed=seed if self._shuffle else None,  # a seed alone shuffles already
                num_epochs=1,
                cur_shard=self._share.rank,
                shard_count=self._shards,
                transform_spec=self._transform(),
            )
        except Exception as error:
            raise self._failed(error) from error

    def _row_groups(self, reader: Any) -> Iterator[DecodedRows]:
        ended = False
        while True:
            try:
                group = next(reader, None)
            except ShardrecError:
                raise
            except Exception as error:
                raise self._failed(error) from error
            if group is not None:
                ended = False
                yield DecodedRows(self._columns, partial(self._array, group), self._where)
            elif ended:
                return
            else:
                # petastorm's pool asks first whether its workers are idle and then whether all work is handed
                # out; when all of it is handed out in between, it reports an end where nothing was read yet.
                ended = True

    def _array(self, group: Any, name: str) -> pa.Array:
        values = getattr(group, name)
        kind = self._columns.types[name]
        if kind == "list<int64>":
            return _list_array(values)
        # petastorm stacks lists of one length to a matrix.
        if values.dtype != _DTYPES[kind] or values.ndim != 1 + kind.startswith("list"):
            raise DataError(
                "a prepared column holds nulls or has another type in this file than in the first",
                where=f"{self._where}, column {name!r}",
                got=values.dtype,
                allowed=_DTYPES[kind],
                fixes=["prepare the data set again"],
            )
        if values.ndim == 1:
            return pa.array(values)
        offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))

    def _transform(self) -> Any:
        """Return petastorm's transform that carries lists of different lengths as bytes, or None.

        Without it make_batch_reader stacks the lists of a row group to a matrix, and fails.
        """
        names = [feature.name for feature in self._columns.lists]
        if not names:
            return None

        def lists_to_bytes(frame: Any) -> Any:
            for name in names:
                frame[name] = [_bytes(ids, name) for ids in frame[name]]
            return frame

        fields = [(name, np.bytes_, (), False) for name in names]
        spec = importlib.import_module("petastorm.transform").TransformSpec
        return spec(lists_to_bytes, edit_fields=fields)

    def _failed(self, error: Exception) -> DataError:
        return DataError(
            "petastorm cannot read the part files",
            where=self._where,
            got=f"{type(error).__name__}: {error}",
            fixes=["data.reader: arrow"],
        )


def _import_petastorm() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("petastorm")
    except Exception as error:  # old petastorm with new pyarrow fails with more than ImportError
        raise UserError(
            "petastorm cannot be imported",
            where="data.reader: petastorm",
            got=f"{type(error).__name__}: {error}",
            fixes=["pip install 'shardrec[petastorm]' (needs pyarrow < 15)", "data.reader: arrow"],
        ) from error


def _check_reach(dataset: str | Place, policy: ReadPolicy | None) -> None:
    place = as_place(dataset)
    if isinstance(place, StorePath):
        # It opens fsspec's file systems with a keyword that ParquetDataset takes of old file systems only.
        raise ConfigError(
            "petastorm cannot read object stores with the pyarrow that it is installed with",
            where=f"data.reader: petastorm, {place}",
            allowed="local and mounted folders",
            fixes=["data.reader: arrow", "copy the data set to a folder that every rank sees"],
        )
    if policy is not None and policy.on_corrupt == "skip":
        raise ConfigError(
            "petastorm stops at a damaged row group: it cannot skip one",
            where="data.on_corrupt: skip",
            fixes=["data.reader: arrow", "data.on_corrupt: fail"],
        )


def _check_names(columns: Columns) -> None:
    for name in columns.types:
        if not name.isidentifier() or name.startswith("_"):
            raise UserError(
                "petastorm cannot read a column of this name: it makes a namedtuple of the columns",
                where=f"feature {name!r}",
                allowed="letters, digits and _, not starting with a digit or _",
                fixes=["data.reader: arrow", "give the feature another `name` and prepare again"],
            )


def _shard_rows(sizes: list[int], share: Share, split: str) -> list[int]:
    """Return the rows of every rank."""
    world_size = share.world_size
    if len(sizes) < world_size and share.tail == "drop":
        raise UserError(
            f"petastorm deals whole row groups, and split {split!r} has fewer of them than there are ranks",
            where="data.reader: petastorm",
            got=f"{len(sizes)} row groups for {world_size} ranks",
            allowed=f"at least {world_size} row groups",
            fixes=[
                "data.reader: arrow",
                f"data.rows_per_row_group: {max(1, sum(sizes) // world_size)} and prepare again",
                f"use {len(sizes)} ranks",
            ],
        )
    return [sum(sizes[rank::world_size]) for rank in range(world_size)]


def _steps(shard_rows: list[int], share: Share, split: str) -> int:
    size = share.batch_size_per_rank
    if share.tail == "pad":
        return max(-(-rows // size) for rows in shard_rows)
    steps = min(shard_rows) // size
    if steps == 0:
        raise UserError(
            f"split {split!r} is too small for one batch: petastorm gives one of the ranks "
            f"{min(shard_rows)} rows, a batch takes {size} of each rank",
            where="train.global_batch_size",
            got=share.global_batch_size,
            allowed=f"at most {min(shard_rows) * share.world_size}",
            fixes=["data.reader: arrow", "train.tail: pad"],
        )
    return steps


def _warn_of_lost_rows(entry: Split, steps: int, share: Share, split: str) -> None:
    """Warn where an epoch leaves out more than one global batch of rows."""
    used = steps * share.global_batch_size
    if share.tail == "pad" or entry.rows - used <= share.global_batch_size:
        return
    better = _better_row_groups([file.rows for file in entry.files], used, share)
    advice = f"data.rows_per_row_group: {better} and prepare again, or " if better else ""
    warnings.warn(
        "petastorm deals whole row groups, and the rank with the fewest rows ends the epoch for all: "
        f"{used:,} of the {entry.rows:,} rows of split {split!r} are used at {share.world_size} ranks; "
        f"set {advice}data.reader: arrow",
        stacklevel=4,
    )


def _better_row_groups(files: list[int], used: int, share: Share) -> int | None:
    """Return the most rows per row group with which files of these sizes lose least; None if none helps."""
    best, found = used, None
    rows = sum(files)
    for groups_per_rank in range(1, _TRIED_GROUPS_PER_RANK + 1):
        size = -(-rows // (share.world_size * groups_per_rank))
        groups = [min(size, file - start) for file in files for start in range(0, file, size)]
        shards = [sum(groups[rank :: share.world_size]) for rank in range(share.world_size)]
        gives = min(shards) // share.batch_size_per_rank * share.global_batch_size
        if gives > best:
            best, found = gives, size
        if rows - best <= share.global_batch_size:
            break
    return found


def _bytes(ids: Any, name: str) -> bytes | None:
    if ids is None:
        return None  # found as a null later, with its place
    if ids.dtype != np.int64:
        raise DataError(
            "a prepared list holds nulls or numbers that are no int64",
            where=f"column {name!r}",
            got=ids.dtype,
            fixes=["prepare the data set again"],
        )
    return bytes(ids.tobytes())


def _list_array(values: Any) -> pa.Array:
    present = [value if value is not None else b"" for value in values]
    lengths = np.array([len(value) // 8 for value in present], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.frombuffer(b"".join(present), dtype=np.int64)
    array = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids))
    missing = np.array([value is None for value in values])
    return array if not missing.any() else pa.array([None] * int(missing.sum()), array.type)
