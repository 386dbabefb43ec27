"""Who the users of events are, where a kept column names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.support.datasets import write_dataset, write_split
from tests.support.tiny import CONFIG
from trainer.baselines.roles import Roles
from trainer.baselines.rows import BaselineRows
from trainer.config import RunConfig

LARGE = 1 << 60


@pytest.mark.parametrize(
    ("trained", "tested"),
    [
        # As float64, which pandas makes of integers beside a null, all three would be one user.
        (pa.array([LARGE, LARGE + 1, None, LARGE + 2, LARGE]), pa.array([LARGE + 2, None, LARGE + 1, 7])),
        (pa.array(["b", "a", None, "c", "b"]), pa.array(["c", None, "a", "d"])),
        (pa.array([2.5, 1.0, np.nan, 3.0, 2.5]), pa.array([3.0, np.nan, 1.0, 9.0])),
    ],
    ids=["integers", "text", "numbers"],
)
def test_users_are_told_apart_and_nulls_are_nobody(
    tmp_path: Path, trained: pa.Array, tested: pa.Array
) -> None:
    users = {"train": trained, "test": tested}
    rows = {split: len(values) for split, values in users.items()}
    written = write_dataset(tmp_path, rows=rows, num_lists=0, num_sequences=0)
    splits = {
        split: write_split(tmp_path, split, written.tables[split].append_column("keep.user", values), 3, 3)
        for split, values in users.items()
    }
    manifest = written.manifest.model_copy(update={"splits": splits})
    manifest.save(tmp_path)
    item = next(feature for feature in manifest.spec.features if feature.name == "s0")
    roles = Roles(item, user="user", events="s0")
    found = BaselineRows(RunConfig.from_dict(CONFIG), manifest, tmp_path, roles)

    def numbers(split: str) -> list[int]:
        by_row: dict[int, int] = {}
        for batch in found.batches(split):
            by_row |= dict(zip(batch.rows_B.tolist(), found.users(split).of(batch).tolist(), strict=True))
        return [by_row[row] for row in range(rows[split])]

    assert numbers("train") == [0, 1, -1, 2, 0]
    assert numbers("test") == [2, -1, 1, -1]
