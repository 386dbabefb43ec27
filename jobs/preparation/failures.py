"""Turns Spark's failures into errors that name the file and the way out."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from jobs.errors import EnvironmentFault, first_line
from jobs.preparation.connectors import missing_connector
from jobs.preparation.damage import first_damage
from sharding.errors import ShardrecError, UserError
from trainer.errors import ConfigError, DataError
from trainer.storage import local_path

# Expressions and tasks of ours raise this inside Spark; what follows is the message, or an error as JSON.
RAISED = "shardrec: "
SKIP = "`on_corrupt: skip` of the source goes on without what is damaged, and counts it"

_FULL_DISK = re.compile(r"No space left on device|Disk quota exceeded|File too large")
_NO_PERMISSION = re.compile(
    r"Permission denied|AccessControlException|AccessDenied|INSUFFICIENT_PERMISSIONS|PERMISSION_DENIED"
)
# The last two are folders of Spark's own, which it writes while it reads a source.
_NO_WRITING = re.compile(r"Read-only file system|Mkdirs failed to create|/blockmgr-|/spark-[0-9a-f]{8}-")
_TWICE = re.compile(r"COLUMN_ALREADY_EXISTS[^`]*`([^`]+)`")
_CHARSET = re.compile(
    r"INVALID_PARAMETER_VALUE\.CHARSET|UnsupportedCharset|IllegalCharsetName|UnsupportedEncoding"
)
_NO_PATH = re.compile(r"PATH_NOT_FOUND|Path does not exist|FileNotFoundException")
_PARTITIONS = re.compile(
    r"CONFLICTING_DIRECTORY_STRUCTURES|CONFLICTING_PARTITION_COLUMN_NAMES"
    r"|Conflicting directory structures|Conflicting partition column names"
)
_NO_TABLE = re.compile(
    r"TABLE_OR_VIEW_NOT_FOUND|Table or view not found|SCHEMA_NOT_FOUND|CATALOG_NOT_FOUND"
    r"|REQUIRES_SINGLE_PART_NAMESPACE|requires a single-part namespace|PARSE_SYNTAX_ERROR"
)
_NANOSECONDS = re.compile(r"Illegal Parquet type: INT64 \(TIMESTAMP\(NANOS")
_BAD_HEADER = re.compile(r"(CSV header does not conform to the schema.*?)(?:\n\s*at |\Z)", re.DOTALL)
_UNREADABLE = re.compile(
    r"is not a Parquet file|CANNOT_READ_FILE_FOOTER|Could not read footer|FAILED_READ_FILE|FAILED_READ"
    r"|ParquetDecodingException|UNABLE_TO_INFER_SCHEMA|Unable to infer schema|Corrupt|MalformedInputException"
    r"|Illegal Parquet|PARQUET_TYPE|EOFException|can not read class org.apache.parquet"
)
_FILE = re.compile(r"(?:file:/*|dbfs:/|s3a?://|abfss?://|hdfs://)[^\s'\",;)]+")
_RAISED = re.compile(re.escape(RAISED) + r"([^\n]*)")


@contextmanager
def named_failures(where: str, *, reading: bool = False) -> Iterator[None]:
    """Turn failures of Spark and of the file system into `UserError` children.

    Args:
        where: the place to name when the failure names no file itself.
        reading: whether a source is read, so that a missing permission is one to read.

    Raises:
        DataError: a source is missing, damaged, of another format, or may not be read.
        UserError: the disk is full, or writing is not allowed; Spark has no connector for a store.
    """
    try:
        yield
    except ShardrecError:
        raise
    except OSError as error:
        named = _from_os(error, where, reading)
        if named is None:
            raise
        raise named from error
    except Exception as error:
        named = from_spark(error, where, reading=reading)
        if named is None:
            raise
        raise named from error


@contextmanager
def named_source(where: str) -> Iterator[None]:
    """Turn failures to read a source into errors that name it; other failures pass on to `named_failures`.

    Args:
        where: the source, for failures that name no file.

    Raises:
        DataError: the source is missing, damaged, of another format, or may not be read.
        ConfigError: Spark does not know its character encoding.
        EnvironmentFault: Spark has no connector for its store.
    """
    try:
        yield
    except Exception as error:
        named = from_spark(error, where, reading=True)
        if isinstance(named, (DataError, ConfigError, EnvironmentFault)):
            raise named from error
        raise


def from_spark(error: BaseException, where: str, *, reading: bool = False) -> UserError | None:
    """Return our error for one of Spark's, or None when the cause is not known; `reading` as above."""
    if not type(error).__module__.startswith(("pyspark", "py4j")):
        return None
    text = str(error)
    file = _FILE.search(text)
    place = file.group(0).rstrip(".") if file else where
    raised = _RAISED.search(text)
    if raised:
        return _carried(raised.group(1).strip(), where)
    unconnected = missing_connector(text, where)
    if unconnected is not None:
        return unconnected
    if _FULL_DISK.search(text):
        return full_disk(where)
    if _NO_PERMISSION.search(text) or _NO_WRITING.search(text):
        may_not_read = reading and not _NO_WRITING.search(text)
        return (no_read_permission if may_not_read else no_permission)(place, first_line(text))
    return _of_source(text, where, place)


def _carried(text: str, where: str) -> UserError:
    """Return the error that a task raised, as it was there."""
    try:
        said = json.loads(text)
    except ValueError:
        return DataError(text, where=where)
    kind = ConfigError if said["kind"] == "ConfigError" else DataError
    return kind(
        said["error"],
        where=said["where"] or where,
        got=said.get("got"),
        allowed=said.get("allowed"),
        fixes=said["fixes"],
        also=said.get("also", ()),
    )


