"""Raw files on stores that Spark has no connector for: copied once, and read like any other files.

Several passes go over the raw rows, so that one copy costs less than reading the store in each of them. The
copies lie beside what is made of them, where all executors look; the driver lists and copies, so it alone
needs credentials. Errors and remarks name the URLs.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.file_copies import copy_files
from jobs.preparation.commit import restore, sibling
from jobs.preparation.connectors import has_connector
from jobs.preparation.store_files import files_of, marker_above
from jobs.preparation.table_folders import refuse_tables_on_stores
from jobs.session import is_local, reads_elsewhere
from sharding.errors import ShardrecError
from trainer.config import SourceConfig
from trainer.config.source import absolute_path
from trainer.errors import ConfigError, DataError
from trainer.schema import SYNTHETIC_FILE
from trainer.storage import StorePath, as_place, file_system, local_path
from trainer.store_listing import StoredFile

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_ACTIVE: ContextVar[_Copies | None] = ContextVar("raw_copies", default=None)


class _Copies:
    """Copies of files in a sibling of `beside`, which is made for the first of them."""

    def __init__(self, beside: Path) -> None:
        self._beside = beside.absolute()
        self.folder = sibling(self._beside, "tmp")
        self._of_url = re.compile(rf"(?:file:/*)?{re.escape(str(self.folder))}/([A-Za-z0-9+.-]+)/")

    def fetch(self, place: StorePath, where: str) -> str:
        """Copy what is at a URL or matches it, and return its path or pattern among the copies.

        Raises:
            DataError: there is no such file, or it is the folder of a table.
            StoreError: the store cannot be reached, refuses access, or keeps failing.
        """
        found = files_of(place, f"{where}.path")
        refuse_tables_on_stores(list(map(str, found.places)), where)
        marker = marker_above(place, SYNTHETIC_FILE)
        bucket = StorePath(f"{place.scheme}://{place.bucket}")
        if not self.folder.exists():
            restore(self._beside)  # Copies of a killed run may fill the disk.
        for folder in found.folders:
            self.path_of(folder).mkdir(parents=True, exist_ok=True)
        self._copy(bucket, {**found.files, **marker})
        return str(self.path_of(place))

    def path_of(self, place: StorePath) -> Path:
        """Return where the copy of a file or folder lies."""
        return self.folder / place.scheme / place.url.partition("://")[2]

    def named(self, value: Any) -> Any:
        """Return a text, or the texts of a list, with URLs in place of copies."""
        if isinstance(value, (list, tuple)):
            return type(value)(map(self.named, value))
        return self._of_url.sub(r"\1://", value) if isinstance(value, str) else value

    def renamed(self, error: ShardrecError) -> ShardrecError:
        """Return the error with URLs in place of copies."""
        parts = {name: getattr(error, name) for name in ("where", "got", "allowed", "fixes", "also")}
        return type(error)(self.named(error.what), **{name: self.named(part) for name, part in parts.items()})

    def _copy(self, bucket: StorePath, found: Mapping[str, StoredFile]) -> None:
        target = self.path_of(bucket)
        missing = {name: file for name, file in found.items() if not _is_copy(target / name, file)}
        if not missing:
            return
        try:
            copy_files(bucket, target, {name: file.size for name, file in missing.items()})
            for name, file in missing.items():
                if (target / name).stat().st_size != file.size:
                    raise FileNotFoundError(name)
                if file.changed is not None:
                    os.utime(target / name, (file.changed, file.changed))
        except FileNotFoundError as error:
            raise DataError(
                "the raw files changed while they were copied from the store",
                where=self.named(str(error.filename or target / str(error))),
                fixes=["run it again when nothing writes there"],
            ) from error


@contextmanager
def raw_copies(beside: Path) -> Iterator[None]:
    """Let raw files be copied from stores until the block ends; errors that leave it name the URLs.

    Args:
        beside: what is made of the rows: a folder that all executors reach. The copies lie in a sibling of
            it, which goes with the block; those of a killed run go when files are copied there again.
    """
    copies = _Copies(beside)
    active = _ACTIVE.set(copies)
    try:
        yield
    except ShardrecError as error:
        if str(copies.folder) not in str(error):
            raise
        raise copies.renamed(error) from error
    finally:
        _ACTIVE.reset(active)
        shutil.rmtree(copies.folder, ignore_errors=True)


def fetched(source: SourceConfig, root: str, where: str, spark: SparkSession) -> SourceConfig:
    """Return the source with copies in place of the files on stores that Spark has no connector for.

    Args:
        source: with `path` set.
        root: folder or URL that relative paths start from.
        where: key path for errors.
        spark: the session.

    Raises:
        ConfigError: a URL holds a password.
        DataError, StoreError: see `_Copies.fetch`.
    """
    copies = _ACTIVE.get()
    paths = [absolute_path(path, root) for path in source.paths()]
    if copies is None:
        return source
    stores = {path: place for path in paths if (place := _own(path, spark)) is not None}
    if not stores:
        return source
    # A plain path may mean another file system than the one that the driver wrote to.
    scheme = "file:" if reads_elsewhere(spark) or not is_local(spark) else ""
    read = [scheme + copies.fetch(stores[path], where) if path in stores else path for path in paths]
    return source.model_copy(update={"path": read})


def with_urls(text: str) -> str:
    """Return a text with the URLs of raw files in place of their copies."""
    copies = _ACTIVE.get()
    return text if copies is None else str(copies.named(text))


def copied_path(path: str) -> str | None:
    """Return the path of a raw file's copy where it was copied, of a local file itself, else None."""
    copies, here = _ACTIVE.get(), local_path(path)
    if here is not None or copies is None:
        return here
    copy = copies.path_of(StorePath(path.rstrip("/")))
    return str(copy) if copies.folder.exists() else None


def _own(path: str, spark: SparkSession) -> StorePath | None:
    """Return the place of a URL that is for us to read, None for paths and for what Spark can open."""
    if local_path(path) is not None or has_connector(spark, path):
        return None
    place = as_place(path)
    assert isinstance(place, StorePath)
    try:
        with suppress(OSError):  # It cannot be reached: the listing tells.
            file_system(place)
    except ConfigError:  # We cannot open it either: Spark names the connector.
        return None
    return place


def _is_copy(path: Path, file: StoredFile) -> bool:
    if file.changed is None or not path.exists():
        return False
    there = path.stat()
    return there.st_size == file.size and abs(there.st_mtime - file.changed) < 1e-3
