"""Rows numbered where they lie against their place in a list that Python sorted."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.preparation.part_numbers import numbered_parts

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize(("rows", "parts"), [(1, 3), (1_000, 1), (1_000, 7)])
def test_numbers_of_sorted_rows_are_their_places(
    spark: SparkSession, tmp_path: Path, rows: int, parts: int
) -> None:
    texts = [f"{(n * 7919) % 1000}é{n}" for n in range(rows)]
    frame = spark.createDataFrame([(text, n) for n, text in enumerate(texts)], "`a.b` string, n int")
    placed = frame.repartitionByRange(parts, "`a.b`").sortWithinPartitions("`a.b`")
    placed.write.parquet(str(tmp_path / "parts"))
    assert parts == 1 or rows == 1 or len(list((tmp_path / "parts").glob("part-*.parquet"))) == parts
    found = {
        row["a.b"]: row["number"] for row in numbered_parts(tmp_path / "parts", spark, "number").collect()
    }
    assert found == {text: place for place, text in enumerate(sorted(texts, key=str.encode))}
