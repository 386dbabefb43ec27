"""Finds the files of a source and their format, and looks into the local ones, before Spark reads them."""

from __future__ import annotations

import atexit
import codecs
import csv
import difflib
import glob
import io
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.preparation.failures import column_twice, no_read_permission
from trainer.config import SourceConfig
from trainer.config.source import is_absolute
from trainer.errors import ConfigError, DataError
from trainer.storage import local_path

_FORMATS = {
    ".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "json", ".ndjson": "json",
    ".parquet": "parquet", ".parq": "parquet", ".pq": "parquet",
}  # fmt: skip
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]+:")
_GLOB = re.compile(r"[*?\[]")
# Opening footers one by one takes about a millisecond each; past this many files Spark's own error must do.
_MAX_FOOTERS = 2000
# Text is decoded here at a few GB/s, which Spark's own reading hides; beyond this only each file's beginning.
_DECODED_BYTES = 256 << 20
_CHUNK_BYTES = 1 << 20
_LEAST_BYTES = 64 << 10
# Hadoop packs these in ways of its own.
_ONLY_SPARK_UNPACKS = {".lz4", ".snappy", ".deflate"}
# Encodings in which Python and Java refuse the same bytes; Java then puts U+FFFD, which would merge ids.
_STRICT = {"utf-8", "utf-8-sig", "ascii"}
# Spark skips such lines as blank.
_ONLY_BLANKS = re.compile(r"\n([ \t]+)\r?(?=\n)")
UNNAMED = "__unnamed_"


@dataclass(frozen=True)
class SourceFiles:
    """What a source consists of.

    Attributes:
        paths: for Spark, which takes them as patterns: other characters of names found here are escaped.
        format: that the files share.
        shown: the first paths as a person writes them, for errors.
        here: the files themselves; empty where some can be opened by Spark only.
    """

    paths: list[str]
    format: str
    shown: str
    here: list[str]


def find_files(source: SourceConfig, root: str, where: str, *, local: bool) -> SourceFiles:
    """Return the files of a source.

    Args:
        source: with `path` set.
        root: folder that relative paths start from.
        where: key path for errors.
        local: whether Spark runs on this machine, so that plain paths mean its file system.

    Raises:
        ConfigError: the format cannot be told from the names, or has no such option.
        DataError: a path does not exist, matches nothing, or may not be read; a Parquet file is damaged, or
            has other columns than the first.
    """
    given = source.paths()
    if not given:
        raise ConfigError("`path` is an empty list", where=f"{where}.path")
    paths: list[str] = []
    for path in given:
        absolute = absolute_path(path, root)
        posix = local_path(absolute)
        # On a cluster a plain path may mean its own file system, which only Spark can look into.
        known = posix is not None and (local or absolute.startswith(("file:", "dbfs:")))
        paths += _existing(posix, f"{where}.path") if known and posix is not None else [absolute]
    kind = source.format or _format(paths, where)
    ignored = source.ignored_options(kind)
    if ignored:
        raise ConfigError(
            f"`{ignored[0]}` means nothing for {kind} files",
            where=f"{where}.{ignored[0]}",
            got=getattr(source, ignored[0]),
            fixes=["leave it out", "check `format` of the source"],
        )
    if kind == "parquet":
        paths = _checked_parquet(paths, local)
    found = [path for path in paths if Path(path).exists()]
    here = _file_names(found) if len(found) == len(paths) else []
    escaped = [_escaped(path) if path in found else path for path in paths]
    return SourceFiles(escaped, kind, ", ".join(paths[:3]), here)


def _escaped(path: str) -> str:
    """Return the pattern that matches a path literally."""
    return re.sub(r"([*?\[\]{}\\])", r"\\\1", path)


def absolute_path(path: str, root: str) -> str:
    """Return a path or URL of a source under `data.root`."""
    if is_absolute(path):
        return path
    if _SCHEME.match(root):
        return f"{root.rstrip('/')}/{path}"
    return str(Path(root).absolute() / path)


def _existing(path: str, where: str) -> list[str]:
    if _GLOB.search(path) and not Path(path).exists():
        found = sorted(
            name for name in glob.glob(path, recursive=True) if not Path(name).name.startswith(("_", "."))
        )
        if not found:
            raise DataError("no file matches the pattern", where=where, got=path)
        return found
    if not Path(path).exists():
        folder = Path(path).parent
        names = [item.name for item in folder.iterdir()] if folder.is_dir() else []
        near = difflib.get_close_matches(Path(path).name, names, n=3)
        fixes = [f"did you mean {folder / name}?" for name in near]
        if not folder.is_dir():
            fixes = [f"the folder {folder} does not exist either; relative paths start at data.root"]
        raise DataError("there is no such file or folder", where=where, got=path, fixes=fixes)
    # Listing a folder without permission finds nothing, and says nothing.
    if not os.access(path, os.R_OK | (os.X_OK if Path(path).is_dir() else 0)):
        raise no_read_permission(path, "permission denied")
    return [path]


