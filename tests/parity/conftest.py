"""The shared data folder of the Spark tests."""

from tests.spark.conftest import shared_data

__all__ = ["shared_data"]
