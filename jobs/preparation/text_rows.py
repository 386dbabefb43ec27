"""Rows of CSV, TSV and JSON files as Spark reads them, with each line that cannot be read beside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.preparation.columns import BAD_LINE, column
from jobs.preparation.drift import METADATA, united, wider
from jobs.preparation.failures import SKIP
from jobs.preparation.files import SourceFiles, escaped
from jobs.preparation.spark_paths import spark_path
from jobs.preparation.text_files import checked_text, headers
from trainer.config import SourceConfig
from trainer.config.source import DELIMITERS, java_charset
from trainer.config.text_guesses import likely_delimiter, naming_fixes
from trainer.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def read_text(
    files: SourceFiles, source: SourceConfig, spark: SparkSession, where: str
) -> tuple[SourceFiles, DataFrame]:
    """Read CSV or TSV, every column as text.

    Args:
        files: of the source.
        source: says how they are written.
        spark: the session.
        where: key path for errors.

    Returns:
        The files that can be read, and their rows with `BAD_LINE`.

    Raises:
        ConfigError: there is neither a header nor column names, or Spark has no such encoding.
        DataError: headers differ, a file is damaged or in another encoding, or folders are named as a column.
    """
    delimiter = source.delimiter or DELIMITERS[files.format]
    # Only plain CSV has quotes: in TSV, and in `::` files, a quote is a character like any other.
    quote = '"' if files.format == "csv" and len(delimiter) == 1 else ""
    doubled = delimiter if quote and source.escape is None else None
    skip = source.on_corrupt == "skip"
    files, heads = checked_text(files, source.encoding, skip=skip, doubled_quotes_between=doubled)
    options: dict[str, str | bool] = {
        "sep": delimiter,
        "encoding": _line_charset(source, where),
        "quote": quote,
        "escape": source.escape or quote or "\\",
        "header": source.header,
        "multiLine": source.multi_line,
        # A line with too many columns is found only where all are read.
        "columnPruning": source.on_corrupt != "skip",
        "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": BAD_LINE,
    }
    if source.header and heads is not None:
        read = headers(files, heads, delimiter, quote, source.escape)
    elif source.header:
        read = [(spark.read.options(**options).csv(files.paths[0]).columns, files.here)]
    elif source.columns:
        read = [(source.columns, files.here)]
    else:
        raise _no_column_names(where, heads, delimiter)
    # Every file's header must be the first one's: Spark checks what we could not open.
    reader = _Reader(spark, "csv", {**options, "enforceSchema": heads is not None})
    frames = [reader.frame(files, chosen, _texts(names)) for names, chosen in read]
    if heads is not None or not source.header:  # a header that Spark tells holds the partition columns
        for (names, _), frame in zip(read, frames, strict=True):
            _check_apart(names, frame, files)
    rows = united(frames) if len(frames) > 1 else frames[0]
    return files, _without_words(
        _with_file_name(rows, f"{files.format} {delimiter}"), source.null_values or []
    )


@dataclass(frozen=True)
class _Reader:
    """Spark's reader of a format, with options."""

    spark: SparkSession
    kind: str
    options: dict[str, str | bool]

    def load(
        self, paths: Sequence[str], columns: T.StructType | None = None, base: str | None = None
    ) -> DataFrame:
        """Read paths; folder names below `base` are partition columns."""
        reader = self.spark.read.format(self.kind).options(**self.options)
        if base is not None:
            reader = reader.option("basePath", spark_path(base))
        return (reader if columns is None else reader.schema(columns)).load(list(paths))

    def frame(self, files: SourceFiles, chosen: Sequence[str], columns: T.StructType | None) -> DataFrame:
        """Read some files of a source with the partition columns that all of them have, lost ones too.

        Args:
            files: of the source.
            chosen: the ones of `files.here` to read.
            columns: that the files hold; None lets Spark look.
        """
        several = len(files.bases) > 1
        if not (files.lost or len(chosen) < len(files.here) or several):
            return self.load(files.paths, columns)
        # Of files that are named one by one, Spark looks at no folder names by itself.
        columns = columns or self.load(list(map(escaped, chosen))).schema
        tops = [[escaped(base)] for base in files.bases] if several else [files.paths]
        schema = T.StructType([*columns, *self._partitions(tops, columns)])
        frames = [
            self.load([escaped(file) for file in part], schema, base)
            for base, part in _by_base(files, chosen).items()
        ]
        return united(frames) if len(frames) > 1 else frames[0]

    def _partitions(self, tops: Sequence[Sequence[str]], columns: T.StructType) -> list[T.StructField]:
        """Return the partition columns below some folders, of a type that holds the values of all of them."""
        found: dict[str, T.DataType] = {}
        for paths in tops:
            for field in self.load(paths, columns).schema:
                if field.name not in columns.names:
                    known = found.get(field.name, field.dataType)
                    # Spark takes a text where the names in one folder differ in type.
                    found[field.name] = wider(known, field.dataType) or T.StringType()
        return [T.StructField(name, kind) for name, kind in found.items()]


