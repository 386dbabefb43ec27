"""Days that are added one after the other are prepared as all of them at once, where they must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest
from pyspark.sql import SparkSession

from jobs.preparation.appending import append_rows
from jobs.preparation.earlier_days import EarlierDays
from jobs.preparation.pipeline import Prepared, prepare_dataset
from jobs.verbs import prepare
from tests.spark.prepared import make_run, read_all, read_vocabulary
from trainer.config import RunConfig
from trainer.errors import ConfigError, DataError
from trainer.schema import Manifest

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

ROWS = 240
UNTIL = [70, 85]
DAY = 100


def day(number: int) -> pd.DataFrame:
    """Return a day's rows; its last time is the first of the next day, and some rows are there twice."""
    random = np.random.default_rng(number + 5)
    return pd.DataFrame(
        {
            "row": np.arange(ROWS) + number * ROWS,
            "time": random.integers(0, DAY + 1, ROWS) + DAY * number,
            "user": random.integers(0, 12, ROWS),
            "item": [f"i{n}" for n in random.integers(0, 25, ROWS)],
            "event": random.integers(0, 900, ROWS),
            "watched": random.integers(0, 50, ROWS) / 4,
            "grade": random.integers(0, 5, ROWS),
            "label": random.integers(0, 2, ROWS),
        }
    )


@pytest.fixture(scope="module")
def days() -> list[pd.DataFrame]:
    return [day(0), day(1), day(2)]


def prepared(spark: SparkSession, run: RunConfig, frame: pd.DataFrame, out: Path) -> Prepared:
    return prepare_dataset(run, out, frame=spark.createDataFrame(frame), spark=spark)


def appended(
    spark: SparkSession,
    run: RunConfig,
    frame: pd.DataFrame,
    out: Path,
    *,
    mode: Any = "grow",
    earlier: pd.DataFrame | None = None,
    into: Any = None,
) -> Prepared:
    days_before = None if earlier is None else EarlierDays(frame=spark.createDataFrame(earlier))
    rows = spark.createDataFrame(frame)
    return append_rows(run, out, mode, frame=rows, spark=spark, into=into, earlier=days_before)


def plain_run(**data: Any) -> RunConfig:
    return make_run(
        data={"keep": ["row", "time"], **data},
        dense=[{"columns": "watched"}],
        sparse=[{"columns": "item", "ops": ["vocabulary"]}],
    )


def test_downsampling_and_weights_are_those_of_both_days_at_once(
    spark: SparkSession, days: list[pd.DataFrame], tmp_path: Path
) -> None:
    run = plain_run(
        downsample_negatives={"keep": 0.4},
        weights_by={"column": "user", "values": {"1": 3.0}, "other": 0.5},
        label={"column": "grade", "positive_at_least": 3},
        split={"fractions": [0.7, 0.15, 0.15]},
    )
    prepared(spark, run, days[0], tmp_path / "days")
    done = appended(spark, run, days[1], tmp_path / "days").manifest
    whole = prepared(spark, run, pd.concat(days[:2]), tmp_path / "whole").manifest
    assert whole.splits["train"].negatives_kept < 0.5
    for name, split in whole.splits.items():
        mine = done.splits[name]
        assert (mine.rows, mine.positives) == (split.rows, split.positives)
        assert mine.negatives_kept == pytest.approx(split.negatives_kept, abs=1e-12)
    columns = ["split", "label", "weight", "watched"]
    pd.testing.assert_frame_equal(
        read_all(tmp_path / "days", "row")[columns], read_all(tmp_path / "whole", "row")[columns]
    )


def test_new_borders_deal_new_rows_and_move_no_old_one(
    spark: SparkSession, days: list[pd.DataFrame], tmp_path: Path
) -> None:
    out = tmp_path / "data"

    def cut(until: list[int]) -> RunConfig:
        return plain_run(split={"method": "time", "column": "time", "until": until})

    def by_time(frame: pd.DataFrame, until: list[int]) -> list[str]:
        return list(
            np.select([frame["time"] < until[0], frame["time"] < until[1]], ["train", "valid"], "test")
        )

    prepared(spark, cut(UNTIL), days[0], out)
    later = [150, 180]
    run = cut(later)
    done = appended(spark, run, days[1], out)
    expected = by_time(days[0], UNTIL) + by_time(days[1], later)
    assert set(expected[ROWS:]) == {"train", "valid", "test"}
    assert read_all(out, "row")["split"].tolist() == expected
    assert done.manifest.config_hash == run.preparation_hash()
    assert done.manifest.appended[0].until == (150, 180)
    # All of a day in one split, none of it in train.
    done = appended(spark, run, days[2], out, into="valid")
    assert read_all(out, "row")["split"].tolist() == [*expected, *["valid"] * ROWS]
    assert done.manifest.appended[1].into == "valid"
    assert done.manifest.appended[1].until is None
    other = run.override("data.split.until=[150, 190]", "data.clean.where=user > 1")
    with pytest.raises(ConfigError, match=r"another config[\s\S]*data\.clean\.where") as error:
        appended(spark, other, days[2], out)
    assert "until" not in str(error.value.got)


