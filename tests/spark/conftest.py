"""The shared data folder of the Spark tests, and a data set of derived features."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.preparation import pipeline
from jobs.preparation.pipeline import Prepared, prepare_dataset
from tests.spark.derived_rows import derived_frame, derived_run

REPOSITORY = Path(__file__).parents[2]


WRITE_PAGE = pipeline.write_page


@pytest.fixture(scope="package", autouse=True)
def without_page() -> Iterator[None]:
    """Leave out the pictures of data sets, which cost more than small ones; tests elsewhere look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "write_page", lambda folder: None)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data sets beside the repository ({folder.parent.name}/data)")
    return folder


@pytest.fixture(scope="session")
def derived(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Return the rows of `derived_frame` prepared; batches are so short that ids span many of them."""
    rows = spark.createDataFrame(derived_frame()).repartition(3)
    key = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(key)
    spark.conf.set(key, "7")
    try:
        out = tmp_path_factory.mktemp("derived") / "data"
        return prepare_dataset(derived_run(), out, frame=rows, spark=spark)
    finally:
        spark.conf.set(key, before)
