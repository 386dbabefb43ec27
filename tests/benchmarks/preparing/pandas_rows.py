"""The pandas script tuned for memory: file by file, so that it holds the vocabularies and one file of rows.

It shuffles within a file of a million rows only, which is less work than shuffling all rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tests.benchmarks.preparing import DENSE, FRACTIONS, MIN_COUNT, SEED, SPARSE, SPLITS, timed

_MISSING = -1
_ROWS_PER_ROW_GROUP = 65_536


def prepare(raw: Path, out: Path) -> None:
    """Prepare every file twice: once for the counts, once for the rows."""
    for split in SPLITS:
        (out / split).mkdir(parents=True)
    files = sorted(raw.glob("*.parquet"))
    vocabularies = _fit(files)
    for number, file in enumerate(files):
        frame = pd.read_parquet(file)
        split_of_row = _split_of_rows(len(frame), number)
        frame[DENSE] = np.log1p(frame[DENSE].fillna(0).to_numpy(np.float32))
        for name in SPARSE:
            frame[name] = _encoded(_ids(frame[name]), vocabularies[name])
        frame = frame.astype({"label": np.float32})
        for split, name in enumerate(SPLITS):
            rows = np.random.default_rng([SEED, number, split]).permutation(
                np.flatnonzero(split_of_row == split)
            )
            part = frame.iloc[rows]
            part.to_parquet(
                out / name / f"part-{number:05d}.parquet",
                index=False,
                row_group_size=_ROWS_PER_ROW_GROUP,
                compression="zstd",
            )


def _fit(files: list[Path]) -> dict[str, pd.Index]:
    counts: dict[str, pd.Series] = {}
    for number, file in enumerate(files):
        frame = pd.read_parquet(file, columns=SPARSE)
        train = frame[_split_of_rows(len(frame), number) == 0]
        for name in SPARSE:
            found = train[name].value_counts(sort=False)
            known = counts.get(name)
            together = (
                found if known is None else pd.concat([known, found]).groupby(level=0, sort=False).sum()
            )
            counts[name] = together
    return {
        name: pd.Index(found[found >= MIN_COUNT].sort_values(ascending=False).index.astype(np.int64))
        for name, found in counts.items()
    }


def _split_of_rows(rows: int, number: int) -> np.ndarray:
    draws = np.random.default_rng([SEED, number]).random(rows)
    return np.searchsorted(np.cumsum(FRACTIONS)[:-1], draws, side="right")


def _ids(column: pd.Series) -> np.ndarray:
    return column.fillna(_MISSING).to_numpy(np.int64)


def _encoded(ids: np.ndarray, vocabulary: pd.Index) -> np.ndarray:
    """Return 0 for missing, 1 for out of vocabulary, then the place in the vocabulary."""
    return np.where(ids == _MISSING, 0, vocabulary.get_indexer(ids) + 2)


if __name__ == "__main__":
    timed(prepare)