def _by_base(files: SourceFiles, chosen: Sequence[str]) -> dict[str | None, list[str]]:
    """Return the chosen files below each folder that holds partition folders; all of them where none does."""
    if len(files.bases) < 2:
        return {next(iter(files.bases), None): list(chosen)}
    below: dict[str | None, list[str]] = {}
    for file in chosen:
        base = next(base for base in files.bases if Path(base) in Path(file).parents)
        below.setdefault(base, []).append(file)
    return below


def _check_apart(names: Sequence[str], rows: DataFrame, files: SourceFiles) -> None:
    """Check that no partition column is a column of the files: Spark would shift those behind it."""
    twice = next((name for name, there in zip(names, rows.columns, strict=False) if name != there), None)
    if twice is not None:
        # The folder may spell it in another case.
        folder = re.search(f"/({re.escape(twice)})=", unquote("\n".join(files.here)), re.IGNORECASE)
        raise DataError(
            f"column {twice!r} is in the files and in the names of their folders",
            where=files.shown,
            got=", ".join(names)[:300],
            fixes=[
                "rename the column or the folders",
                f"read the folders without their names: {folder[1] if folder else twice}=*",
            ],
        )


def _texts(names: Sequence[str]) -> T.StructType:
    return T.StructType([T.StructField(name, T.StringType()) for name in [*names, BAD_LINE]])


def _line_charset(source: SourceConfig, where: str) -> str:
    charset = java_charset(source.encoding)
    if charset.startswith(("UTF-16", "UTF-32")) and not source.multi_line:
        raise ConfigError(
            "Spark finds no line ends in this encoding",
            where=f"{where}.encoding",
            got=source.encoding,
            fixes=[f"convert the files: iconv -f {charset} -t UTF-8", "multi_line: true (CSV)"],
        )
    return charset


def _without_words(rows: DataFrame, words: list[str]) -> DataFrame:
    """Make null of the words that mean a missing value."""
    names = [field.name for field in rows.schema if field.name not in (BAD_LINE, METADATA)]
    if not words:
        return rows
    return rows.withColumns({name: F.when(~column(name).isin(words), column(name)) for name in names})


def read_json(
    files: SourceFiles, source: SourceConfig, spark: SparkSession, _: str
) -> tuple[SourceFiles, DataFrame]:
    """Read JSON lines; a key that a line lacks is a missing value. See `read_text`."""
    files, _heads = checked_text(files, source.encoding, skip=source.on_corrupt == "skip")
    options: dict[str, str | bool] = {
        "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": BAD_LINE,
        "encoding": java_charset(source.encoding),
        "lineSep": "\n",
    }
    rows = _Reader(spark, "json", options).frame(files, files.here, None)
    if [name for name in rows.columns if name != BAD_LINE] == []:
        raise DataError("no line of the source is a JSON object", where=files.shown)
    if BAD_LINE not in rows.columns:
        return files, rows.withColumn(BAD_LINE, F.lit(None).cast("string"))
    return files, _with_file_name(rows, "json")


def _with_file_name(rows: DataFrame, kind: str) -> DataFrame:
    line = F.concat(F.lit(f"{kind}\n"), F.col("_metadata.file_path"), F.lit("\n"), F.col(BAD_LINE))
    return rows.withColumn(BAD_LINE, F.when(F.col(BAD_LINE).isNotNull(), line))


def _no_column_names(where: str, heads: Sequence[str] | None, delimiter: str) -> ConfigError:
    """Return the error of a text source that neither names its columns nor has a header."""
    lines = [line for head in heads or () for line in head.splitlines() if line.strip()]
    return ConfigError(
        "a text source needs its column names",
        where=where,
        got=f"the first line {lines[0][:200]!r}" if lines else None,
        fixes=naming_fixes(lines[0] if lines else None, delimiter),
    )


def bad_line_error(count: int, line: str) -> DataError:
    """Return the error of lines that cannot be read; `line` is one of them as `BAD_LINE` holds it."""
    kind, file, text = line.split("\n", 2)
    kind, _, delimiter = kind.partition(" ")
    if kind == "json":
        what = f"{count} line(s) are no JSON objects"
        fixes = ["write one object per line; of an array: jq -c '.[]'", "mend or remove the line"]
    else:
        what = f"{count} line(s) have too few or too many columns"
        other = None if delimiter in text else likely_delimiter(text)
        fixes = [other] if other else []
        fixes += ["check `delimiter` and `columns` of the source", "mend or remove the line"]
        if kind == "csv":
            fixes.append("`multi_line: true` where a quoted field holds a line break")
    fixes.append(SKIP)
    return DataError(what, where=unquote(file), got=text[:300], fixes=fixes)
