"""Config of raw rows: files or tables, and the tables joined to them or looked up for them."""

from __future__ import annotations

import codecs
import re
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from trainer.config.base import Section
from trainer.config.text_guesses import first_line, naming_fixes

FORMATS = {
    ".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "json", ".ndjson": "json",
    ".parquet": "parquet", ".parq": "parquet", ".pq": "parquet",
}  # fmt: skip
"""Formats by the last suffix of a file name that tells one."""
DELIMITERS = {"csv": ",", "tsv": "\t"}
"""Of text formats, where the config names none."""
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]+:")
# Which options each format reads; a table has none.
_OPTIONS = {
    "csv": {"delimiter", "header", "columns", "encoding", "multi_line", "null_values", "escape"},
    "tsv": {"delimiter", "header", "columns", "encoding", "null_values"},
    "json": {"encoding"},
}
# Spark takes Java's names, and since 4.0 no aliases of them.
_JAVA_CHARSETS = {
    "ascii": "US-ASCII", "iso8859-1": "ISO-8859-1", "utf-8": "UTF-8", "utf-8-sig": "UTF-8",
    "utf-16": "UTF-16", "utf-16-be": "UTF-16BE", "utf-16-le": "UTF-16LE", "utf-32": "UTF-32",
}  # fmt: skip


def is_absolute(path: str) -> bool:
    """Return whether a path or URL stays the same under any `data.root`."""
    return path.startswith("/") or _SCHEME.match(path) is not None


def absolute_path(path: str, root: str) -> str:
    """Return a path or URL of a source under `data.root`."""
    if is_absolute(path):
        return path
    if _SCHEME.match(root):
        return f"{root.rstrip('/')}/{path}"
    return str(Path(root).absolute() / path)


def named_format(path: str) -> str | None:
    """Return the format that a file's name or a pattern tells, such as `csv` of `clicks.csv.gz`."""
    suffixes = PurePosixPath(path).suffixes[::-1]
    return next((FORMATS[suffix.lower()] for suffix in suffixes if suffix.lower() in FORMATS), None)


def java_charset(encoding: str) -> str:
    """Return the name that Spark knows an encoding by; `latin-1` is `ISO-8859-1`."""
    return _JAVA_CHARSETS.get(codecs.lookup(encoding).name, encoding)


def expand_range(name: str) -> list[str]:
    """Return `["I1", "I2", "I3"]` for `I1..I3`, `["I01", "I02"]` for `I01..I02`, `[name]` for a plain name.

    Raises:
        ValueError: the range runs backwards.
    """
    match = re.fullmatch(r"(.*?)(\d+)\.\.\1(\d+)", name)
    if match is None:
        return [name]
    prefix, first, last = match.groups()
    if int(first) > int(last):
        raise ValueError(f"the range `{name}` runs backwards: write `{prefix}{last}..{prefix}{first}`")
    digits = len(first) if first.startswith("0") else 0
    return [f"{prefix}{number:0{digits}d}" for number in range(int(first), int(last) + 1)]


