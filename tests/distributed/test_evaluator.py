"""An evaluation is the same to the last bit at every world size, however few rows a rank holds at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.predicted import ROWS, evaluated, write_kept
from tests.support.ranks import run_distributed
from trainer import evaluator
from trainer.config.metrics import METRICS
from trainer.evaluation_settings import EvaluationSettings
from trainer.evaluator import Evaluated
from trainer.row_store import Rows, RowStore

SETTINGS = EvaluationSettings(
    names=frozenset(METRICS), group="user", at=(1, 2), by="country", confidence=0.9, resamples=20
)


class Measured(RowStore):
    """Remembers how many rows came at once."""

    most_rows = 0

    def in_order(self, *arguments: Any, **options: Any) -> Iterator[Rows]:
        for block in super().in_order(*arguments, **options):
            Measured.most_rows = max(Measured.most_rows, len(block))
            yield block


def on_rank(rank: int, world_size: int, folder: str, rows_in_memory: int) -> tuple[Evaluated, int]:
    evaluator.RowStore = Measured  # type: ignore[misc]
    options = {"rank": rank, "world_size": world_size, "rows_in_memory": rows_in_memory}
    return evaluated(Path(folder), SETTINGS, **options), Measured.most_rows


@pytest.mark.parametrize(("ranks", "rows_in_memory"), [(2, 60), (3, 30)])
def test_ranks_agree_with_one_process_to_the_last_bit(
    tmp_path: Path, ranks: int, rows_in_memory: int
) -> None:
    write_kept(tmp_path)
    alone = evaluated(tmp_path, SETTINGS)
    assert alone.rows == ROWS
    results = run_distributed(on_rank, ranks, str(tmp_path), rows_in_memory)
    for found, most_rows in results:
        assert repr(found) == repr(alone)  # NaN equals NaN here
        assert most_rows < ROWS / ranks
