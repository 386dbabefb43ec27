"""Kills, full disks and closed folders: the old data set stays valid, and the next prepare works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.preparation.pipeline import prepare_dataset
from tests.spark.conftest import REPOSITORY
from tests.spark.prepared import make_run
from trainer.errors import UserError
from trainer.schema import Manifest

RUN = make_run(dense=[{"columns": "x"}, {"columns": "y"}], sparse=[{"columns": "id", "ops": "vocabulary"}])

KILLED = """
import sys
from jobs.preparation.pipeline import prepare_dataset
from jobs.session import spark_session
from tests.spark.test_safe_output import RUN, rows_frame
spark = spark_session("killed", master="local[2]", conf={"spark.driver.memory": "1g"})
prepare_dataset(RUN, sys.argv[1], frame=rows_frame(spark, 1_000_000), spark=spark)
print("finished")
"""


def rows_frame(spark: SparkSession, rows: int) -> DataFrame:
    """Return rows that hardly compress."""
    noise = ["cast(xxhash64(id, 1) as double) / 1e18 as x", "cast(xxhash64(id, 2) as double) / 1e18 as y"]
    return spark.range(rows).selectExpr("id % 1000 as id", "id % 2 as label", *noise)


def rows_readable(folder: Path) -> int:
    """Return the rows of all parts that the manifest names, read from disk."""
    manifest = Manifest.load(folder)
    return sum(pq.read_table(folder / f.path).num_rows for s in manifest.splits.values() for f in s.files)


def test_killed_prepare_leaves_the_old_data_set_and_the_next_one_works(
    spark: SparkSession, tmp_path: Path
) -> None:
    out = tmp_path / "data"
    old = prepare_dataset(RUN, out, frame=rows_frame(spark, 500), spark=spark)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(out)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("data.tmp-*/train")):  # until the parts are being written
        assert process.poll() is None, "the other process ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    printed, _ = process.communicate(timeout=60)
    assert b"finished" not in printed
    assert len(list(tmp_path.glob("data.tmp-*"))) == 1
    assert Manifest.load(out) == old.manifest
    assert rows_readable(out) == 500
    new = prepare_dataset(RUN, out, frame=rows_frame(spark, 700), spark=spark)
    assert rows_readable(out) == sum(new.rows.values()) == 700
    # The JVM of the killed process may still close its files for a moment after its folder was deleted.
    assert [path.name for path in tmp_path.iterdir() if "tmp-" not in path.name] == ["data"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 3 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small file system is not allowed: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_is_named_and_leaves_the_old_data_set(spark: SparkSession, small_disk: Path) -> None:
    out = small_disk / "data"
    old = prepare_dataset(RUN, out, frame=rows_frame(spark, 500), spark=spark)
    with pytest.raises(UserError) as error:
        prepare_dataset(RUN, out, frame=rows_frame(spark, 500_000), spark=spark)
    assert "disk is full" in str(error.value)
    assert str(out) in error.value.where
    assert [path.name for path in small_disk.iterdir()] == ["data"]
    assert Manifest.load(out) == old.manifest
    assert rows_readable(out) == 500


@pytest.fixture
def closed_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that this user may not write."""
    folder = tmp_path / "closed"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(
            f"root may write everywhere, and mounting is not allowed: {mounted.stderr.decode().strip()}"
        )
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("below", ["data", "deeper/data"])
def test_no_write_permission_is_named(spark: SparkSession, closed_folder: Path, below: str) -> None:
    with pytest.raises(UserError) as error:
        prepare_dataset(RUN, closed_folder / below, frame=rows_frame(spark, 50), spark=spark)
    assert "no permission to write" in str(error.value)
    assert str(closed_folder) in error.value.where


def test_output_on_a_store_without_a_file_system_is_refused(spark: SparkSession) -> None:
    with pytest.raises(UserError, match="folder that this machine can open"):
        prepare_dataset(RUN, "s3a://bucket/data", frame=rows_frame(spark, 50), spark=spark)
