"""Raw Parquet files read by the tasks themselves, where Spark would only hand their rows over.

The JVM takes several times as long to read rows, hash them and hand them to Python as everything that is then
done with them. Both ways give the same rows, splits and hashes, so each pass may take either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.preparation import columns as C
from jobs.preparation.dealt_rows import Dealing
from jobs.preparation.failures import damaged_file
from jobs.preparation.files import hidden
from jobs.preparation.planned import PlannedFeature
from jobs.preparation.row_checks import LABEL_MISSING, LABEL_WRONG, LINE, RowCheck, found_column
from jobs.preparation.row_hashes import hashable, row_hashes
from jobs.preparation.rows import (
    ROWS_AT_ONCE,
    RawColumns,
    TaskRows,
    Work,
    collected_in_tasks,
    in_tasks,
    rows_at_once,
)
from jobs.preparation.splits import dealt
from jobs.preparation.staging import Staged, scannable
from jobs.preparation.streams import Streams
from jobs.preparation.writing import ROW_BYTES, Layout
from jobs.session import over_connect
from trainer.config import RunConfig, SplitConfig
from trainer.features import raw_values
from trainer.schema import SPLITS, numbers_per_row

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

# Rows of one task, where there are enough for all cores: what it counts is added up before it is handed on.
_ROWS_PER_TASK = 4_000_000
_TASKS_PER_CORE = 4
# Made columns that writing needs.
_DEALT = (C.SPLIT, C.LABEL, C.HASH, C.ORDER)


@dataclass(frozen=True)
class _RowGroups:
    """Some row groups of one file."""

    path: str
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class ParquetScan(TaskRows):
    """The rows of local Parquet files with what `staging` and `deal` add to them.

    Attributes:
        spark: runs the tasks.
        tasks: what each task reads.
        names: all raw columns.
        split: of method `random`, by the hash of the row.
        label: raw column of numbers.
        positive_at_least: see `LabelConfig`.
        at_once: rows that a task works on together.
        dealing: where the pass over all rows deals them, if it does.
        checks: names of row checks whose findings to add: `LINE`, `LABEL_MISSING`, `LABEL_WRONG`.
        deals: whether this is that pass.
        training: whether to leave out all rows but those of the training split.
    """

    spark: SparkSession | None
    tasks: tuple[tuple[_RowGroups, ...], ...]
    names: tuple[str, ...]
    split: SplitConfig
    label: str
    positive_at_least: float | None
    at_once: int = ROWS_AT_ONCE
    dealing: Dealing | None = None
    checks: tuple[str, ...] = ()
    deals: bool = False
    training: bool = False

    @property
    def session(self) -> SparkSession:
        """See `TaskRows`."""
        assert self.spark is not None
        return self.spark

    @property
    def columns(self) -> list[str]:
        """Return the names of all columns."""
        return [*self.names, C.SPLIT, C.LABEL, C.HASH, C.ORDER]

    def mapped(self, columns: Sequence[str], work: Work, schema: StructType | str) -> DataFrame:
        """See `TaskRows`."""
        return in_tasks(self.session, self.tasks, self._read(columns), work, schema)

    def collected(self, columns: Sequence[str], work: Work) -> list[Mapping[str, Any]]:
        """See `TaskRows`."""
        return collected_in_tasks(self.session, self.tasks, self._read(columns), work)

    def _read(self, columns: Sequence[str]) -> _Read:
        return _Read(replace(self, spark=None, tasks=()), tuple(columns))

    def surveyed(self, checks: Sequence[str]) -> ParquetScan:
        """See `TaskRows`."""
        return replace(self, checks=tuple(checks), deals=self.dealing is not None)

    @property
    def dealt(self) -> Dealing | None:
        """See `TaskRows`."""
        return self.dealing if self.dealing is not None and self.dealing.is_whole(len(self.tasks)) else None

    def only_training(self) -> ParquetScan:
        """See `TaskRows`."""
        return replace(self, training=True)

    def completed(self, raw: RawColumns) -> RawColumns:
        """Add splits, labels, hashes and what is wrong with the rows."""
        hashes, orders = row_hashes(raw, self.split.seed)
        made = {
            **raw,
            C.HASH: pa.array(hashes),
            C.ORDER: pa.array(orders),
            C.SPLIT: dealt(hashes, self.split),
        }
        label, missing = self._label(raw[self.label])
        made[C.LABEL] = pa.array(label, mask=np.isnan(label))
        rows = len(hashes)
        found: dict[str, NDArray[np.bool_]] = {
            LINE: np.zeros(rows, dtype=bool),
            LABEL_MISSING: missing,
            LABEL_WRONG: ~missing & np.isnan(label),
        }
        for number, what in enumerate(self.checks):
            bad = pa.array(found[what])
            quotes = pa.array(map(_quote, raw[self.label].filter(bad).to_pylist()), pa.string())
            made[found_column(number)] = pc.replace_with_mask(pa.nulls(rows, pa.string()), bad, quotes)
        if not self.training:
            return made
        train = pc.equal(made[C.SPLIT], "train")
        return {name: column.filter(train) for name, column in made.items()}

    def _label(self, raw: pa.Array) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the label, NaN where there is none, and where the value is missing."""
        x, _ = raw_values.numbers(raw, self.label, f"data.label.column: {self.label}")
        missing = np.isnan(x)
        if self.positive_at_least is not None:
            made = np.where(missing, np.nan, x >= self.positive_at_least)
        else:
            made = np.where((x == 0) | (x == 1), x, np.nan)
        return made.astype(np.float32), missing


