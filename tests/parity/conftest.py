"""The Spark session and the shared data folder of the Spark tests."""

from tests.spark.conftest import shared_data, spark

__all__ = ["shared_data", "spark"]
