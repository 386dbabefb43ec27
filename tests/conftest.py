"""What tests of all folders share: the smallest run, the Spark session, the order of files."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from jobs import Dataset, RunConfig
from tests.support import spark_jvm
from tests.support.tiny import CONFIG, tiny_data

if TYPE_CHECKING:
    from tests.support.object_store import ObjectStore

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("untimed", deadline=None, max_examples=50)
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: a worker that starts one last keeps the others waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    slow |= {item.path for item in items if item.get_closest_marker("cluster")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def run() -> RunConfig:
    """A run of 12 steps."""
    return RunConfig.from_dict(CONFIG)


@pytest.fixture
def data(tmp_path: Path, run: RunConfig) -> Dataset:
    """Its data set: 1,000 training rows, 200 of each other split."""
    return tiny_data(tmp_path / "data", run)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one core in this process: in models this small, threads wait more than they work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharding.hosts.available_cores", lambda: 1)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Let commands that tests start take a Ctrl-C, which a shell's background jobs ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def spark_defaults() -> Iterator[None]:
    """Give Spark sessions the settings of tests, those of command lines that tests run too."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in spark_jvm.environment().items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def spark(spark_defaults: None) -> Iterator[Any]:
    """The one Spark session of this process."""
    from jobs.session import spark_session

    conf = {"spark.sql.shuffle.partitions": "4", "spark.driver.memory": "2g"}
    session = spark_session("tests", master="local[2]", conf=conf)
    yield session
    session.stop()


@pytest.fixture(scope="session")
def workers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run share: pytest-xdist gives each one a temporary folder."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    """An S3 server with an empty bucket; what the tests of a module put there stays for the next one."""
    from tests.support.object_store import object_store  # boto3 and moto, which few tests need

    with object_store() as running:
        yield running
