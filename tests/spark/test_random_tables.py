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
import pytest
import xxhash
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from jobs.preparation import pipeline
from jobs.preparation.parquet_scan import ParquetScan, parquet_scan
from jobs.preparation.pipeline import prepare_dataset
from tests.spark.prepared import make_run, read_all, read_split
from trainer.data import open_reader
from trainer.schema import Manifest

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["a", "b", "0", " ", "007"]
)
FINITE = st.floats(-1e6, 1e6).map(lambda x: round(x, 3)) | st.integers(-5, 5).map(float)
ANY_FLOAT = st.floats() | st.sampled_from(
    [-0.0, 5e-324, 1.7976931348623157e308, 2.0**53, 2.0**53 - 1, 1e15 + 0.5, math.inf, -math.inf, math.nan]
)
LIMITS = st.sampled_from([-(2**63), 2**63 - 1, 2**53 + 1, 0])
MOMENTS = datetime.datetime(1960, 1, 1), datetime.datetime(2100, 1, 1)
DATES = st.dates(datetime.date(1960, 1, 1), datetime.date(2100, 1, 1))
# Arrow type and values of a column of single ids; those of numbers are dense features as well.
KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "text": (pa.string(), TEXT),
    "int64": (pa.int64(), st.integers(-(2**62), 2**62) | st.integers(-3, 3) | LIMITS),
    "int16": (pa.int16(), st.integers(-300, 300)),
    "double": (pa.float64(), FINITE | st.just(math.nan)),
    "any double": (pa.float64(), ANY_FLOAT),
    "float": (pa.float32(), FINITE.map(np.float32)),
    "decimal": (pa.decimal128(12, 3), st.decimals(-1000, 1000, places=3, allow_nan=False)),
    "uint32": (pa.uint32(), st.integers(0, 2**32 - 1)),
    "uint64": (pa.uint64(), st.integers(0, 2**64 - 1) | st.integers(0, 3)),
    "boolean": (pa.bool_(), st.booleans()),
    "date": (pa.date32(), DATES),
    "timestamp": (
        pa.timestamp("us", "UTC"),
        st.datetimes(*MOMENTS, timezones=st.just(datetime.timezone.utc)),
    ),
    "local timestamp": (pa.timestamp("us"), st.datetimes(*MOMENTS)),
    "texts": (pa.list_(pa.string()), st.lists(TEXT | st.none(), max_size=4)),
    "ints": (pa.list_(pa.int64()), st.lists(st.integers(0, 9) | LIMITS | st.none(), max_size=4)),
    "doubles": (pa.list_(pa.float64()), st.lists(ANY_FLOAT | st.none(), max_size=4)),
}
NUMBERS = ("int16", "double", "float", "boolean", "decimal", "uint32")
# Kinds that Spark has to read; without them the tasks read the file themselves.
READ_BY_SPARK = ("decimal", "uint32", "uint64")
LISTS = ("texts", "ints", "doubles")
NAMES = ("c", "Name", "with space", "dot.ted", "ü", "`tick`")


@st.composite
def tables(draw: st.DrawFn) -> tuple[pa.Table, dict[str, str]]:
    """Return a table with `row`, `label` and a column of each kind, and the kind of each column."""
    rows = draw(st.integers(40, 120))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # All kinds and names in every table: few tables are drawn.
    kinds = {f"{NAMES[n % len(NAMES)]}{n}": k for n, k in enumerate(draw(st.permutations(sorted(KINDS))))}
    columns: dict[str, pa.Array] = {"row": pa.array(range(rows)), "label": pa.array(np.arange(rows) % 2)}
    for name, kind in kinds.items():
        arrow, values = KINDS[kind]
        pool = [None, *draw(st.lists(values, min_size=1, max_size=12))]
        columns[name] = pa.array([pool[i] for i in random.integers(0, len(pool), rows)], arrow)
    return pa.table(columns), kinds