def no_name_twice(names: list[str], what: str) -> None:
    """Check that no name comes twice; Spark compares names without case."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.get(name.lower())
        if other is not None:
            both = f"`{name}`" if other == name else f"`{other}` and `{name}`, which Spark takes for one"
            raise ValueError(f"{what} names a column twice: {both}")
        seen[name.lower()] = name


class SourceConfig(Section):
    """Raw rows: files (CSV, TSV, Parquet, JSON lines) or a table name; exactly one of `path` and `table`."""

    path: str | list[str] | None = None
    """File, folder or glob, or a list of them; relative to `data.root`."""
    table: str | None = None
    """Name of a Spark table, for instance `ads.clicks`."""
    format: Literal["csv", "tsv", "parquet", "json"] | None = None
    """File format; by default read from the file name."""
    delimiter: str | None = Field(default=None, min_length=1)
    """Column delimiter of CSV (default `,`) and TSV (default tab); several characters are allowed (`::`)."""
    header: bool = False
    """Whether the first line of a CSV or TSV file names the columns."""
    columns: list[str] | None = None
    """Column names of a CSV or TSV file without a header, in file order; `I1..I13` stands for thirteen."""
    encoding: str = "utf-8"
    """Character encoding of CSV, TSV and JSON files."""
    multi_line: bool = False
    """Whether quoted fields of a CSV file may hold line breaks; one task then reads each file as a whole."""
    escape: str | None = Field(default=None, min_length=1)
    """Character before a quote within a quoted field of a CSV file, a backslash in what Spark and MySQL
    write; without it such quotes are doubled."""
    null_values: list[str] | None = None
    """Words of a CSV or TSV file that mean a missing value, like an empty field; for instance `[NA, nan]`."""
    on_corrupt: Literal["fail", "skip"] = "fail"
    """At lines, row groups and files that cannot be read; `skip` leaves them out, counts them, and tells of
    them in the report."""
    row_number: str | None = None
    """Adds a column of this name that numbers the rows of all files from 0: files in the order of `path`,
    those of a folder or glob by name. The order of rows without a time."""

    @field_validator("columns")
    @classmethod
    def _ranges(cls, columns: list[str] | None) -> list[str] | None:
        if columns is None:
            return None
        names = [name for item in columns for name in expand_range(item)]
        no_name_twice(names, "the source")
        return names

    @field_validator("delimiter")
    @classmethod
    def _tab(cls, delimiter: str | None) -> str | None:
        # YAML keeps `\t` without double quotes as two characters.
        return None if delimiter is None else delimiter.replace("\\t", "\t")

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            "".encode(encoding)
        except (LookupError, ValueError) as error:
            raise ValueError(f"unknown encoding `{encoding}`: try UTF-8, ISO-8859-1 or US-ASCII") from error
        return encoding

    @model_validator(mode="after")
    def _one_origin(self, info: ValidationInfo) -> SourceConfig:
        if self.path is not None and self.table is not None:
            raise ValueError("give `path` or `table`, not both")
        if self.header and self.columns:
            raise ValueError("give `header: true` or `columns`, not both")
        if len(self.escape or "") > 1:
            raise ValueError('`escape` is one character: a backslash is `"\\\\"` in double quotes, else `\\`')
        if self.escape is not None and len(self.delimiter or "") > 1:
            raise ValueError("`escape` means nothing with a delimiter of several characters: leave it out")
        kind = "table" if self.table is not None else self.format
        ignored = [] if kind is None else self.ignored_options(kind)
        if ignored:
            what = "a table" if kind == "table" else f"`format: {kind}`"
            raise ValueError(f"`{ignored[0]}` means nothing for {what}: leave it out")
        kinds = {self.format or named_format(path) for path in self.paths()}
        if kinds and kinds <= {"csv", "tsv"} and not self.header and not self.columns:
            raise _no_column_names(self, (info.context or {}).get("root", "."))
        return self

    def ignored_options(self, kind: str) -> list[str]:
        """Return the options that are set but mean nothing for a format, or for `table`."""
        unread = _OPTIONS["csv"] - _OPTIONS.get(kind, set()) | (
            {"format", "row_number", "on_corrupt"} if kind == "table" else set()
        )
        fields = type(self).model_fields
        return [name for name in fields if name in unread and getattr(self, name) != fields[name].default]

    def paths(self) -> list[str]:
        """Return `path` as a list."""
        return [self.path] if isinstance(self.path, str) else list(self.path or [])


def _no_column_names(source: SourceConfig, root: str) -> PydanticCustomError:
    path = absolute_path(source.paths()[0], root)
    line = first_line(path, source.encoding)
    kind = source.format or named_format(path) or "csv"
    fixes = naming_fixes(line, source.delimiter or DELIMITERS[kind])
    got = None if line is None else f"the first line {line[:200]!r} of {path}"
    what = "a CSV or TSV source needs its column names: give `header: true` or `columns: [...]`"
    return PydanticCustomError("no_column_names", what, {"got": got, "fixes": fixes})


class JoinConfig(Section):
    """A side table joined (left) to the rows, such as users or items."""

    source: SourceConfig
    on: list[str] = Field(min_length=1)
    """Key columns, named the same on both sides; they must be unique in the side table."""


class VectorsConfig(Section):
    """Precomputed vectors, such as embeddings of texts or images: a table with one row per id."""

    source: SourceConfig
    """Rows with an id and a list of numbers; all lists have the same length."""
    on: str
    """Raw column (of the rows or a side table) whose value is looked up. A row whose value is missing, or not
    among the ids, gets zeros."""
    id: str | None = None
    """Id column of the source; default that of `on`."""
    column: str
    """Column of the source with the lists."""

    @property
    def id_column(self) -> str:
        """Return the id column of the source."""
        return self.id or self.on
