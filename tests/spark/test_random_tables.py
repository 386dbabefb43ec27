"""Random schemas, values, ops and splits through prepare and a reader, row by row against plain Python."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from jobs.preparation import pipeline
from jobs.preparation.parquet_scan import ParquetScan, parquet_scan
from jobs.preparation.pipeline import prepare_dataset
from tests.spark.prepared import make_run, read_all, read_split
from tests.support.plain_fit import PlainFeature, made
from tests.support.random_tables import SPLITS, DrawnTable, as_read, tables, write
from trainer.data import open_reader
from trainer.errors import DataError
from trainer.schema import Manifest

pytestmark = pytest.mark.thorough

# Every format and every split, not every pair of them.
CASES = [
    ("parquet by tasks", "random"),
    ("parquet", "time"),
    ("parquet", "k_fold"),
    ("csv", "leave_last"),
    ("csv", "random"),
    ("csv", "by user"),
    ("json", "column"),
    ("json", "time"),
]
SETTINGS = settings(
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking would prepare hundreds of tables
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize(("source", "split"), CASES)
@settings(SETTINGS, max_examples=3)
@given(data=st.data())
def test_random_tables_are_prepared_as_plain_python_says(
    spark: SparkSession, tmp_path: Path, source: str, split: str, data: st.DataObject
) -> None:
    check(spark, tmp_path, data.draw(tables(source, split)))


@pytest.mark.slow
@pytest.mark.parametrize(("source", "split"), CASES)
@settings(SETTINGS, max_examples=10)
@given(data=st.data())
def test_many_random_tables_are_prepared_as_plain_python_says(
    spark: SparkSession, tmp_path: Path, source: str, split: str, data: st.DataObject
) -> None:
    check(spark, tmp_path, data.draw(tables(source, split)))


def check(spark: SparkSession, folder: Path, table: DrawnTable) -> None:
    """Prepare a table, and compare the rows of all splits, and the batches of each, with the raw ones."""
    for name in ("raw", "data"):
        shutil.rmtree(folder / name, ignore_errors=True)
    groups: dict[str, list[dict[str, Any]]] = {"dense": [], "sparse": []}
    for feature in table.features:
        groups[feature.kind].append(feature.group)
    source = write(table, folder / "raw")
    data = {"root": str(folder), "source": source, "keep": ["row"], "split": SPLITS[table.split]}
    run = make_run(data=data, **groups)
    scans: list[ParquetScan | None] = []

    def watched(*args: Any) -> ParquetScan | None:
        scans.append(parquet_scan(*args))
        return scans[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "parquet_scan", watched)
        try:
            manifest = prepare_dataset(run, folder / "data", spark=spark).manifest
        except DataError as error:
            few_users = table.split == "by user" and "split" in error.what
            if few_users or "no value in the training rows" in error.what:
                reject()  # nothing to compare: three splits need users, and a fit needs values
            raise
    assert table.source != "parquet by tasks" or scans != [None]
    rows = read_all(folder / "data", "row")
    rows.index = rows.index.astype(np.int64)  # CSV's are text
    rows = rows.sort_index()
    assert rows.index.tolist() == table.columns["row"]
    check_split(table, rows["split"])
    train = (rows["split"] == "train").tolist()
    wanted: dict[str, PlainFeature] = {}
    for feature in table.features:
        raw = as_read(table, feature.column)
        wanted[feature.name] = expected = made(raw, train, feature.ops, feature.kind)
        check_feature(rows[feature.name], expected, f"{feature}: {raw}")
    for split in ("train", "valid", "test"):
        if manifest.splits[split].rows:
            check_batches(folder / "data", manifest, split, rows, wanted)


def check_split(table: DrawnTable, splits: pd.Series[str]) -> None:
    """Compare the splits with what the config says of them."""
    raw = pd.DataFrame({name: table.columns[name] for name in ("user", "when", "part")})
    raw["split"] = splits.to_numpy()
    if table.split == "by user":
        assert (raw.groupby("user")["split"].nunique() == 1).all()
    elif table.split == "column":
        assert raw["split"].tolist() == raw["part"].tolist()
    elif table.split == "time":
        spans = raw.groupby("split")["when"].agg(["min", "max"])
        assert spans["max"]["train"] < spans["min"]["valid"]
        assert spans["max"]["valid"] < spans["min"]["test"]
    elif table.split == "leave_last":
        for _, own in raw.sort_values("when").groupby("user"):
            last = ["valid", "test"] if len(own) >= 3 else []
            assert own["split"].tolist() == ["train"] * (len(own) - len(last)) + last


def check_feature(found: pd.Series[Any], expected: PlainFeature, what: str) -> None:
    """Compare a prepared column."""
    first = expected.values[0]
    if not isinstance(first, list):
        np.testing.assert_allclose(
            found.to_numpy(np.float64), float32s(expected), **close(expected), err_msg=what
        )
        return
    ids = [list(row) if hasattr(row, "__len__") else [row] for row in found]
    assert ids == expected.values, what


def float32s(expected: PlainFeature) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return dense values as they are stored."""
    return np.array(expected.values, dtype=np.float32)


def close(expected: PlainFeature) -> dict[str, float]:
    """Return the tolerance of a dense feature: none, or that of the means that `prepare` rounds."""
    spread = float(np.std(np.array(expected.values))) if not expected.exact else 0.0
    return {"rtol": 0.0, "atol": 0.0} if expected.exact else {"rtol": 1e-6, "atol": 1e-6 + 1e-5 * spread}


def check_batches(
    folder: Path, manifest: Manifest, split: str, rows: pd.DataFrame, wanted: Mapping[str, PlainFeature]
) -> None:
    """Compare what the reader gives of a split with the values of all rows."""
    order = read_split(folder, split)["keep.row"].astype(np.int64).tolist()
    places = {"rank": 0, "world_size": 1, "num_lanes": 2, "global_batch_size": 8}
    dense = [f.name for f in manifest.spec.dense]
    stored = rows[dense].to_numpy(np.float32)
    seen = []
    for batch in open_reader(folder, manifest, split, seed=1, shuffle=True, tail="pad", **places).batches(0):
        real = [n for n, row in enumerate(batch.rows_B.tolist()) if row >= 0]
        raw = [order[batch.rows_B[n]] for n in real]
        seen += raw
        assert batch.labels_BT[real, 0].tolist() == [row % 2 for row in raw]
        np.testing.assert_array_equal(batch.dense_BF[real].numpy(), stored[raw])
        for name, ids in batch.sparse.to_dict().items():
            lists = ids.to_dense()
            assert [lists[n].tolist() for n in real] == [wanted[name].values[row] for row in raw], name
    assert sorted(seen) == sorted(order)
