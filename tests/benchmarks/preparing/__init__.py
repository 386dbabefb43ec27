"""One contender of `bench_prepare` a file: each prepares the same raw rows, as a process of its own.

    python -m tests.benchmarks.preparing.CONTENDER RAW OUT

The work of all: deal the rows of the Parquet files in RAW 80/10/10 into train, valid and test at random; fit
a vocabulary of every id column on train alone, without values that occur once; fill missing numbers with 0
and take log1p; replace ids; shuffle; write Parquet to OUT/train, OUT/valid and OUT/test. Each prints one JSON
object with `seconds` and `cpu_seconds`, what this took without imports and without starting Spark or a Dask
cluster.

This file and the baselines import neither shardrec nor torch: NVTabular needs an environment of its own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.process_memory import cpu_seconds

LABEL = "label"
DENSE = [f"I{number}" for number in range(1, 14)]
SPARSE = [f"C{number}" for number in range(1, 27)]
SPLITS = ("train", "valid", "test")
FRACTIONS = (0.8, 0.1, 0.1)
MIN_COUNT = 2
CORES = 2
SEED = 1


def timed(prepare: Callable[[Path, Path], dict[str, Any] | None]) -> None:
    """Run a contender on the folders of the command line and print its time and what it says itself."""
    raw, out = map(Path, sys.argv[1:3])
    start, cpu_start = time.perf_counter(), cpu_seconds()
    facts = prepare(raw, out) or {}
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": cpu_seconds() - cpu_start}
    print(json.dumps(took | facts))
