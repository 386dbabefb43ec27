"""Rows are dealt into splits by hash or by time; the same input always gives the same data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.preparation import splits
from jobs.preparation.columns import with_row_hashes
from jobs.preparation.pipeline import prepare_dataset
from jobs.preparation.report import report_text
from jobs.preparation.splits import with_split
from tests.spark.prepared import make_run, read_all, read_split, read_vocabulary
from trainer.config import SplitConfig
from trainer.errors import DataError
from trainer.schema import Manifest


def times(
    spark: SparkSession, values: list[float | None], fractions: tuple[float, float, float]
) -> list[str]:
    """Return the split of each time, by row number."""
    frame = spark.createDataFrame(list(enumerate(values)), "row int, time double")
    split = SplitConfig(method="time", column="time", fractions=fractions)
    rows = with_split(with_row_hashes(frame, ["row", "time"], seed=1), split)
    return [row["__split"] for row in sorted(rows.collect(), key=lambda row: row["row"])]


def test_time_split_puts_the_oldest_rows_into_train(spark: SparkSession) -> None:
    values: list[float | None] = [float(v) for v in np.random.default_rng(0).permutation(100)]
    found = times(spark, values, (0.8, 0.1, 0.1))
    expected = ["train" if v < 80 else "valid" if v < 90 else "test" for v in values if v is not None]
    assert found == expected


def test_time_split_keeps_equal_times_together(spark: SparkSession) -> None:
    values: list[float | None] = [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 3.0, 4.0]
    assert times(spark, values, (0.5, 0.3, 0.2)) == ["train"] * 8 + ["test"] * 2


def test_time_split_without_test_share_has_no_test_rows(spark: SparkSession) -> None:
    assert times(spark, [1.0, 2.0, 3.0, 4.0], (0.5, 0.5, 0.0)) == ["train", "train", "valid", "valid"]


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.0), (1.0, 0.0, 0.0)])
def test_newest_rows_never_leave_the_last_split_that_has_a_share(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, fractions: tuple[float, float, float]
) -> None:
    monkeypatch.setattr(splits, "QUANTILE_ROWS", 20)  # quantiles of a sample of the 100 rows
    found = times(spark, [float(v) for v in range(100)], fractions)
    assert "test" not in found
    assert ("valid" in found) == (fractions[1] > 0)


def test_time_split_names_missing_times(spark: SparkSession) -> None:
    with pytest.raises(DataError, match="1 row"):
        times(spark, [1.0, None, 3.0], (0.8, 0.1, 0.1))


def frame_of(rows: int) -> pd.DataFrame:
    random = np.random.default_rng(3)
    gaps = np.where(random.random(rows) < 0.2, np.nan, random.normal(size=rows))
    return pd.DataFrame(
        {
            "row": np.arange(rows),
            "label": random.integers(0, 2, rows),
            "x": gaps,
            "item": random.zipf(1.4, rows).clip(max=200).astype(str),
            "tags": random.choice(["a|b", "b", "c", ""], rows),
            "user": random.integers(0, 20, rows),
            "time": random.integers(0, 100, rows),
        }
    )


def test_data_and_spec_do_not_depend_on_partitions(spark: SparkSession, tmp_path: Path) -> None:
    raw = spark.createDataFrame(frame_of(800))
    run = make_run(
        data={"keep": ["row"], "rows_per_file": 150, "rows_per_row_group": 20},
        dense=[{"columns": "x", "ops": [{"fill": "mean"}, "standardise"]}],
        sparse=[
            {"columns": "item", "ops": "vocabulary"},
            {"columns": "tags", "ops": [{"split": "|"}, "vocabulary"]},
        ],
        sequence=[
            {
                "name": "h",
                "history": {"user": "user", "item": "item", "time": "time", "max_length": 5},
                "table": "item",
            }
        ],
    )
    before = spark.conf.get("spark.sql.shuffle.partitions")
    tables = []
    try:
        for place, (shuffles, partitions) in enumerate([(1, 1), (4, 7)]):
            spark.conf.set("spark.sql.shuffle.partitions", shuffles)
            shuffled = raw.repartition(partitions, "time")
            prepared = prepare_dataset(run, tmp_path / str(place), frame=shuffled, spark=spark)
            manifest = prepared.manifest
            files = [(f.path, f.rows, f.row_groups) for s in manifest.splits.values() for f in s.files]
            rows = [pq.read_table(prepared.path / path) for path, *_ in files]
            tables.append((manifest.spec.hash, files, rows, read_vocabulary(prepared.path, "item")))
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", before)
    first, second = tables
    assert first[0] == second[0]
    assert first[1] == second[1]
    assert all(a.equals(b) for a, b in zip(first[2], second[2], strict=True))
    pd.testing.assert_frame_equal(first[3], second[3])
    assert len(first[1]) > 5


def test_parts_hold_row_groups_of_the_given_size_in_shuffled_order(
    spark: SparkSession, tmp_path: Path
) -> None:
    raw = frame_of(1000)
    run = make_run(
        data={"keep": ["row"], "rows_per_file": 200, "rows_per_row_group": 30}, dense=[{"columns": "time"}]
    )
    prepared = prepare_dataset(run, tmp_path / "data", frame=spark.createDataFrame(raw), spark=spark)
    files = prepared.manifest.splits["train"].files
    assert len(files) == -(-prepared.rows["train"] // 200)
    for file in files:
        assert set(file.row_groups[:-1]) == {30}
        assert file.row_groups[-1] <= 30
        assert sum(file.row_groups) == file.rows == pq.read_metadata(prepared.path / file.path).num_rows
        assert 120 < file.rows < 280
    order = read_split(prepared.path, "train")["keep.row"].to_numpy()
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.15


def test_random_split_has_the_shares_asked_for_and_follows_the_seed(
    spark: SparkSession, tmp_path: Path
) -> None:
    raw = spark.createDataFrame(frame_of(2000))
    data = {"keep": ["row"], "split": {"fractions": [0.6, 0.0, 0.4]}}
    dealt = {}
    for seed in (1, 2):
        run = make_run(seed=seed, data=data, dense=[{"columns": "time"}])
        prepared = prepare_dataset(run, tmp_path / str(seed), frame=raw, spark=spark)
        assert prepared.rows["valid"] == 0
        assert prepared.rows["train"] == pytest.approx(1200, abs=90)
        dealt[seed] = read_all(prepared.path, "row")["split"]
    agreement = (dealt[1] == dealt[2]).mean()
    assert 0.45 < agreement < 0.6  # independent seeds agree on 0.6^2 + 0.4^2


def test_an_empty_split_is_in_the_manifest(spark: SparkSession, tmp_path: Path) -> None:
    data = {"split": {"fractions": [1.0, 0.0, 0.0]}}
    prepared = prepare_dataset(
        make_run(data=data, dense=[{"columns": "time"}]), tmp_path / "data",
        frame=spark.createDataFrame(frame_of(50)), spark=spark,
    )  # fmt: skip
    manifest = Manifest.load(prepared.path)
    assert {name: split.rows for name, split in manifest.splits.items()} == {
        "train": 50,
        "valid": 0,
        "test": 0,
    }
    with pytest.raises(DataError):
        manifest.split("test")
    # The report remarks on shares that are far from those asked for.
    assert "asks for" not in report_text(manifest)
    asked = {"data": {"split": {"method": "random", "fractions": [0.8, 0.15, 0.05]}}}
    text = report_text(manifest.model_copy(update={"preparation": asked}))
    assert "train: 100.0 % of the rows, data.split.fractions asks for 80 %" in text
    assert "valid: 0.0 % of the rows" in text
    assert "test: 0.0 %" not in text
    assert "likely cause: equal rows share a split" in text
