"""Folders of Delta, Hudi and Iceberg tables: their files also hold rows that were deleted."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import DataError
from trainer.storage import StorePath, exists
from trainer.store_listing import names_in

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# What lies in the top folder of each format's tables; a folder stands for what is in it.
_MARKERS = {
    "delta": ("a Delta", ["_delta_log"]),
    "hudi": ("a Hudi", [".hoodie/hoodie.properties"]),
    "iceberg": ("an Iceberg", ["metadata/v[0-9]*.metadata.json", "metadata/[0-9]*-*.metadata.json"]),
}
_GLOB = re.compile(r"[*?\[]")
_TOP = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:/*[^/]*$")


def refuse_tables_here(paths: Sequence[str], where: str) -> None:
    """Refuse paths of this machine that are, or lie in, the folder of a table.

    Args:
        paths: that exist.
        where: key path of the source.

    Raises:
        DataError: one is; names the table's folder.
    """
    folders = {folder: None for path in paths for folder in (Path(path), *Path(path).absolute().parents)}
    for folder in folders:
        _refuse(str(folder), where, partial(_is_here, folder))


def refuse_tables_of_spark(paths: Sequence[str], where: str, spark: SparkSession) -> None:
    """Refuse paths or patterns that only Spark can look into; see `refuse_tables_here`."""
    folders: dict[str, None] = {}
    for path in paths:
        folders.update(dict.fromkeys(_upwards(path)))

    def look(folder: str) -> None:
        _refuse(folder, where, lambda marker: _spark_finds(spark, f"{folder}/{marker}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(look, folders))


def refuse_tables_on_stores(urls: Sequence[str], where: str) -> None:
    """Refuse URLs that are, or lie in, the folder of a table; see `refuse_tables_here`."""
    folders = dict.fromkeys(folder for url in urls for folder in _upwards(url) if not _GLOB.search(folder))

    def look(folder: str) -> None:
        _refuse(folder, where, lambda marker: _store_has(StorePath(folder), marker))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(look, folders))


def _refuse(folder: str, where: str, has: Callable[[str], bool]) -> None:
    for kind, (name, markers) in _MARKERS.items():
        if any(map(has, markers)):
            rows = f'spark.read.format("{kind}").load("{folder}")'
            other = f"pass {rows} to prepare()"
            if where != "data.source":
                other = f'{where}: {{table: side}}, after {rows}.createOrReplaceTempView("side")'
            raise DataError(
                f"this is {name} table, whose folder also holds rows that were deleted",
                where=f"{where}.path",
                got=folder,
                fixes=[f"{where}: {{table: ...}}, by the table's name in the catalog", other],
            )


def _is_here(folder: Path, marker: str) -> bool:
    if "*" not in marker:
        return (folder / marker).exists()
    return (folder / "data").is_dir() and any(glob.iglob(f"{glob.escape(str(folder))}/{marker}"))


def _store_has(folder: StorePath, marker: str) -> bool:
    if "*" not in marker:
        return exists(folder / marker)
    inner, _, pattern = marker.rpartition("/")
    return any(fnmatchcase(name, pattern) for name in names_in(folder / inner)) and exists(folder / "data")


def _upwards(path: str) -> list[str]:
    """Return a path and the folders above it, up to the bucket of a URL."""
    found, rest = [], path.rstrip("/")
    while rest and not rest.endswith(":"):
        found.append(rest)
        if _TOP.match(rest):
            break
        rest = rest.rpartition("/")[0].rstrip("/")
    return found


def _spark_finds(spark: SparkSession, place: str) -> bool:
    """Return whether Spark finds files; what it may not or cannot look into is left to the reading itself."""
    try:
        return bool(spark.read.option("recursiveFileLookup", "true").text(place).columns)
    except Exception as error:
        if type(error).__module__.startswith(("pyspark", "py4j")):
            return False
        raise
