"""Folders of Delta, Hudi and Iceberg tables hold deleted rows too, so their files are no source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.preparation import sources
from jobs.preparation.files import find_files
from jobs.preparation.sources import read_source
from trainer.config import SourceConfig
from trainer.errors import DataError

pytestmark = pytest.mark.thorough

LOG = [
    {"add": {"path": "day=1/0.parquet"}},
    {"add": {"path": "day=1/1.parquet"}},
    {"remove": {"path": "day=1/0.parquet"}},
]
TABLES = {
    "a Delta table": ("_delta_log/00000000000000000000.json", "day=1"),
    "a Hudi table": (".hoodie/hoodie.properties", "day=1"),
    "an Iceberg table": ("metadata/v2.metadata.json", "data/day=1"),
    "an Iceberg table of a catalog": ("metadata/00001-5d1b.metadata.json", "data"),
}


def write_table(folder: Path, kind: str) -> str:
    """Write the log and two part files of a table, and return where these lie in it."""
    log, parts = TABLES[kind]
    for name in (log, f"{parts}/x"):
        (folder / name).parent.mkdir(parents=True)
    (folder / log).write_text("\n".join(map(json.dumps, LOG)))
    for number in (0, 1):
        pq.write_table(pa.table({"label": [number], "x": [number]}), folder / parts / f"{number}.parquet")
    return parts


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("path", ["{}", "{}/{}", "{}/{}/0.parquet", "{}/{}/*.parquet", "{}/*", "file:{}"])
def test_the_folder_of_a_table_and_what_lies_in_it_are_refused(tmp_path: Path, kind: str, path: str) -> None:
    parts = write_table(tmp_path / "t", kind)
    source = SourceConfig(path=path.format(tmp_path / "t", parts), format="parquet")
    with pytest.raises(DataError) as error:
        find_files(source, "/", "data.source", local=True)
    what = kind.replace(" of a catalog", "")
    assert error.value.what == f"this is {what}, whose folder also holds rows that were deleted"
    assert (error.value.where, error.value.got) == ("data.source.path", str(tmp_path / "t"))
    assert error.value.fixes[0].startswith("data.source: {table: ...}")
    name = what.split()[1].lower()
    assert f'pass spark.read.format("{name}").load("{tmp_path}/t") to prepare()' in error.value.fixes[1]


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("path", ["{}", "{}/{}/*.parquet", "{}/{}/0.parquet"])
def test_spark_looks_where_only_it_can(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, path: str
) -> None:
    monkeypatch.setattr(sources, "is_local", lambda _: False)  # as on a cluster, whose paths are not ours
    parts = write_table(tmp_path / "t", kind)
    source: dict[str, Any] = {"path": path.format(tmp_path / "t", parts), "format": "parquet"}
    with pytest.raises(DataError, match="whose folder also holds rows that were deleted") as error:
        read_source(SourceConfig(**source), "/", spark, "data.joins.0.source")
    assert (error.value.where, error.value.got) == ("data.joins.0.source.path", str(tmp_path / "t"))
    assert 'createOrReplaceTempView("side")' in error.value.fixes[1]


@pytest.mark.parametrize("local", [True, False])
def test_other_folders_are_read_as_before(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: bool
) -> None:
    monkeypatch.setattr(sources, "is_local", lambda _: local)
    parts = write_table(tmp_path / "t", "a Delta table")
    (tmp_path / "t" / "_delta_log").rename(tmp_path / "log")
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "columns.metadata.json").write_text("{}")
    rows = read_source(
        SourceConfig(path=f"{tmp_path}/t/{parts}", format="parquet"), "/", spark, "data.source"
    )
    assert sorted(row["x"] for row in rows.collect()) == [0, 1]