def _of_source(text: str, where: str, place: str) -> UserError | None:
    """Return the error of a source that is not there, or cannot be read."""
    header = _BAD_HEADER.search(text)
    if header:
        return DataError(
            "the files of a source have different headers", where=place, got=" ".join(header.group(1).split())
        )
    twice = _TWICE.search(text)
    if twice:
        return column_twice(twice.group(1), where)
    if _CHARSET.search(text):
        return ConfigError(
            "Spark cannot read this character encoding",
            where=f"`encoding` of the source {where}",
            got=first_line(text),
            fixes=["convert the files: iconv -f <encoding> -t UTF-8", "encoding: ISO-8859-1"],
        )
    if _PARTITIONS.search(text):
        return DataError(
            "the partition folders of the source do not fit together",
            where=where,
            got=", ".join(dict.fromkeys(_FILE.findall(text))) or first_line(text),
            allowed="partition folders of the same columns, all below one folder",
            fixes=[
                "name in `path` one folder above them all",
                "read each folder, and pass their union to prepare()",
            ],
        )
    if _NO_TABLE.search(text):
        return DataError(
            "there is no such table",
            where=where,
            got=first_line(text),
            fixes=["spark.catalog.listTables() and SHOW CATALOGS list what Spark knows"],
        )
    if _NO_PATH.search(text):
        return DataError("there is no such file or folder", where=place)
    if _NANOSECONDS.search(text):
        return DataError(
            "Spark reads no timestamps in nanoseconds from files that it alone can open",
            where=place,
            fixes=["write microseconds: to_parquet(..., coerce_timestamps='us')", "copy or mount the files"],
        )
    if _UNREADABLE.search(text):
        return _unreadable(text, place)
    return None


def _unreadable(text: str, place: str) -> DataError:
    """Return the error of a file that Spark cannot read."""
    file = local_path(unquote(place))
    return damaged_file(file if file is not None and Path(file).is_file() else place, _cause(text))


def damaged_file(file: str, cause: str) -> DataError:
    """Return the error of a file that cannot be read, with its first damaged row group where one is."""
    damage = first_damage(file) if Path(file).is_file() else None
    return DataError(
        "the file cannot be read: it is damaged, truncated, or of another format",
        where=file if damage is None else f"{file}: row group {damage.number} ({damage.rows:,} rows)",
        got=cause,
        fixes=["write the file again", "check `format` of the source", SKIP],
    )


def bad_condition(error: BaseException, where: str, condition: str) -> ConfigError:
    """Return the error of an SQL condition that Spark cannot analyse."""
    return ConfigError(
        "the condition is not valid Spark SQL over the raw columns",
        where=where,
        got=condition,
        fixes=[first_line(str(error))],
    )


def column_twice(name: str, where: str, got: object = None, fixes: Sequence[str] = ()) -> DataError:
    """Return the error of rows with two columns of one name; `fixes` in place of those for a DataFrame."""
    return DataError(
        f"two columns are named {name!r} (Spark compares names without case)",
        where=where,
        got=got,
        fixes=fixes
        or [
            "rename or drop one of the two",
            "after a join: join on the name (`on='user'`), or `drop` the copy",
        ],
    )


def full_disk(where: str) -> UserError:
    """Return the error of a full disk."""
    return UserError(
        "the disk is full; nothing was changed",
        where=where,
        fixes=[
            "free some space, or choose another --out (for a store: --staging)",
            "set spark.local.dir to a larger disk for Spark's own files",
        ],
    )


def no_permission(where: str, got: str) -> UserError:
    """Return the error of a folder that may not be written."""
    return UserError(
        "no permission to write",
        where=where,
        got=got,
        fixes=["choose another --out", "ask for write permission"],
    )


def no_read_permission(where: str, got: str) -> DataError:
    """Return the error of a source that may not be read."""
    return DataError(
        "no permission to read",
        where=where,
        got=got,
        fixes=["ask for read permission on it, and on the folders above it", "run as a user who has it"],
    )


def unreadable_file(file: str, kind: str, error: Exception) -> DataError:
    """Return the error of a file that this machine cannot read as `kind`."""
    if isinstance(error, PermissionError):
        return no_read_permission(file, error.strerror or "permission denied")
    return DataError(
        f"the file cannot be read as {kind}: it is damaged, truncated, or of another format",
        where=file,
        got=str(error).splitlines()[0],
        fixes=[*_other_format(file, kind), "write the file again", "check `format` of the source", SKIP],
    )


def _other_format(file: str, kind: str) -> list[str]:
    """Return the fix for text that is read as Parquet, by how the file begins."""
    try:
        with Path(file).open("rb") as stream:
            head = stream.read(1024) if kind == "Parquet" else b""
    except OSError:
        return []
    line = next(iter(head.decode("utf-8", "replace").removeprefix("\ufeff").splitlines()), "")
    if not line or head.startswith(b"PAR1") or not line.replace("\t", " ").isprintable():
        return []
    text = "json" if line.lstrip().startswith("{") else "tsv" if "\t" in line else "csv"
    return [f"format: {text}, for the file is text"]


def _from_os(error: OSError, where: str, reading: bool) -> UserError | None:
    place = str(error.filename or where)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return full_disk(place)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        may_not_read = reading and error.errno != errno.EROFS
        return (no_read_permission if may_not_read else no_permission)(place, error.strerror or "")
    return None


def _cause(text: str) -> str:
    causes: list[str] = re.findall(r"Caused by: ([^\n]+)", text)
    return (causes[-1] if causes else first_line(text))[:400]
