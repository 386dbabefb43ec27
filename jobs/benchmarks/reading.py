"""`shardrec bench read`: how fast the readers turn prepared Parquet into batches, and their memory."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.benchmarks.figures import Figure
from jobs.benchmarks.memory import growth, resident_mib
from jobs.benchmarks.readers import (
    ARROW,
    BARE_PYARROW,
    BATCHED_LOADER,
    IN_ORDER,
    PETASTORM,
    SHUFFLED,
    Reading,
)
from jobs.benchmarks.rows import write_synthetic_rows
from jobs.benchmarks.timing import Pass, median_ratio, only_new_garbage, timed_rounds
from trainer.errors import UserError
from trainer.schema import Manifest

_SETTLING_EPOCHS = 2
_LEAST_EPOCHS = _SETTLING_EPOCHS + 2
_RIVALS = {
    ARROW + SHUFFLED: (BATCHED_LOADER + SHUFFLED, BARE_PYARROW),
    ARROW + IN_ORDER: (BATCHED_LOADER + IN_ORDER, BARE_PYARROW),
    PETASTORM + SHUFFLED: (BATCHED_LOADER + SHUFFLED, ARROW + SHUFFLED),
}
Told = Callable[[str], None]


@dataclass(frozen=True)
class ReadingTask:
    """What to measure.

    Attributes:
        data: data set folder; None for generated rows.
        split: split of `data` to read.
        rows: rows to generate; of `data`, whole part files with about so many rows are read.
        multi_hot: generate multi-hot lists in place of the Criteo shape.
        batch_size: rows of a batch.
        repeats: measured passes of every reader; the figures are medians.
        epochs: epochs over which resident memory is watched; 0 for none.
    """

    data: str | None = None
    split: str = "train"
    rows: int = 1_000_000
    multi_hot: bool = False
    batch_size: int = 2048
    repeats: int = 5
    epochs: int = 12


def bench_read(task: ReadingTask, told: Told = lambda _: None) -> list[Figure]:
    """Measure the readers in turns, with files in the page cache.

    Args:
        task: what to measure.
        told: takes a line on each pass.

    Returns:
        For every reader its rows/s by the clock and by processor seconds, each with its ratio to those that
        it is compared with (the median over the rounds); ids/s of lists; how resident memory grows.

    Raises:
        UserError: the task is at odds with itself.
        DataError: the data set cannot be read.
    """
    _check(task)
    with _opened(task) as reading:
        passes = timed_rounds(reading.contenders(), reading.rows, task.repeats, told)
        if not reading.stacks:
            told(f"{BATCHED_LOADER}: left out, it cannot read lists")
        whole = {name: mine for name, mine in passes.items() if all(one.whole for one in mine)}
        figures = [*_speeds(whole, reading), *_short_passes(passes), *_ids(whole, reading)]
        return [*figures, *_memory(reading, task.epochs, told)] if task.epochs else figures


def _check(task: ReadingTask) -> None:
    if task.data is not None and task.multi_hot:
        raise UserError(
            "--multi-hot says what to generate, and --data names rows that are there",
            where="shardrec bench read",
            fixes=["leave out one of them"],
        )
    if 0 < task.epochs < _LEAST_EPOCHS:
        raise UserError(
            "too few epochs to tell growth from the first filling of caches",
            where="--epochs",
            got=task.epochs,
            allowed=f"0 or at least {_LEAST_EPOCHS}",
            fixes=["--epochs 12", "--epochs 0 to leave out memory"],
        )


@contextmanager
def _opened(task: ReadingTask) -> Iterator[Reading]:
    if task.data is not None:
        manifest = _first_files(Manifest.load(task.data), task.split, task.rows)
        yield Reading(task.data, manifest, task.split, task.batch_size, _lanes(task.batch_size))
        return
    with tempfile.TemporaryDirectory(prefix="shardrec-bench-") as folder:
        manifest = write_synthetic_rows(Path(folder), task.rows, multi_hot=task.multi_hot)
        yield Reading(folder, manifest, "train", task.batch_size, _lanes(task.batch_size))


def _lanes(batch_size: int) -> int:
    """Return the most lanes, up to the default of 32, that a batch can take equally many rows from."""
    return max(lanes for lanes in range(1, 33) if batch_size % lanes == 0)


def _first_files(manifest: Manifest, split: str, rows: int) -> Manifest:
    """Leave out the part files after those that hold `rows` rows."""
    entry, kept, have = manifest.split(split), [], 0
    for file in entry.files:
        if have >= rows:
            break
        kept.append(file)
        have += file.rows
    shorter = entry.model_copy(update={"files": tuple(kept), "rows": have})
    return manifest.model_copy(update={"splits": {split: shorter}})


def _speeds(passes: dict[str, list[Pass]], reading: Reading) -> Iterator[Figure]:
    kind = "synthetic rows" if reading.manifest.synthetic else "rows"
    for name, mine in passes.items():
        rivals: list[str | None] = [rival for rival in _RIVALS.get(name, ()) if rival in passes]
        for unit, speed in ((f"{kind}/s", "per_second"), (f"{kind} per CPU second", "per_cpu_second")):
            speeds = [getattr(one, speed) for one in mine]
            for rival in rivals or [None]:
                theirs = [getattr(one, speed) for one in passes[rival]] if rival else None
                ratio = None if theirs is None else median_ratio(speeds, theirs)
                yield Figure(name, statistics.median(speeds), unit, ratio, rival)


def _short_passes(passes: dict[str, list[Pass]]) -> Iterator[Figure]:
    """Yield how many passes left out rows; those count in no other figure."""
    for name, mine in passes.items():
        tries = sum(one.tries for one in mine)
        short = tries - sum(one.whole for one in mine)
        if short:
            yield Figure(f"{name}, passes that left out rows", short, f"of {tries} passes")


def _ids(passes: dict[str, list[Pass]], reading: Reading) -> Iterator[Figure]:
    """Yield ids/s of the arrow reader where rows hold lists of ids."""
    if reading.stacks:
        return
    ids = sum(batch.sparse.values().numel() for batch in reading.batches(shuffle=False))
    kind = "synthetic ids/s" if reading.manifest.synthetic else "ids/s"
    for name in (ARROW + SHUFFLED, ARROW + IN_ORDER):
        seconds = statistics.median(one.seconds for one in passes[name])
        yield Figure(name, ids / seconds, kind)


def _memory(reading: Reading, epochs: int, told: Told) -> list[Figure]:
    resident = []
    with only_new_garbage():
        for number in range(1, epochs + 1):
            for _ in reading.batches(shuffle=True):
                pass
            resident.append(resident_mib())
            told(f"epoch {number}: {resident[-1]:,.0f} MiB resident")
    settled = resident[_SETTLING_EPOCHS:]
    name = f"{ARROW}{SHUFFLED}, resident memory"
    first, last = f"epoch {_SETTLING_EPOCHS + 1}", f"epoch {epochs}"
    return [
        Figure(f"{name}, growth after {_SETTLING_EPOCHS} epochs", growth(settled), "MiB per epoch"),
        Figure(f"{name}, {last}", settled[-1], "MiB", settled[-1] / settled[0], first),
    ]
