"""One Spark session for all tests of this folder, and the shared data folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.session import spark_session

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    conf = {
        "spark.sql.shuffle.partitions": "4",
        "spark.driver.memory": "2g",
        # Short jobs: compiling them well costs more than they take.
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
    }
    session = spark_session("tests", master="local[2]", conf=conf)
    yield session
    session.stop()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data sets beside the repository ({folder.parent.name}/data)")
    return folder
