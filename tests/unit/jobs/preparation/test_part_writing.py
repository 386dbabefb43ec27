"""Part files hold what they were given, ids bit-packed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.preparation.part_writing import write_parquet


def test_ids_are_bit_packed_and_read_back_as_they_were(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    ids = g.integers(0, 2**40, 1_000)
    rows = pa.table(
        {
            "item.id": ids,
            "history": pa.array([ids[:n].tolist() for n in g.integers(0, 5, 1_000)], pa.list_(pa.int64())),
            "price": pa.array(g.integers(0, 9, 1_000), pa.float32()),
            "numbers": pa.array([[1.5, 2.5]] * 1_000, pa.list_(pa.float32())),
        }
    )
    path = tmp_path / "part.parquet"
    write_parquet(rows, path, 300, ["item.id", "history"])
    assert pq.read_table(path).equals(rows)
    assert list(tmp_path.iterdir()) == [path]
    footer = pq.read_metadata(path)
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    assert [group.num_rows for group in groups] == [300, 300, 300, 100]
    packed = {
        group.column(number).path_in_schema
        for group in groups
        for number in range(group.num_columns)
        if "DELTA_BINARY_PACKED" in group.column(number).encodings
    }
    assert packed == {"item.id", "history.list.element"}