def _format(paths: list[str], where: str) -> str:
    for name in _file_names(paths):
        for suffix in Path(name).suffixes[::-1]:
            if suffix.lower() in _FORMATS:
                return _FORMATS[suffix.lower()]
    raise ConfigError(
        "the format of the source cannot be told from its name",
        where=f"{where}.format",
        got=paths[0],
        allowed=["csv", "tsv", "parquet", "json"],
        fixes=["set `format`"],
    )


def _file_names(paths: list[str]) -> list[str]:
    names: list[str] = []
    for path in paths:
        names += [str(file) for file in _files_below(Path(path))] if Path(path).is_dir() else [path]
    return names


def _files_below(folder: Path) -> list[Path]:
    inside = (path for path in folder.rglob("*") if path.is_file())
    return sorted(
        p for p in inside if not any(part.startswith(("_", ".")) for part in p.relative_to(folder).parts)
    )


def _checked_parquet(paths: list[str], local: bool) -> list[str]:
    """Read the footers of local files, so that one that does not fit is named at once, and unpack Brotli."""
    here = [path for path in paths if Path(path).exists()]
    files = _file_names(here)
    if here and not files:
        raise DataError("the folder holds no files", where=here[0])
    brotli, first = False, None
    for file in files[:_MAX_FOOTERS]:
        try:
            footer = pq.read_metadata(file)
        except (pa.ArrowException, OSError) as error:
            _raise_unreadable(file, "Parquet", error)
        if footer.num_row_groups and footer.num_columns:
            brotli = brotli or footer.row_group(0).column(0).compression == "BROTLI"
        first = first or footer.schema
        if not footer.schema.equals(first):
            _check_same_columns(file, footer.schema, files[0], first)
    return _without_brotli(files, local) if brotli else paths


def _raise_unreadable(file: str, kind: str, error: Exception) -> NoReturn:
    if isinstance(error, PermissionError):
        raise no_read_permission(file, error.strerror or "permission denied") from error
    raise DataError(
        f"the file cannot be read as {kind}: it is damaged, truncated, or of another format",
        where=file,
        got=str(error).splitlines()[0],
        fixes=["write the file again", "check `format` of the source"],
    ) from error


def _check_same_columns(file: str, schema: pq.ParquetSchema, first: str, other: pq.ParquetSchema) -> None:
    """Check two schemas. Spark takes one file's for all, and fills what another lacks with nulls."""
    have, wanted = _parquet_columns(schema), _parquet_columns(other)
    fixes = ["write the files again with the same columns", "list in `path` the files that fit together"]
    for lacking, there, mine, theirs in ((file, first, have, wanted), (first, file, wanted, have)):
        missing = [name for name in theirs if name not in mine]
        if missing:
            raise DataError(
                f"column {missing[0]!r} is missing in one of the Parquet files",
                where=lacking,
                got=f"{there} has it",
                fixes=fixes,
            )
    for name, types in have.items():
        if types != wanted[name]:
            raise DataError(
                f"column {name!r} has different types in the Parquet files",
                where=file,
                got=", ".join(types),
                allowed=f"{', '.join(wanted[name])}, as in {first}",
                fixes=fixes,
            )


def _parquet_columns(schema: pq.ParquetSchema) -> dict[str, list[str]]:
    """Return the stored types below each top-level column, as far as Spark reads them differently."""
    columns: dict[str, list[str]] = {}
    for number in range(len(schema)):
        leaf = schema.column(number)
        flat = leaf.name == leaf.path  # else a part of a list or struct; a flat name may hold dots too
        name = leaf.path if flat else leaf.path.split(".")[0]
        columns.setdefault(name.lower(), []).append(_parquet_type(leaf))
    return columns


def _parquet_type(leaf: pq.ColumnSchema) -> str:
    physical, logical = leaf.physical_type, str(leaf.logical_type)
    if logical.startswith("Timestamp") or physical == "INT96":
        return "local timestamp" if "isAdjustedToUTC=false" in logical else "timestamp"
    return physical if logical == "None" else f"{physical} ({logical})"