def token(value: Any) -> str | None:
    """Return a raw value as an id's text."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)) and float(value).is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, datetime.datetime):
        text = value.replace(tzinfo=None).isoformat(" ")
        return text.rstrip("0") if "." in text else text
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


@pytest.mark.parametrize("reader", ["spark", "tasks"])
@settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking would prepare hundreds of tables
    suppress_health_check=list(HealthCheck),
)
@given(drawn=tables())
def test_random_tables_are_prepared_as_plain_python_says(
    spark: SparkSession, tmp_path: Path, reader: str, drawn: tuple[pa.Table, dict[str, str]]
) -> None:
    table, kinds = drawn
    if reader == "tasks":
        table = table.drop([name for name, kind in kinds.items() if kind in READ_BY_SPARK])
        kinds = {name: kind for name, kind in kinds.items() if kind not in READ_BY_SPARK}
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
    scans: list[ParquetScan | None] = []

    def watched(*args: Any) -> ParquetScan | None:
        scans.append(parquet_scan(*args))
        return scans[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "parquet_scan", watched)
        manifest = prepare_dataset(run, out, spark=spark).manifest
    assert [scan is not None for scan in scans] == [reader == "tasks"]
    wanted_dense: dict[str, list[float]] = {}
    wanted_ids: dict[str, list[list[int]]] = {}
    rows = read_all(out, "row")
    assert rows.index.tolist() == table["row"].to_pylist()
    train = (rows["split"] == "train").tolist()
    for name, kind in kinds.items():
        values = _values(table[name])
        listed = kind in LISTS
        tokens = [[token(v) for v in (value or [])] if listed else [token(value)] for value in values]
        ids = ranked([t for keep, row in zip(train, tokens, strict=True) if keep for t in row])
        expected_ids = [[ids.get(t, 1) if t is not None else 0 for t in row] for row in tokens]
        expected_hashes = [[hashed(t) for t in row] for row in tokens]
        for feature, expected in ((f"v_{plain[name]}", expected_ids), (f"h_{plain[name]}", expected_hashes)):
            found = rows[feature].tolist()
            if listed:  # missing items are left out of lists
                expected = [[i for i in row if i != 0] for row in expected]
            assert [list(row) if listed else [row] for row in found] == expected, name
            wanted_ids[feature] = expected
        if name in numbers:
            wanted = [-1.5 if token(value) is None else float(value) for value in values]
            np.testing.assert_array_equal(rows[f"d_{plain[name]}"], np.array(wanted, dtype=np.float32), name)
            wanted_dense[f"d_{plain[name]}"] = wanted
    for split in ("train", "valid", "test"):
        _check_batches(out, manifest, split, wanted_dense, wanted_ids)


def _check_batches(
    out: Path,
    manifest: Manifest,
    split: str,
    wanted_dense: dict[str, list[float]],
    wanted_ids: dict[str, list[list[int]]],
) -> None:
    """Compare what the reader gives of a split with the values of all raw rows."""
    raw_rows = read_split(out, split)["keep.row"].tolist()
    places = {"rank": 0, "world_size": 1, "num_lanes": 2, "global_batch_size": 8}
    seen = []
    for batch in open_reader(out, manifest, split, seed=1, shuffle=True, tail="pad", **places).batches(0):
        real = [n for n, row in enumerate(batch.rows_B.tolist()) if row >= 0]
        raw = [raw_rows[batch.rows_B[n]] for n in real]
        seen += raw
        assert batch.labels_BT[real, 0].tolist() == [row % 2 for row in raw]
        dense = np.array([[wanted_dense[name][row] for name in wanted_dense] for row in raw], np.float32)
        order = [[f.name for f in manifest.spec.dense].index(name) for name in wanted_dense]
        np.testing.assert_array_equal(batch.dense_BF[real][:, order].numpy(), dense)
        for name, ids in batch.sparse.to_dict().items():
            lists = ids.to_dense()
            assert [lists[n].tolist() for n in real] == [wanted_ids[name][row] for row in raw], name
    assert sorted(seen) == sorted(raw_rows)


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Return the values in Python, 32-bit floats in their own precision."""
    if column.type == pa.float32():
        return [None if value is None else np.float32(value) for value in column.to_pylist()]
    return list(column.to_pylist())