def _quote(value: Any) -> str:
    """Return a label as Spark prints it."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class _Read:
    """Reads the row groups of a task, some rows at once, with the columns that are asked for."""

    scan: ParquetScan
    columns: tuple[str, ...]

    def __call__(self, task: tuple[_RowGroups, ...]) -> Iterator[RawColumns]:
        dealing = self.scan.dealing if self.scan.deals else None
        if dealing is None:
            for made in self._made(task):
                yield self._chosen(made)
            return
        kept = [*(name for name in self.columns if name in self.scan.names), *_DEALT]
        unsent = {C.SPLIT, *(name for name in self.columns if name not in kept)}
        with dealing.dealer(task) as dealer:
            for made in self._made(task):
                needed = {name: made[name] for name in [*kept, *self.columns]}
                yield self._chosen(dealer.deal(needed, unsent))

    def _chosen(self, made: RawColumns) -> RawColumns:
        return {name: made[name] for name in dict.fromkeys(self.columns)}

    def _made(self, task: tuple[_RowGroups, ...]) -> Iterator[RawColumns]:
        for groups in task:
            for batch in self._batches(groups):
                names = batch.schema.names
                raw = {name: raw_values.one_array(batch.column(place)) for place, name in enumerate(names)}
                yield self.scan.completed(raw)

    def _batches(self, groups: _RowGroups) -> Iterator[pa.RecordBatch]:
        names = list(self.scan.names)
        try:
            with pq.ParquetFile(groups.path, memory_map=True) as file:
                yield from file.iter_batches(self.scan.at_once, groups.numbers, names, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise damaged_file(groups.path, str(error).splitlines()[0]) from error


def parquet_scan(
    run: RunConfig, staged: Staged, checks: Sequence[RowCheck], streams: Streams, cached: ExitStack
) -> ParquetScan | None:
    """Return how tasks read the rows by themselves; None where Spark has to make them.

    Args:
        run: the run config.
        staged: the rows as Spark reads them.
        checks: of the rows.
        streams: how tasks hand rows on.
        cached: releases the rows, which Spark keeps if it has to make them.
    """
    scan = _scan(run, staged, checks, streams)
    if scan is None and scannable(run):
        cached.callback(staged.rows.persist().unpersist)
    return scan


def _scan(run: RunConfig, staged: Staged, checks: Sequence[RowCheck], streams: Streams) -> ParquetScan | None:
    if over_connect(staged.source.sparkSession):  # which tells neither the cores nor where its tasks run
        return None
    if not scannable(run) or any(check.what not in (LINE, LABEL_MISSING, LABEL_WRONG) for check in checks):
        return None
    source, own = staged.source, staged.own
    # Spark's list holds the hidden files of a folder (`_metadata`), which it then does not read.
    uris = [uri for uri in source.inputFiles() if not hidden(unquote(uri).rsplit("/", 1)[-1])]
    paths = [path for uri in uris if (path := local_file(uri)) is not None]
    if not paths or len(paths) < len(uris):
        return None
    try:
        with ThreadPoolExecutor(8) as pool:
            footers = list(pool.map(pq.read_metadata, paths))
            schema = pq.read_schema(paths[0])
    except (pa.ArrowException, OSError):  # no Parquet, or damaged: Spark tells what is wrong
        return None
    same = {footer.schema.to_arrow_schema().remove_metadata() for footer in footers}
    kinds = {field.name: field.type for field in schema}
    rule = run.data.first_task.label
    label = rule.column
    assert label is not None
    if len(same) > 1 or set(kinds) != set(own) or len(schema) != len(kinds):
        return None
    numeric = pa.types.is_integer(kinds[label]) or pa.types.is_floating(kinds[label])
    if not (numeric or pa.types.is_boolean(kinds[label])) or not all(map(hashable, kinds.values())):
        return None
    if any(pa.types.is_timestamp(kinds[name]) for name in run.data.keep):
        return None  # Spark writes them in another form
    spark = source.sparkSession
    groups = [
        (path, number, footer.row_group(number).num_rows)
        for path, footer in zip(paths, footers, strict=True)
        for number in range(footer.num_row_groups)
        if footer.row_group(number).num_rows
    ]
    tasks = _tasks(groups, _TASKS_PER_CORE * spark.sparkContext.defaultParallelism)
    at_once, least = rows_at_once(staged.features), rule.positive_at_least
    rows = sum(count for _, _, count in groups)
    dealing = None if streams.folder is None else _dealing(run, staged.features, rows, streams.folder)
    return ParquetScan(spark, tasks, tuple(own), run.data.split, label, least, at_once, dealing)


def _dealing(run: RunConfig, features: Sequence[PlannedFeature], rows: int, folder: str) -> Dealing:
    """Return where to deal so many rows, whose parts are guessed."""
    shares = zip(SPLITS, run.data.split.fractions, strict=True)
    # Chance may give rows to any split, so that each needs a part.
    counts = {split: max(1, round(rows * share)) for split, share in shares}
    size = ROW_BYTES
    for feature in features:
        size += 4.0 * (numbers_per_row(feature.ops) or 1) if feature.kind == "dense" else 8.0
    place = Path(folder) / "dealt"
    place.mkdir()
    return Dealing(str(place), Layout.of(counts, run.data.rows_per_file, size, {}))


def local_file(uri: str) -> str | None:
    """Return the path of a file that executors open like any other, None for one in a store."""
    parts = urlsplit(uri)
    return unquote(parts.path) if parts.scheme == "file" and "%" not in unquote(parts.path) else None


def _tasks(groups: Sequence[tuple[str, int, int]], least: int) -> tuple[tuple[_RowGroups, ...], ...]:
    """Deal row groups (path, number, rows) to tasks of about equal numbers of rows, in order."""
    rows = sum(count for _, _, count in groups)
    wanted = max(1, min(len(groups), max(least, rows // _ROWS_PER_TASK)))
    tasks: list[dict[str, list[int]]] = [{} for _ in range(wanted)]
    before = 0
    for path, number, count in groups:
        middle = before + count / 2
        tasks[min(wanted - 1, int(middle * wanted / rows))].setdefault(path, []).append(number)
        before += count
    return tuple(
        tuple(_RowGroups(path, tuple(numbers)) for path, numbers in task.items()) for task in tasks if task
    )
