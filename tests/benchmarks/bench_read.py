"""Speed of the readers on synthetic rows in the Criteo shape, and their memory over epochs.

    python -m tests.benchmarks.bench_read [--rows 1000000] [--rounds 5]

Prints one JSON object `{"rows": [{"name", "value", "unit", "ratio", "against"}]}`. Files are in the page
cache. Every measurement is the median of several rounds, taken in turns, so that a busy machine slows all
alike; processor seconds are given as well, since other programs disturb them less than the clock.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.support.datasets import WrittenDataset, write_dataset
from trainer.batch import Batch
from trainer.data import open_reader, prefetched

BATCH = 2048
LANES = 32
SHUFFLING_QUEUE_ROWS = 200_000
ROWS = "synthetic rows/s"
CPU_ROWS = "synthetic rows per CPU second"
IDS = "synthetic ids/s"


def arrow(written: WrittenDataset, shuffle: bool, reader: str = "arrow") -> Iterable[Batch]:
    opened = open_reader(
        written.folder,
        written.manifest,
        "train",
        reader=reader,  # type: ignore[arg-type]
        global_batch_size=BATCH,
        num_lanes=LANES,
        rank=0,
        world_size=1,
        seed=1,
        shuffle=shuffle,
        tail="pad",
    )
    return prefetched(opened.batches(0), depth=8)


def bare_pyarrow(written: WrittenDataset) -> Iterator[Any]:
    """Decode the same columns with `iter_batches`, and do nothing with them."""
    columns = [f.name for f in written.manifest.spec.features] + ["label"]
    for file in written.manifest.splits["train"].files:
        yield from pq.ParquetFile(written.folder / file.path).iter_batches(batch_size=BATCH, columns=columns)


def petastorm_loader(written: WrittenDataset, queue_rows: int) -> Iterator[Any]:
    """petastorm as its own documentation uses it: make_batch_reader and BatchedDataLoader."""
    from petastorm import make_batch_reader
    from petastorm.pytorch import BatchedDataLoader

    columns = [f.name for f in written.manifest.spec.features] + ["label"]
    urls = [f"file://{written.folder / file.path}" for file in written.manifest.splits["train"].files]
    reader = make_batch_reader(
        urls, schema_fields=columns, num_epochs=1, workers_count=2, shuffle_row_groups=queue_rows > 0
    )
    try:
        yield from BatchedDataLoader(reader, batch_size=BATCH, shuffling_queue_capacity=queue_rows)
    finally:
        reader.stop()
        reader.join()


@dataclass(frozen=True)
class Speed:
    """Work per second by the clock, and per processor second of all threads."""

    per_second: float
    per_cpu_second: float


def seconds(make: Callable[[], Iterable[Any]]) -> tuple[float, float]:
    clock, cpu = time.perf_counter(), time.process_time()
    for _ in make():
        pass
    return time.perf_counter() - clock, time.process_time() - cpu


def medians(contenders: dict[str, Callable[[], Iterable[Any]]], rounds: int, work: float) -> dict[str, Speed]:
    """Return the median speed of every contender."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, make in contenders.items():
            elapsed = seconds(make)
            if number > 0:  # the first round warms caches and imports
                taken[name].append(elapsed)
            print(f"round {number}: {name} {work / elapsed[0]:,.0f}/s", file=sys.stderr)
    return {
        name: Speed(*(work / statistics.median(values) for values in zip(*pairs, strict=True)))
        for name, pairs in taken.items()
    }


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def figure(
    name: str, value: float, unit: str, ratio: float | None = None, against: str | None = None
) -> dict:
    return {
        "name": name,
        "value": round(value, 3 if value < 100 else 0),
        "unit": unit,
        "ratio": None if ratio is None else round(ratio, 3),
        "against": against,
    }


def criteo_shape(folder: Path, rows: int, rounds: int) -> list[dict]:
    written = write_dataset(
        folder,
        rows=rows,
        num_dense=13,
        num_sparse=26,
        num_lists=0,
        num_sequences=0,
        num_embeddings=100_000,
        rows_per_row_group=65_536,
        rows_per_file=262_144,
    )
    contenders: dict[str, Callable[[], Iterable[Any]]] = {
        "arrow, shuffled": lambda: arrow(written, shuffle=True),
        "arrow, in order": lambda: arrow(written, shuffle=False),
        "pyarrow iter_batches": lambda: bare_pyarrow(written),
    }
    if importlib.util.find_spec("petastorm") is not None:
        contenders["reader: petastorm, shuffled"] = lambda: arrow(written, True, "petastorm")
        contenders["BatchedDataLoader, shuffled"] = lambda: petastorm_loader(written, SHUFFLING_QUEUE_ROWS)
        contenders["BatchedDataLoader, in order"] = lambda: petastorm_loader(written, 0)
    found = medians(contenders, rounds, rows)
    figures = [line for name in found for line in speeds(name, found)]
    return [*figures, memory_over_epochs(written)]


def speeds(name: str, found: dict[str, Speed]) -> list[dict]:
    """Return the figures of one contender against each of its rivals that were measured."""
    order = name.rpartition(", ")[2]
    ours = name.startswith(("arrow", "reader"))
    rivals = [f"BatchedDataLoader, {order}", "pyarrow iter_batches"] if ours else []
    mine = found[name]
    lines = [figure(name, mine.per_second, ROWS), figure(name, mine.per_cpu_second, CPU_ROWS)]
    for rival in rivals:
        if rival in found:
            theirs = found[rival]
            lines += [
                figure(name, mine.per_second, ROWS, mine.per_second / theirs.per_second, rival),
                figure(
                    name, mine.per_cpu_second, CPU_ROWS, mine.per_cpu_second / theirs.per_cpu_second, rival
                ),
            ]
    return lines


def memory_over_epochs(written: WrittenDataset) -> dict:
    """Compare the largest resident memory of epochs 9 to 16 with that of epochs 1 to 8."""
    resident = []
    for _ in range(16):
        seconds(lambda: arrow(written, shuffle=True))
        resident.append(resident_mib())
    first, second = max(resident[:8]), max(resident[8:])
    return figure("resident memory, epochs 9 to 16", second, "MiB", second / first, "epochs 1 to 8")


def multi_hot(folder: Path, rows: int, rounds: int) -> list[dict]:
    written = write_dataset(
        folder,
        rows=rows,
        num_dense=4,
        num_sparse=0,
        num_lists=2,
        num_sequences=0,
        mean_length=20.0,
        num_embeddings=100_000,
        rows_per_row_group=65_536,
        rows_per_file=262_144,
    )
    lists = (written.tables["train"].column(name) for name in ("m0", "m1"))
    ids = sum(len(chunk.values) for column in lists for chunk in column.chunks)
    found = medians({"arrow, multi-hot, shuffled": lambda: arrow(written, shuffle=True)}, rounds, ids)
    return [figure(name, speed.per_second, IDS) for name, speed in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        figures = criteo_shape(folder / "criteo_shape_synthetic", options.rows, options.rounds)
        figures += multi_hot(folder / "multi_hot_synthetic", max(1, options.rows // 4), options.rounds)
    print(json.dumps({"rows": figures}))


if __name__ == "__main__":
    main()
