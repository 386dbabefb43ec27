"""The pandas script that people write first: all files as one frame, as many rows as memory holds.

It shuffles all rows of every split, as shardrec does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tests.benchmarks.preparing import DENSE, FRACTIONS, LABEL, MIN_COUNT, SEED, SPARSE, SPLITS, timed

_ROWS_PER_ROW_GROUP = 65_536


def prepare(raw: Path, out: Path) -> None:
    """Read all rows, deal them, fit on train, transform all and write each split."""
    frame = pd.read_parquet(raw)
    draws = np.random.default_rng(SEED).random(len(frame))
    split_of_row = np.searchsorted(np.cumsum(FRACTIONS)[:-1], draws, side="right")
    frame[LABEL] = frame[LABEL].astype(np.float32)
    frame[DENSE] = np.log1p(frame[DENSE].fillna(0).astype(np.float32))
    for name in SPARSE:
        frame[name] = _encoded(frame[name], _vocabulary(frame.loc[split_of_row == 0, name]))
    for split, name in enumerate(SPLITS):
        rows = frame[split_of_row == split].sample(frac=1, random_state=SEED)
        (out / name).mkdir(parents=True)
        rows.to_parquet(
            out / name / "part-00000.parquet",
            index=False,
            row_group_size=_ROWS_PER_ROW_GROUP,
            compression="zstd",
        )


def _vocabulary(train: pd.Series) -> pd.Index:
    """Return the values of the training rows that occur often enough, most frequent first."""
    counts = train.value_counts()
    return counts.index[counts >= MIN_COUNT]


def _encoded(column: pd.Series, vocabulary: pd.Index) -> np.ndarray:
    """Return 0 for missing, 1 for out of vocabulary, then the place in the vocabulary."""
    return np.where(column.isna(), 0, vocabulary.get_indexer(column) + 2).astype(np.int32)


if __name__ == "__main__":
    timed(prepare)
