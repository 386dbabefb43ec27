"""Rows that tasks hand on come together in the driver's memory as they do in Spark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.handed_rows import HandedRows, RowsHere, RowsInSpark
from jobs.preparation.rows import RawColumns

SCHEMA = "key int, data binary"
ROWS = [{"key": number % 3, "data": bytes([number, 255])} for number in range(20)]


def twice(batches: Iterator[RawColumns]) -> Iterator[pa.RecordBatch]:
    for columns in batches:
        for key, data in zip(columns["key"].to_pylist(), columns["data"].to_pylist(), strict=True):
            pair = [pa.array([key, key + 1], pa.int32()), pa.array([data, data + b"!"])]
            yield pa.RecordBatch.from_arrays(pair, ["key", "data"])


def joined(rows: Mapping[str, Sequence[Any]]) -> Mapping[str, Any]:
    assert len(set(rows["key"])) == 1
    return {"key": rows["key"][0], "data": b"".join(sorted(map(bytes, rows["data"])))}


def said(rows: HandedRows) -> list[tuple[int, bytes]]:
    return sorted((row["key"], bytes(row["data"])) for row in rows.rows("key", "data"))


@pytest.mark.parametrize("here", [True, False])
def test_rows_are_mapped_added_and_brought_together(spark: SparkSession, here: bool) -> None:
    rows: HandedRows = RowsHere(spark, tuple(ROWS))
    if not here:
        rows = RowsInSpark(spark.createDataFrame([tuple(row.values()) for row in ROWS], SCHEMA))
    doubled = [(key + more, data + b"!" * more) for key, data in said(rows) for more in (0, 1)]
    kept = rows.mapped(["key", "data"], twice, SCHEMA).kept()
    assert said(kept) == sorted(doubled)
    whole = kept.with_rows([{"key": 7, "data": b"x"}], twice, SCHEMA)
    groups: dict[int, list[bytes]] = {}
    for key, data in [*doubled, (7, b"x"), (8, b"x!")]:
        groups.setdefault(key, []).append(data)
    expected = sorted((key, b"".join(sorted(parts))) for key, parts in groups.items())
    assert said(whole.grouped("key", joined, SCHEMA)) == expected
    shared, tasks = kept.shared("key")
    assert (tasks > 1) == here
    data = sorted(bytes(row["data"]) for row in shared.rows("data"))
    assert data == sorted(data for _, data in doubled for _ in range(tasks))
    kept.release()
