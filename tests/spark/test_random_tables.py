"""Random schemas and values through prepare, compared with plain Python row by row."""

from __future__ import annotations

import datetime
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from jobs.preparation.pipeline import prepare_dataset
from tests.spark.prepared import make_run, read_all

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["a", "b", "0", " ", "007"]
)
FINITE = st.floats(-1e6, 1e6).map(lambda x: round(x, 3)) | st.integers(-5, 5).map(float)
DATES = st.dates(datetime.date(1960, 1, 1), datetime.date(2100, 1, 1))
# Arrow type and values of a column of single ids; those of numbers are dense features as well.
KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "text": (pa.string(), TEXT),
    "int64": (pa.int64(), st.integers(-(2**62), 2**62) | st.integers(-3, 3)),
    "int16": (pa.int16(), st.integers(-300, 300)),
    "double": (pa.float64(), FINITE | st.just(math.nan)),
    "float": (pa.float32(), FINITE.map(np.float32)),
    "boolean": (pa.bool_(), st.booleans()),
    "date": (pa.date32(), DATES),
    "texts": (pa.list_(pa.string()), st.lists(TEXT | st.none(), max_size=4)),
    "ints": (pa.list_(pa.int64()), st.lists(st.integers(0, 9) | st.none(), max_size=4)),
}
NUMBERS = ("int16", "double", "float", "boolean")


@st.composite
def tables(draw: st.DrawFn) -> tuple[pa.Table, dict[str, str]]:
    """Return a table with `row`, `label` and some columns of random kinds, and the kind of each."""
    rows = draw(st.integers(40, 120))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    chosen = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=3, max_size=6))
    kinds = {
        f"{draw(st.sampled_from(['c', 'Name', 'with space', 'dot.ted', 'ü']))}{n}": k
        for n, k in enumerate(chosen)
    }
    columns: dict[str, pa.Array] = {"row": pa.array(range(rows)), "label": pa.array(np.arange(rows) % 2)}
    for name, kind in kinds.items():
        arrow, values = KINDS[kind]
        pool = draw(st.lists(st.none() | values, min_size=1, max_size=12))
        columns[name] = pa.array([pool[i] for i in random.integers(0, len(pool), rows)], arrow)
    return pa.table(columns), kinds


def token(value: Any) -> str | None:
    """Return a raw value as an id's text."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def ranked(tokens: Sequence[str | None]) -> dict[str, int]:
    """Number the tokens of the training rows: most frequent first, ties by their UTF-8 text."""
    counts = Counter(t for t in tokens if t is not None)
    return {t: n for n, t in enumerate(sorted(counts, key=lambda t: (-counts[t], t.encode())), start=2)}


def hashed(value: str | None) -> int:
    """Return the id of `hash: 50`."""
    if value is None:
        return 0
    unsigned = xxhash.xxh64_intdigest(f"0:{value}".encode(), seed=42)
    return (unsigned - (1 << 64) if unsigned >> 63 else unsigned) % 50 + 1


@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking would prepare hundreds of tables
    suppress_health_check=list(HealthCheck),
)
@given(drawn=tables())
def test_random_tables_are_prepared_as_plain_python_says(
    spark: SparkSession, tmp_path: Path, drawn: tuple[pa.Table, dict[str, str]]
) -> None:
    table, kinds = drawn
    out = tmp_path / "data"
    shutil.rmtree(out, ignore_errors=True)
    pq.write_table(table, tmp_path / "raw.parquet", row_group_size=17)
    numbers = [name for name, kind in kinds.items() if kind in NUMBERS]
    plain = {name: f"f{n}" for n, name in enumerate(kinds)}
    run = make_run(
        data={
            "root": str(tmp_path),
            "source": {"path": "raw.parquet"},
            "keep": ["row"],
            "split": {"fractions": [0.6, 0.2, 0.2]},
        },
        dense=[{"columns": name, "name": f"d_{plain[name]}", "ops": [{"fill": -1.5}]} for name in numbers],
        sparse=[
            *({"columns": name, "name": f"v_{plain[name]}", "ops": "vocabulary"} for name in kinds),
            *({"columns": name, "name": f"h_{plain[name]}", "ops": [{"hash": 50}]} for name in kinds),
        ],
    )
    prepare_dataset(run, out, spark=spark)
    rows = read_all(out, "row")
    assert rows.index.tolist() == table["row"].to_pylist()
    train = (rows["split"] == "train").tolist()
    for name, kind in kinds.items():
        values = _values(table[name])
        listed = kind in ("texts", "ints")
        tokens = [[token(v) for v in (value or [])] if listed else [token(value)] for value in values]
        ids = ranked([t for keep, row in zip(train, tokens, strict=True) if keep for t in row])
        expected_ids = [[ids.get(t, 1) if t is not None else 0 for t in row] for row in tokens]
        expected_hashes = [[hashed(t) for t in row] for row in tokens]
        for feature, expected in ((f"v_{plain[name]}", expected_ids), (f"h_{plain[name]}", expected_hashes)):
            found = rows[feature].tolist()
            if listed:  # missing items are left out of lists
                assert [list(row) for row in found] == [[i for i in row if i != 0] for row in expected], name
            else:
                assert found == [row[0] for row in expected], name
        if name in numbers:
            wanted = [-1.5 if token(value) is None else float(value) for value in values]
            np.testing.assert_array_equal(rows[f"d_{plain[name]}"], np.array(wanted, dtype=np.float32), name)


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Return the values in Python, 32-bit floats in their own precision."""
    if column.type == pa.float32():
        return [None if value is None else np.float32(value) for value in column.to_pylist()]
    return list(column.to_pylist())
