"""Vocabularies larger than any process may hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from trainer.schema import Manifest

REPOSITORY = Path(__file__).parents[2]
ROWS, FILES = 20_000_000, 20
HOT_SHARE = 0.6


def _write(folder: Path) -> None:
    """Write rows with a user of their own each, and an item that most of them share."""
    folder.mkdir()
    size = ROWS // FILES
    for number in range(FILES):
        g = np.random.default_rng(number)
        users = np.arange(number * size, (number + 1) * size) * 2_654_435_761 % 2**32  # odd: no two alike
        items = np.where(g.random(size) < HOT_SHARE, 7, g.integers(0, 5_000_000, size))
        labels = g.integers(0, 2, size).astype(np.int8)
        table = pa.table({"label": labels, "user": users, "item": items})
        pq.write_table(table, folder / f"{number:02d}.parquet", row_group_size=250_000)


@pytest.mark.slow
def test_twenty_million_ids_fit_under_a_heap_of_one_gib(tmp_path: Path) -> None:
    _write(tmp_path / "raw")
    command = [sys.executable, "-m", "tests.spark.scale_job", str(tmp_path / "raw"), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["heap_limit_gib"] <= 1
    assert facts["driver_gib"] < 1.5
    manifest = Manifest.load(tmp_path / "out")
    assert sum(split.rows for split in manifest.splits.values()) == ROWS
    train = manifest.splits["train"].rows
    user = manifest.spec.features[0]
    assert user.num_embeddings == train + 2

    stored = ds.dataset(tmp_path / "out" / str(user.vocabulary)).to_table()
    ids, values = stored["id"].to_numpy(), stored["value"].cast(pa.int64()).to_numpy()
    assert len(np.unique(values)) == train
    np.testing.assert_array_equal(np.sort(ids), np.arange(2, train + 2))
    order = np.argsort(values)
    for split, rows in manifest.splits.items():
        table = pq.read_table(tmp_path / "out" / rows.files[0].path)
        place = np.minimum(np.searchsorted(values[order], table["keep.user"].to_numpy()), train - 1)
        known = values[order][place] == table["keep.user"].to_numpy()
        assert known.all() == (split == "train")
        np.testing.assert_array_equal(table["user"].to_numpy(), np.where(known, ids[order][place], 1))
        hot = table["keep.item"].to_numpy() == 7
        assert hot.mean() == pytest.approx(HOT_SHARE, abs=0.02)
        np.testing.assert_array_equal(table["item"].to_numpy() == 2, hot)  # the most frequent value
