"""Rows of a split with made-up predictions, and an evaluator that gets this rank's share of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from tests.support.datasets import write_dataset, write_split
from trainer.data import ReadPolicy
from trainer.data.kept import KeptColumns
from trainer.evaluation_settings import EvaluationSettings
from trainer.evaluator import Evaluated, Evaluator
from trainer.schema import Manifest

ROWS = 900


@dataclass(frozen=True)
class Predicted:
    """Rows of split `test`; about a tenth have weight 0, users and countries are missing here and there.

    Attributes:
        scores: float32 with many equal ones.
        labels: 0 or 1.
        weights: float32 that do not add up exactly.
        users: text, None where missing.
        lists: integers, a list of 6 to 12 rows each.
        countries: text, None where missing.
    """

    scores: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    users: np.ndarray
    lists: np.ndarray
    countries: np.ndarray


def predicted() -> Predicted:
    """Return the rows."""
    rng = np.random.default_rng(7)
    users = np.array([f"u{n}" for n in rng.zipf(1.4, ROWS) % 80], object)
    countries = np.array(["fr", "de", "nl", None, "it"], object)[rng.integers(0, 5, ROWS)]
    users[rng.random(ROWS) < 0.05] = None
    sizes = rng.integers(6, 13, ROWS)
    return Predicted(
        scores=np.round(rng.normal(size=ROWS), 1).astype(np.float32),
        labels=(rng.random(ROWS) < 0.15).astype(np.float32),
        weights=(rng.random(ROWS) * (rng.random(ROWS) < 0.9)).astype(np.float32),
        users=users,
        lists=rng.permutation(np.repeat(np.arange(ROWS) * 3 - 50, sizes)[:ROWS]),
        countries=countries,
    )


def write_kept(folder: Path) -> None:
    """Write a data set that keeps user, list and country of the rows."""
    rows = predicted()
    written = write_dataset(folder, rows={"test": ROWS}, num_lists=0, num_sequences=0)
    table = written.tables["test"]
    for name, values in (("user", rows.users), ("list", rows.lists), ("country", rows.countries)):
        table = table.append_column(f"keep.{name}", pa.array(list(values)))
    split = write_split(folder, "test", table, rows_per_row_group=64, rows_per_file=256)
    written.manifest.model_copy(update={"splits": {"test": split}}).save(folder)


def evaluated(
    folder: Path,
    settings: EvaluationSettings,
    *,
    rank: int = 0,
    world_size: int = 1,
    rows_in_memory: int | None = None,
    **changes: Any,
) -> Evaluated:
    """Evaluate the rows with every rank holding blocks of 50 of them, in batches with padding.

    Args:
        folder: of `write_kept`.
        settings: what to compute.
        rank: this rank.
        world_size: ranks.
        rows_in_memory: see `RowStore`.
        changes: columns of `Predicted` to replace.
    """
    rows = {**vars(predicted()), **changes}
    kept = KeptColumns(folder, Manifest.load(folder), "test", ReadPolicy())
    evaluator = Evaluator(settings, torch.device("cpu"), kept, rows_in_memory)
    for block in range(rank, ROWS // 50, world_size):
        numbers = np.concatenate([np.arange(50 * block, 50 * block + 50), [-1, -2]])
        columns = (np.append(rows[name][numbers[:50]], [0, 0]) for name in ("scores", "labels", "weights"))
        evaluator.add(numbers, *(column.astype(np.float32) for column in columns))
    return evaluator.result()