def test_shares_of_time_need_a_named_split(
    spark: SparkSession, days: list[pd.DataFrame], tmp_path: Path
) -> None:
    run = plain_run(split={"method": "time", "column": "time", "fractions": [0.8, 0.1, 0.1]})
    prepared(spark, run, days[0], tmp_path / "data")
    before = read_all(tmp_path / "data", "row")["split"].tolist()
    with pytest.raises(ConfigError, match="--append-to train"):
        appended(spark, run, days[1], tmp_path / "data")
    appended(spark, run, days[1], tmp_path / "data", mode="frozen", into="train")
    assert read_all(tmp_path / "data", "row")["split"].tolist() == before + ["train"] * ROWS


def stored_encoding(out: Path) -> pd.DataFrame:
    table = ds.dataset(out / "encoding" / "rate", format="parquet").to_table().to_pandas()
    return table.set_index("key").sort_index()


def test_target_encodings_are_those_of_earlier_training_rows(
    spark: SparkSession, days: list[pd.DataFrame], tmp_path: Path
) -> None:
    section = {"by": "user", "folds": 3, "smoothing": 2.0}
    run = make_run(
        data={"keep": ["row"], "split": {"fractions": [0.8, 0.1, 0.1]}},
        dense=[{"name": "rate", "target_encoding": section}],
        sparse=[{"columns": "item", "ops": ["vocabulary"]}],
    )
    out = tmp_path / "days"
    first = prepared(spark, run, days[0][days[0]["user"] > 0], out).manifest
    fitted = first.spec.features[0].derived
    assert fitted is not None
    prior = fitted.params["prior"]
    tables = [stored_encoding(out)]
    grown = appended(spark, run, days[1], out, mode="grow").manifest
    tables.append(stored_encoding(out))
    frozen = appended(spark, run, days[2], out, mode="frozen").manifest
    assert frozen.spec == grown.spec
    rows = read_all(out, "row")
    for number, table in enumerate(tables, start=1):
        found = table.reindex(days[number]["user"].astype(str)).fillna(0.0)
        expected = (found["sum"] + 2.0 * prior) / (found["count"] + 2.0)
        # No row sees a label of its own day, its own least of all; an unknown user has the prior.
        np.testing.assert_allclose(rows.loc[days[number]["row"], "rate"], expected, atol=1e-6)
    assert "0" not in tables[0].index
    assert "0" in tables[1].index
    pd.testing.assert_frame_equal(stored_encoding(out), tables[1])
    both = pd.concat([days[0][days[0]["user"] > 0], days[1]])
    whole = prepared(spark, run, both, tmp_path / "whole").manifest
    pd.testing.assert_frame_equal(tables[1], stored_encoding(tmp_path / "whole"))
    assert _digest(grown) == _digest(whole) != _digest(first)


def _digest(manifest: Manifest) -> str:
    derived = manifest.spec.features[0].derived
    assert derived is not None
    return str(derived.params["digest"])


def looking_back(keep: str = "first") -> RunConfig:
    earlier: dict[str, dict[str, Any]] = {
        "events": {"what": "count"},
        "likes": {"what": "count", "where": "label = 1"},
        "lately": {"what": "mean", "of": "watched", "window_seconds": 30.0, "delay_seconds": 3.0},
        "liked_share": {"what": "rate"},
        "since": {"what": "recency"},
    }
    histories = {"last": {}, "tied": {"include_ties": True}, "liked": {"where": "label = 1"}}
    return make_run(
        data={
            "keep": ["row"],
            "clean": {"deduplicate": {"by": ["event"], "keep": keep, "order_by": "time"}},
            "split": {"fractions": [0.7, 0.15, 0.15]},
            "downsample_negatives": {"keep": 0.5},
        },
        dense=[
            {"name": n, "earlier": {"by": "user", "time": "time", **s}, "ops": [{"fill": -1.0}]}
            for n, s in earlier.items()
        ],
        sparse=[{"columns": "item", "ops": ["vocabulary"]}],
        sequence=[
            {
                "name": n,
                "history": {"user": "user", "item": "item", "time": "time", "max_length": 6, **s},
                "ops": ["vocabulary"],
            }
            for n, s in histories.items()
        ],
    )


