"""The original values behind ids, from the vocabulary of a data set."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

# Frequent ids stand at the front of a vocabulary; beyond this many rows the search is given up.
MAX_ROWS = 2_000_000


def tokens_of(vocabulary: Path, wanted: Collection[int]) -> dict[int, str]:
    """Return the tokens of some ids.

    Args:
        vocabulary: folder of Parquet parts with the columns `value` and `id`.
        wanted: ids.

    Returns:
        The tokens by id; an id that is not among the first `MAX_ROWS` rows is left out.
    """
    found: dict[int, str] = {}
    seen = 0
    ids = pa.array(sorted(wanted), type=pa.int64())
    for path in sorted(vocabulary.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(columns=["value", "id"]):
            if len(found) == len(wanted) or seen >= MAX_ROWS:
                return found
            seen += batch.num_rows
            rows = batch.filter(pc.is_in(batch.column("id"), value_set=ids)).to_pydict()
            found |= dict(zip(rows["id"], rows["value"], strict=True))
    return found
