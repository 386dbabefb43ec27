"""Times of a form of their own make the data set that the same times as timestamps make."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.preparation.pipeline import prepare_dataset
from jobs.preparation.transform import apply_spec
from tests.spark.prepared import make_run, read_all
from trainer.config import RunConfig
from trainer.errors import ConfigError, DataError
from trainer.features.row_encoder import RowEncoder
from trainer.schema import Manifest

ROWS = 300
FORMS = ["%y%m%d%H", "%Y%m%d%H", "%d/%m/%Y %H:%M"]
FEATURES: dict[str, Any] = {
    "dense": [
        {"columns": "at", "name": "hour", "ops": ["hour"]},
        {"columns": "at", "name": "age", "ops": [{"age": "2009-01-01"}]},
        {"name": "seen", "earlier": {"by": "user", "time": "at", "what": "count", "window_seconds": 90_000}},
        {"name": "since", "earlier": {"by": "user", "time": "at", "what": "recency"}, "ops": [{"fill": -1}]},
    ],
    "sparse": [{"columns": "at", "name": "weekday", "ops": ["weekday", "vocabulary"]}],
    "sequence": [
        {"name": "items", "history": {"user": "user", "item": "item", "time": "at"}, "ops": "vocabulary"}
    ],
}


def rows() -> pd.DataFrame:
    random = np.random.default_rng(3)
    # From 2007 into 2008: of two digits, years below 10 lose a zero as numbers.
    at = pd.Timestamp("2007-12-20") + pd.to_timedelta(random.integers(0, 24 * 30, ROWS), unit="h")
    user, label = random.integers(0, 9, ROWS), random.integers(0, 2, ROWS)
    return pd.DataFrame({"row": range(ROWS), "label": label, "user": user, "item": range(ROWS), "at": at})


def written(frame: pd.DataFrame, form: str, kind: str) -> pd.DataFrame:
    """Return the frame with times of a form, as numbers or as text."""
    text = frame["at"].dt.strftime(form)
    as_kind = {"text": str, "whole": int, "fraction": float, "decimal": lambda x: Decimal(x).scaleb(0)}[kind]
    return frame.assign(at=[as_kind(value) for value in text])


def run_of(**data: Any) -> RunConfig:
    split = {"method": "time", "column": "at", "until": ["2008-01-08", "2008-01-12"]}
    return make_run(data={"keep": ["row"], "split": split, **data}, **FEATURES)


@pytest.fixture(scope="module")
def reference(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Return the data set of timestamps, by raw row."""
    out = tmp_path_factory.mktemp("reference") / "data"
    prepare_dataset(run_of(), out, frame=spark.createDataFrame(rows()), spark=spark)
    return read_all(out, "row")


@pytest.mark.parametrize(
    ("form", "kind"),
    [*((form, "text") for form in FORMS), *(("%y%m%d%H", kind) for kind in ("whole", "fraction", "decimal"))],
)
def test_splits_histories_windows_and_ops_are_those_of_timestamps(
    spark: SparkSession, tmp_path: Path, reference: pd.DataFrame, form: str, kind: str
) -> None:
    raw = written(rows(), form, kind)
    frame = spark.createDataFrame(raw)
    run = run_of(time_formats={"at": form})
    done = prepare_dataset(run, tmp_path / "data", frame=frame, spark=spark)
    assert done.manifest.remarks == ()
    pd.testing.assert_frame_equal(read_all(done.path, "row"), reference)
    spec = Manifest.load(done.path).spec

    names = ["hour", "age", "weekday"]
    single = RowEncoder.load(spec, done.path, names)
    for record, (_, expected) in zip(raw.to_dict("records")[:40], reference.iterrows(), strict=False):
        found = single.encode_rows([record])
        assert {name: found[name][0].as_py() for name in names} == {name: expected[name] for name in names}

    scored = scored_rows(frame, spec, done.path, spark)
    wanted = reference.drop(columns=["split", "label"]).astype({"items": "object"})
    pd.testing.assert_frame_equal(scored[wanted.columns], wanted)
    # The same rows, rewritten before: nothing changes any more.
    again = scored_rows(frame.drop("at").join(iso(spark), "row"), spec, done.path, spark)
    pd.testing.assert_frame_equal(again, scored)


def scored_rows(frame: DataFrame, spec: Any, folder: Path, spark: SparkSession) -> pd.DataFrame:
    made = apply_spec(frame, spec, folder, spark, keep=["row"]).toPandas()
    made["items"] = [np.asarray(items) for items in made["items"]]
    return made.set_index("keep.row").sort_index()


def iso(spark: SparkSession) -> DataFrame:
    text = rows()["at"].dt.strftime("%Y-%m-%d %H:%M:%S")
    return spark.createDataFrame(pd.DataFrame({"row": range(ROWS), "at": text}))


def test_without_the_form_the_digits_are_told_of(spark: SparkSession, tmp_path: Path) -> None:
    split = {"method": "time", "column": "at", "fractions": [0.8, 0.1, 0.1]}
    frame = spark.createDataFrame(written(rows(), "%y%m%d%H", "whole"))
    done = prepare_dataset(run_of(split=split), tmp_path / "data", frame=frame, spark=spark)
    (remark,) = done.manifest.remarks
    assert "(data.split.column: at)" in remark
    assert 'data.time_formats: {at: "%y%m%d%H"}' in remark
    assert remark in done.report_text


def test_digits_that_are_no_time_of_the_form_are_quoted(spark: SparkSession, tmp_path: Path) -> None:
    raw = written(rows(), "%y%m%d%H", "whole")
    raw.loc[7, "at"] = 2008010203
    run = run_of(time_formats={"at": "%y%m%d%H"})
    with pytest.raises(DataError, match="1 have one that cannot be read") as error:
        prepare_dataset(run, tmp_path / "data", frame=spark.createDataFrame(raw), spark=spark)
    assert error.value.where == "data.split.column: at"
    assert error.value.got == "2008010203 (not of the form %y%m%d%H)"
    raw.loc[7, "at"] = 8013203  # there is no 32nd of January
    with pytest.raises(DataError, match="1 have one that cannot be read") as error:
        prepare_dataset(run, tmp_path / "data", frame=spark.createDataFrame(raw), spark=spark)
    assert error.value.got == "2008-01-32 03:00:00"


def test_what_contradicts_the_form_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    frame = spark.createDataFrame(written(rows(), "%y%m%d%H", "whole"))
    with pytest.raises(DataError, match="'hour' is not in the rows") as error:
        prepare_dataset(run_of(time_formats={"hour": "%Y%m%d"}), tmp_path / "a", frame=frame, spark=spark)
    assert error.value.where == "data.time_formats"
    features = {"sparse": [{"columns": "at", "ops": ["milliseconds", "hour"]}]}
    run = make_run(data={"time_formats": {"at": "%y%m%d%H"}}, **features)
    with pytest.raises(ConfigError, match="either milliseconds or of the form") as caught:
        prepare_dataset(run, tmp_path / "b", frame=frame, spark=spark)
    assert caught.value.where == "features.sparse.0.ops"