def decoded(out: Path) -> pd.DataFrame:
    """Return the rows with the values of ids, which days and one go number apart."""
    rows = read_all(out, "row")
    for name in ("last", "tied", "liked"):
        values = read_vocabulary(out, name).set_index("id")["value"]
        rows[name] = [[values.get(i, "?") for i in ids] for ids in rows[name]]
    return rows.drop(columns="item")


def test_features_of_several_rows_and_duplicates_look_back_at_the_old_rows(
    spark: SparkSession, days: list[pd.DataFrame], tmp_path: Path
) -> None:
    run, out = looking_back(), tmp_path / "days"
    first = prepared(spark, run, days[0], out).manifest
    old = read_all(out, "row").index
    with pytest.raises(ConfigError, match="--history-input"):
        appended(spark, run, days[1], out)
    with pytest.raises(DataError, match="not the raw rows that the data set was made of"):
        appended(spark, run, days[1], out, earlier=days[0][1:])
    assert Manifest.load(out) == first
    done = appended(spark, run, days[1], out, earlier=days[0])
    whole = prepared(spark, run, pd.concat(days[:2]), tmp_path / "whole")
    mine, theirs = decoded(out), decoded(tmp_path / "whole")
    assert set(days[0]["event"]) & set(days[1]["event"])
    assert mine.index.tolist() == theirs.index.tolist()
    new = mine.index.difference(old)
    assert 0 < len(new) < ROWS
    pd.testing.assert_frame_equal(mine.loc[new], theirs.loc[new])
    assert (mine.loc[new, "events"] > 5).any()
    assert done.manifest.splits["train"].negatives_kept == pytest.approx(
        whole.manifest.splits["train"].negatives_kept, abs=1e-12
    )
    # The same day again changes nothing, with either day given as the earlier rows.
    for earlier in (days[0], pd.concat(days[:2])):
        with pytest.raises(DataError, match="already"):
            appended(spark, run, days[1], out, earlier=earlier)
    assert Manifest.load(out) == done.manifest


def test_a_new_row_never_replaces_one_that_was_written(
    spark: SparkSession, days: list[pd.DataFrame], tmp_path: Path
) -> None:
    run, out = looking_back("last"), tmp_path / "data"
    first = prepared(spark, run, days[0], out).manifest
    later = days[0][:3].assign(time=500)
    with pytest.raises(DataError, match=r"would be kept in place of rows"):
        appended(spark, run, later, out, earlier=days[0])
    assert Manifest.load(out) == first


def test_a_third_day_looks_back_at_the_files_of_both_days_before(
    spark: SparkSession, days: list[pd.DataFrame], tmp_path: Path
) -> None:
    run, out = looking_back(), tmp_path / "days"
    files = [tmp_path / f"day_{number}.parquet" for number in range(3)]
    for file, rows in zip(files, days, strict=True):
        rows.to_parquet(file)
    run = run.with_source(str(tmp_path), "day_*.parquet")
    prepare(files[0], run, out, spark=spark)
    prepare(files[1], run, out, append="frozen", history=files[0], spark=spark)
    old = read_all(out, "row").index
    with pytest.raises(DataError, match="only the rows that were added up to"):
        prepare(files[2], run, out, append="frozen", history=files[:1], spark=spark)
    done = prepare(files[2], run, out, append="frozen", history=files[:2], spark=spark)
    assert [each.mode for each in done.manifest.appended] == ["frozen", "frozen"]
    prepare(None, run, tmp_path / "whole", spark=spark)
    mine, theirs = read_all(out, "row"), read_all(tmp_path / "whole", "row")
    assert mine.index.tolist() == theirs.index.tolist()
    new = mine.index.difference(old)
    numbers = ["split", "label", "events", "likes", "lately", "liked_share", "since"]
    pd.testing.assert_frame_equal(mine.loc[new, numbers], theirs.loc[new, numbers])
