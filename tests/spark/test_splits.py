"""Rows are dealt into splits by hash, time, group, fold, column or file; equal input gives equal data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.preparation import splits
from jobs.preparation.pipeline import prepare_dataset
from jobs.preparation.report import report_text
from jobs.preparation.row_hashes import with_row_hashes
from jobs.preparation.splits import with_split
from tests.spark.prepared import make_run, read_all, read_split, read_vocabulary
from trainer.config import SplitConfig
from trainer.errors import ConfigError, DataError
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


def test_row_groups_of_wide_rows_are_smaller_so_that_one_of_each_lane_fits_memory(
    spark: SparkSession, tmp_path: Path
) -> None:
    raw = pd.DataFrame({"label": 1.0, "items": [[str(n + i) for i in range(100)] for n in range(2000)]})
    raw.loc[::2, "label"] = 0.0
    sequence = [{"columns": "items", "ops": [{"hash": 1000}]}]
    data = {"num_lanes": 1024, "split": {"fractions": [1.0, 0.0, 0.0]}}
    prepared = prepare_dataset(
        make_run(data=data, sequence=sequence),
        tmp_path / "data",
        frame=spark.createDataFrame(raw),
        spark=spark,
    )
    (file,) = prepared.manifest.splits["train"].files
    # 100 ids of 8 bytes a row, in 1,024 lanes.
    assert 1024 <= max(file.row_groups) <= 2**30 / (1024 * 800)


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


@pytest.fixture(scope="module")
def dealt(spark: SparkSession) -> DataFrame:
    """Rows with hashes, in many partitions; `day` is a timestamp, `when` the same as text."""
    frame = frame_of(300).assign(part=lambda rows: np.array(["tr", "va", "te"])[rows["row"] % 3])
    frame["day"] = pd.to_datetime("2024-01-01") + pd.to_timedelta(frame["row"], "h")
    frame["when"] = frame["day"].astype(str)
    rows = spark.createDataFrame(frame.drop(columns="x")).repartition(5)
    return with_row_hashes(rows, rows.columns, seed=1).persist()


def deal(rows: DataFrame, **split: Any) -> pd.DataFrame:
    """Return row, user and split of each row, by row number."""
    found = with_split(rows, SplitConfig.model_validate(split)).select("row", "user", "__split").toPandas()
    return found.set_index("row").sort_index()


def test_rows_of_one_group_share_a_split(dealt: DataFrame) -> None:
    found = deal(dealt, by="user", fractions=[0.5, 0.25, 0.25])
    of_user = found.groupby("user")["__split"].agg(set)
    assert (of_user.map(len) == 1).all()
    assert {split for splits in of_user for split in splits} == {"train", "valid", "test"}
    # A missing value elsewhere makes floats of integers; the groups stay.
    floats = deal(
        dealt.withColumn("user", dealt["user"].cast("double")), by="user", fractions=[0.5, 0.25, 0.25]
    )
    assert floats["__split"].equals(found["__split"])
    other = deal(dealt, by="user", fractions=[0.5, 0.25, 0.25], seed=2)
    assert not other["__split"].equals(found["__split"])


@pytest.mark.parametrize("by", [None, "user"])
def test_each_row_is_a_test_row_in_exactly_one_fold(dealt: DataFrame, by: str | None) -> None:
    folds = [deal(dealt, method="k_fold", by=by, k_fold={"k": 3, "fold": fold}) for fold in range(3)]
    for place, fold in enumerate(folds):
        following = folds[(place + 1) % 3]
        assert (fold["__split"] == "valid").equals(following["__split"] == "test")
    tested = sum((fold["__split"] == "test").astype(int) for fold in folds)
    assert (tested == 1).all()
    shared = deal(dealt, method="k_fold", by=by, k_fold={"k": 3, "fold": 0, "valid_share": 0.3})["__split"]
    assert (shared == "test").equals(folds[0]["__split"] == "test")
    assert {"train", "valid"} < set(shared)


@pytest.mark.parametrize(
    ("column", "until"),
    [
        ("day", ["2024-01-05", "2024-01-05 12:00:00"]),
        ("when", ["2024-01-05", "2024-01-05 12:00"]),
        ("row", [96, 108.0]),
    ],
)
def test_given_times_cut_before_them(dealt: DataFrame, column: str, until: list[Any]) -> None:
    found = deal(dealt, method="time", column=column, until=until)["__split"]
    assert found.tolist() == ["train"] * 96 + ["valid"] * 12 + ["test"] * 192
    if column == "row":
        assert "valid" not in set(deal(dealt, method="time", column=column, until=[96, 96])["__split"])
        with pytest.raises(ConfigError, match="second time is before the first"):
            deal(dealt, method="time", column=column, until=[97, 96])


def test_a_column_names_the_split_and_only_its_training_rows_are_fitted(
    spark: SparkSession, dealt: DataFrame, tmp_path: Path
) -> None:
    part, row = dealt["part"], dealt["row"]
    values = {"train": ["tr"], "valid": ["va"], "test": ["te"]}
    rows = dealt.select("row", "part", "label")
    # A token and a number that training never sees.
    rows = rows.withColumn("token", F.when(part == "te", "new").otherwise("old"))
    rows = rows.withColumn("number", F.when(part == "tr", row % 2).otherwise(F.lit(1000)))
    run = make_run(
        data={"keep": ["row"], "split": {"method": "column", "column": "part", "values": values}},
        dense=[{"columns": "number", "ops": "standardise"}],
        sparse=[{"columns": "token", "ops": "vocabulary"}],
    )
    prepared = prepare_dataset(run, tmp_path / "data", frame=rows, spark=spark)
    found = read_all(prepared.path, "row")
    assert found["split"].tolist() == ["train", "valid", "test"] * 100
    assert found.index.tolist() == list(range(300))  # no row twice, none lost
    assert read_vocabulary(prepared.path, "token")["value"].tolist() == ["old"]
    assert set(found.loc[found["split"] == "test", "token"]) == {1}
    fitted = prepared.manifest.spec.dense[0].ops[0].params
    assert (fitted["mean"], fitted["std"]) == (0.5, 0.5)


def test_files_name_the_split(spark: SparkSession, tmp_path: Path) -> None:
    for folder, start in (("day 1", 0), ("day 2", 10), ("day 3", 20)):
        (tmp_path / folder).mkdir()
        lines = [f"{n},{n % 2}" for n in range(start, start + 10)]
        (tmp_path / folder / "clicks.csv").write_text("\n".join(["row,label", *lines]) + "\n")

    def prepare(**files: list[str]) -> pd.DataFrame:
        run = make_run(
            data={
                "keep": ["row"],
                "root": str(tmp_path),
                "source": {"path": "day */*.csv", "header": True},
                "split": {"method": "files", "files": files},
            },
            sparse=[{"columns": "row"}],
        )
        return read_all(prepare_dataset(run, tmp_path / "out" / "data", spark=spark).path, "row")

    found = prepare(train=["day 1/*"], test=["day [23]/*.csv"])
    assert found["split"].to_dict() == {str(n): "train" if n < 10 else "test" for n in range(30)}
    for files, kind, words in (
        ({"train": ["day 1/*"]}, DataError, ["belongs to no split", "day 2/clicks.csv"]),
        ({"train": ["day*/*"], "test": ["day 3/*"]}, DataError, ["train and test", "day 3"]),
        ({"train": ["*.csv"], "test": ["day 4/*"]}, ConfigError, ["files.test", "day 4/*"]),
    ):
        with pytest.raises(kind) as caught:
            prepare(**files)
        assert [word for word in words if word not in str(caught.value)] == []
