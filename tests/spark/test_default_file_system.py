"""Where bare paths are those of another file system to Spark, as on HDFS clusters and Databricks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.preparation import joined_ids, sources
from jobs.preparation.files import SourceFiles
from jobs.preparation.pipeline import prepare_dataset
from jobs.preparation.row_numbers import _file_order
from jobs.preparation.sources import raw_rows
from tests.spark.prepared import make_run, read_all
from trainer.errors import DataError

pytestmark = pytest.mark.thorough

HEADER = {"format": "csv", "header": True}


@pytest.fixture
def elsewhere(spark: SparkSession, tmp_path: Path) -> Iterator[SparkSession]:
    """Return a session whose default file system has none of this machine's folders."""
    (tmp_path / "other").mkdir()
    settings = {
        "fs.defaultFS": "viewfs://cluster/",
        "fs.viewfs.mounttable.cluster.link./other": f"file://{tmp_path}/other",
    }
    for key, value in settings.items():
        spark.conf.set(key, value)
    yield spark
    for key in settings:
        spark.conf.unset(key)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("drift", [False, True])
def test_files_of_this_machine_are_read(
    elsewhere: SparkSession, tmp_path: Path, kind: str, drift: bool
) -> None:
    for day in (1, 2):
        part = pd.DataFrame({"label": [0, 1], "x": [day, 10 * day]})
        if drift and day == 2:
            part = part[["x", "label"]] if kind == "csv" else part.astype({"x": np.int32})
        folder = tmp_path / "raw" / f"day={day}"
        folder.mkdir(parents=True)
        if kind == "csv":
            part.to_csv(folder / "part.csv", index=False)
        else:
            part.to_parquet(folder / "part.parquet", index=False)
    source = {"path": f"file://{tmp_path}/raw", **(HEADER if kind == "csv" else {})}
    run = make_run(data={"source": source}, dense=[{"columns": "x"}])
    found = raw_rows(run, elsewhere).toPandas()[["day", "x", "label"]].astype(int)
    assert sorted(found.itertuples(index=False, name=None)) == [
        (1, 1, 0), (1, 10, 1), (2, 2, 0), (2, 20, 1),
    ]  # fmt: skip


def test_a_bare_path_is_one_of_sparks_own_file_system(
    elsewhere: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other" / "a.csv").write_text("label,x\n1,2\n")
    (tmp_path / "here.csv").write_text("label,x\n1,3\n")

    def read(path: str) -> list[tuple[str, str]]:
        run = make_run(data={"source": {"path": path, **HEADER}}, dense=[{"columns": "x"}])
        return [tuple(row) for row in raw_rows(run, elsewhere).collect()]

    assert read("/other/a.csv") == read("/other/*.csv") == [("1", "2")]
    here = str(tmp_path / "here.csv")
    assert read(here) == read(f"file://{here}") == [("1", "3")]
    monkeypatch.setattr(sources, "is_local", lambda spark: False)
    assert read("/other/a.csv") == [("1", "2")]
    assert read(f"file://{here}") == [("1", "3")]
    with pytest.raises(DataError, match="no such file"):  # the one of this host is not meant
        read(here)


def test_everything_that_spark_writes_and_reads_again_is_found(
    elsewhere: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined_ids, "HELD_BYTES", 0)
    monkeypatch.setattr(joined_ids, "_HOT_VALUES", 1)
    g = np.random.default_rng(1)
    rows = pd.DataFrame({"user": g.integers(0, 9, 300), "item": g.integers(0, 30, 300), "row": range(300)})
    rows["label"] = g.integers(0, 2, 300)
    rows.to_parquet(tmp_path / "rows.parquet")
    encoding = {"by": "user", "smoothing": 1}
    run = make_run(
        data={
            "root": str(tmp_path),
            "source": {"path": "rows.parquet"},
            "keep": ["user", "item", "row"],
            "split": {"fractions": [0.8, 0.1, 0.1]},
            "negatives": {
                "user": "user",
                "item": "item",
                "train": {"per_positive": 1, "distribution": "popularity"},
                "in_batch": {"log_q": True},
            },
        },
        dense=[{"name": "rate", "target_encoding": encoding}],
        sparse=[{"columns": ["user", "item"], "ops": "vocabulary"}],
    )
    data = prepare_dataset(run, tmp_path / "out", spark=elsewhere)
    made = read_all(tmp_path / "out", "row")
    own = made[made["label"] == 1]  # negatives carry the row of their positive
    expected = rows.set_index("row").loc[own.index]
    np.testing.assert_array_equal(own["keep.item"], expected["item"])
    train = rows[rows["row"].isin(made[made["split"] == "train"].index)]
    order = train["item"].astype(str).to_frame("item").assign(n=1).groupby("item")["n"].sum()
    ranked = sorted(order.items(), key=lambda pair: (-pair[1], pair[0]))
    ids = {value: place for place, (value, _) in enumerate(ranked, start=2)}
    np.testing.assert_array_equal(own["item"], [ids.get(str(item), 1) for item in own["keep.item"]])
    assert data.manifest.statistics["item"].mean_length == 1
    assert list((tmp_path / "out" / "item_log_q").glob("*.parquet")) != []
    assert list((tmp_path / "other").iterdir()) == []


def test_files_are_numbered_in_the_order_given_whatever_host_their_urls_name() -> None:
    given = SourceFiles(["/data/b", "/data/a*", "hdfs://name/x"], "csv", "", [])
    order = _file_order(given)
    urls = ["hdfs://name:8020/data/a1/1.csv", "hdfs://name:8020/data/b/2.csv", "hdfs://name/x/3.csv"]
    assert sorted(urls, key=order) == [urls[1], urls[0], urls[2]]