def _without_brotli(files: list[str], local: bool) -> list[str]:
    """Rewrite Brotli files, for which Spark has no codec, into a folder that lives as long as the process."""
    if not local:
        raise DataError(
            "Spark cannot read Parquet files packed with Brotli",
            where=files[0],
            fixes=[
                "write them with zstd or snappy",
                "prepare on one machine (local Spark), which unpacks them",
            ],
        )
    folder = Path(tempfile.mkdtemp(prefix="shardrec-unpacked-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for number, name in enumerate(files):
        file = pq.ParquetFile(name)
        with pq.ParquetWriter(
            folder / f"{number:05d}.parquet", file.schema_arrow, compression="snappy"
        ) as writer:
            for group in range(file.num_row_groups):
                writer.write_table(file.read_row_group(group))
    return [str(folder)]


def checked_text(files: SourceFiles, encoding: str) -> list[str] | None:
    """Check that local text files are in the encoding and hold no line of blanks.

    Args:
        files: of text.
        encoding: that the config says.

    Returns:
        The beginning of each of `files.here`; None where Spark alone can open the files.

    Raises:
        DataError: bytes that are no text in the encoding, a line that Spark would skip, a damaged file.
    """
    if not files.here or any(Path(file).suffix.lower() in _ONLY_SPARK_UNPACKS for file in files.here):
        return None
    limit = max(_LEAST_BYTES, _DECODED_BYTES // len(files.here))
    return [_checked_head(file, encoding, limit, blanks=files.format != "json") for file in files.here]


def _checked_head(file: str, encoding: str, limit: int, *, blanks: bool) -> str:
    errors = "strict" if codecs.lookup(encoding).name in _STRICT else "replace"
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    head, seen, last = "", 0, False
    try:
        with pa.input_stream(file, compression="detect") as stream:
            while seen < limit and not last:
                chunk = stream.read(min(_CHUNK_BYTES, limit))
                last = not chunk
                text = decoder.decode(chunk, final=last)
                if blanks:
                    _check_blanks(text if head else "\n" + text, file)
                head = head or text
                seen += len(chunk)
    except UnicodeDecodeError as error:
        # The decoder still held the first bytes of a character from the chunk before.
        _raise_wrong_encoding(file, encoding, error, seen - (len(error.object) - len(chunk)))
    except (pa.ArrowException, OSError) as error:
        _raise_unreadable(file, "text", error)
    return head.removeprefix("\ufeff")


def _check_blanks(text: str, file: str) -> None:
    if "\n\t" not in text and "\n " not in text:  # a hundred times faster than the pattern
        return
    found = _ONLY_BLANKS.search(text)
    if found and "\t" in found.group(1):
        raise DataError(
            "a line holds delimiters only; Spark would skip it as blank",
            where=file,
            got=repr(found.group(1)),
            fixes=["remove such lines, for instance: grep -v -P '^[ \\t]+\\r?$'"],
        )


def _raise_wrong_encoding(file: str, encoding: str, error: UnicodeDecodeError, start: int) -> NoReturn:
    place = start + error.start
    around = error.object[max(0, error.start - 20) : error.end + 20]
    raise DataError(
        f"the file is not {encoding} text, so different values would become the same",
        where=file,
        got=f"byte 0x{error.object[error.start]:02x} at offset {place}: {around!r}",
        fixes=[
            "set `encoding` of the source (data.source.encoding), often ISO-8859-1",
            "convert the file: iconv -f WINDOWS-1252 -t UTF-8",
        ],
    ) from error


def common_header(files: SourceFiles, heads: list[str], delimiter: str, quote: str) -> list[str]:
    """Return the column names in the first lines of all files; those without a name are `__unnamed_<n>`.

    Args:
        files: of CSV or TSV.
        heads: their beginnings.
        delimiter: between columns.
        quote: character, or nothing.

    Raises:
        DataError: the files are empty, a name comes twice, or the headers differ.
    """
    first: tuple[str, list[str]] | None = None
    for file, head in zip(files.here, heads, strict=True):
        names = _header(head, delimiter, quote)
        if first is None and names:
            _check_header(names, file)
            first = file, names
        elif first is not None and names and names != first[1]:
            raise DataError(
                "the files of a source have different headers",
                where=file,
                got=delimiter.join(names)[:300],
                allowed=f"{delimiter.join(first[1])[:300]}, as in {first[0]}",
            )
    if first is None:
        raise DataError("the source has no rows: it is empty, without even a header", where=files.shown)
    return [name or f"{UNNAMED}{number}" for number, name in enumerate(first[1])]


def _header(head: str, delimiter: str, quote: str) -> list[str]:
    lines = (line for line in io.StringIO(head) if line.strip())
    if not quote:
        return next(lines, "").rstrip("\r\n").split(delimiter) if head.strip() else []
    return next(csv.reader(lines, delimiter=delimiter, quotechar=quote), [])


def _check_header(names: list[str], file: str) -> None:
    lowered = [name.lower() for name in names if name]
    twice = [name for name in names if lowered.count(name.lower()) > 1]
    if twice:
        raise column_twice(twice[-1], f"{file}: header", names)
