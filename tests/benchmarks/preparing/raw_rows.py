"""Raw rows in the Criteo shape: a label, 13 counts with missing values, 26 columns of power-law ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.preparing import DENSE, LABEL, SPARSE

ROWS_PER_FILE = 1_000_000
_ROWS_PER_ROW_GROUP = 250_000
# Distinct ids of the columns in turn: Criteo's own go from 4 to some millions.
_SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)


def write_raw_rows(folder: Path, rows: int, seed: int = 0) -> None:
    """Write synthetic rows as Parquet files of a million rows at most, each with a seed of its own."""
    folder.mkdir(parents=True)
    for number, first in enumerate(range(0, rows, ROWS_PER_FILE)):
        generator = np.random.default_rng([seed, number])
        table = _table(min(ROWS_PER_FILE, rows - first), generator)
        pq.write_table(table, folder / f"raw-{number:05d}.parquet", row_group_size=_ROWS_PER_ROW_GROUP)


def _table(rows: int, generator: np.random.Generator) -> pa.Table:
    columns = {LABEL: pa.array((generator.random(rows) < 0.25).astype(np.int32))}
    for number, name in enumerate(DENSE):
        counts = generator.geometric(0.02, rows).astype(np.int32) - 1
        columns[name] = pa.array(counts, mask=generator.random(rows) < 0.08 * (number % 6))
    for number, name in enumerate(SPARSE):
        size = _SIZES[number % len(_SIZES)]
        rank = (size ** generator.random(rows)).astype(np.int64)  # the r-th id has a share of about 1 / r
        missing = generator.random(rows) < (0.03 if number % 4 == 0 else 0.0)
        columns[name] = pa.array(rank * 2_654_435_761 % 2**32, mask=missing)  # scattered, as hashes are
    return pa.table(columns)
