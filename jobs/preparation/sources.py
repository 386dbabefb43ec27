"""Raw rows: files, a table or a DataFrame, with side tables joined to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pyspark.sql import functions as F

from jobs.preparation.columns import BAD_LINE, FILE, column, quoted, token
from jobs.preparation.failures import column_twice, named_failures
from jobs.preparation.files import (
    UNNAMED,
    SourceFiles,
    absolute_path,
    checked_text,
    common_header,
    find_files,
)
from jobs.preparation.row_numbers import with_row_numbers
from trainer.config import JoinConfig, RunConfig, SourceConfig
from trainer.config.messages import did_you_mean
from trainer.config.source import java_charset
from trainer.errors import ConfigError, DataError
from trainer.schema import SYNTHETIC_FILE
from trainer.storage import local_path

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_TEXT_DELIMITER = {"csv": ",", "tsv": "\t"}


def raw_rows(run: RunConfig, spark: SparkSession, frame: DataFrame | None = None) -> DataFrame:
    """Return the raw rows with their side tables joined.

    Args:
        run: names the source and the joins.
        spark: the session.
        frame: rows to take instead of `data.source`.

    Returns:
        One row per row of the source; columns of the source first, then those of each side table.

    Raises:
        ConfigError: neither source nor frame, or a side table repeats a column name.
        DataError: a source is missing, unreadable or empty of columns, or a join key is not unique.
    """
    joined, _ = rows_and_columns(run, spark, frame)
    return joined.drop(BAD_LINE, FILE)


def rows_and_columns(
    run: RunConfig, spark: SparkSession, frame: DataFrame | None
) -> tuple[DataFrame, list[str]]:
    """Return the joined rows with `BAD_LINE` (null where the line is sound), and the source's own columns.

    Where files decide the split, `FILE` says which one a row comes from.

    Raises:
        ConfigError, DataError: see `raw_rows`; or the frame has two columns of one name.
    """
    if frame is None:
        if run.data.source is None:
            raise ConfigError(
                "there are no rows to prepare",
                where="data.source",
                fixes=["set data.source.path", "pass a DataFrame"],
            )
        frame = read_source(run.data.source, run.data.root, spark, where="data.source")
        if run.data.split.method == "files" and run.data.source.table is None:
            frame = frame.withColumn(FILE, F.col("_metadata.file_path"))
    else:
        _check_distinct(frame, "the DataFrame")
        frame = frame.withColumn(BAD_LINE, F.lit(None).cast("string"))
    own = [name for name in frame.columns if name not in (BAD_LINE, FILE)]
    return with_side_tables(frame, run, spark), own


def with_side_tables(
    frame: DataFrame, run: RunConfig, spark: SparkSession, *, check: bool = True
) -> DataFrame:
    """Join the side tables to rows.

    Args:
        frame: rows with the columns of the source.
        run: names the joins.
        spark: the session.
        check: False where the same tables were joined and checked before.

    Raises:
        ConfigError, DataError: see `raw_rows`.
    """
    for number, join in enumerate(run.data.joins):
        frame = _joined(frame, join, run.data.root, spark, f"data.joins.{number}", check)
    return frame


def read_source(source: SourceConfig, root: str, spark: SparkSession, where: str) -> DataFrame:
    """Return the rows of one source and `BAD_LINE`: format, file and text of a line that cannot be read.

    Args:
        source: what to read.
        root: folder that relative paths start from.
        spark: the session.
        where: key path for errors.

    Raises:
        ConfigError: the format cannot be told, or a text source has neither header nor column names.
        DataError: the source is missing or unreadable, or has two columns of one name.
    """
    if source.table is not None:
        with named_failures(f"{where}.table: {source.table}", reading=True):
            rows = spark.table(source.table)
        return rows.withColumn(BAD_LINE, F.lit(None).cast("string"))
    if source.path is None:
        raise ConfigError("a source needs `path` or `table`", where=where)
    local = spark.conf.get("spark.master", "local").startswith("local")
    with named_failures(", ".join(source.paths()[:3]), reading=True):
        files = find_files(source, root, where, local=local)
    with named_failures(files.shown, reading=True):
        if files.format in _TEXT_DELIMITER:
            return _read_text(files, source, spark, where)
        if files.format == "json":
            return _read_json(files, source, spark)
        rows = _numbered(spark.read.parquet(*files.paths), files, source)
        return rows.withColumn(BAD_LINE, F.lit(None).cast("string"))


def is_synthetic(run: RunConfig) -> bool:
    """Return whether rows or side tables lie in a folder that `shardrec synth` made, as its marker tells."""
    sources = [run.data.source, *(join.source for join in run.data.joins)]
    paths = [path for source in sources if source is not None for path in source.paths()]
    here = [local for path in paths if (local := local_path(absolute_path(path, run.data.root))) is not None]
    folders = {folder for path in here for folder in (Path(path), *Path(path).parents)}
    return any((folder / SYNTHETIC_FILE).is_file() for folder in folders)


def _check_distinct(frame: DataFrame, where: str) -> None:
    seen: set[str] = set()
    for name in frame.columns:
        if name.lower() in seen:
            raise column_twice(name, where, ", ".join(frame.columns))
        seen.add(name.lower())


def require_columns(names: Sequence[str], have: Sequence[str], where: str) -> None:
    """Check that the raw rows have all columns.

    Raises:
        DataError: one is missing; names it, the nearest name, and all columns there are.
    """
    missing = [name for name in names if name not in have]
    if missing:
        near = did_you_mean(missing[0], have)
        others = [f"also missing: {', '.join(missing[1:9])}"] if missing[1:] else []
        raise DataError(
            f"column {missing[0]!r} is not in the rows",
            where=where,
            allowed=list(have),
            fixes=([near] if near else []) + others,
        )


def _read_text(files: SourceFiles, source: SourceConfig, spark: SparkSession, where: str) -> DataFrame:
    delimiter = source.delimiter or _TEXT_DELIMITER[files.format]
    # Only plain CSV has quotes: in TSV, and in `::` files, a quote is a character like any other.
    quote = '"' if files.format == "csv" and len(delimiter) == 1 else ""
    heads = checked_text(files, source.encoding)
    reader = (
        spark.read.option("sep", delimiter)
        .option("encoding", _line_charset(source, where))
        .option("quote", quote)
        .option("escape", quote or "\\")
        .option("header", str(source.header).lower())
        .option("multiLine", str(source.multi_line).lower())
    )
    if source.header and heads is not None:
        names = common_header(files, heads, delimiter, quote)
    elif source.header:
        names = reader.csv(files.paths[0]).columns
    elif source.columns:
        names = source.columns
    else:
        raise ConfigError(
            "a text source needs its column names", where=where, fixes=["columns: [...]", "header: true"]
        )
    schema = ", ".join(f"{quoted(name)} string" for name in [*names, BAD_LINE])
    rows = (
        reader.schema(schema)
        .option("mode", "PERMISSIVE")
        .option("columnNameOfCorruptRecord", BAD_LINE)
        # Every file's header must be the first one's: Spark checks what we could not open.
        .option("enforceSchema", str(heads is not None).lower())
        .csv(files.paths)
    )
    rows = _numbered(_with_file_name(rows, files.format), files, source)
    return _without_words(rows, source.null_values or [])


def _numbered(rows: DataFrame, files: SourceFiles, source: SourceConfig) -> DataFrame:
    return rows if source.row_number is None else with_row_numbers(rows, files, source.row_number)


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
    if not words:
        return rows
    names = [name for name in rows.columns if name != BAD_LINE]
    return rows.select(
        *[F.when(~column(name).isin(words), column(name)).alias(name) for name in names], F.col(BAD_LINE)
    )


def _read_json(files: SourceFiles, source: SourceConfig, spark: SparkSession) -> DataFrame:
    checked_text(files, source.encoding)
    reader = spark.read.option("mode", "PERMISSIVE").option("columnNameOfCorruptRecord", BAD_LINE)
    rows = reader.option("encoding", java_charset(source.encoding)).option("lineSep", "\n").json(files.paths)
    if [name for name in rows.columns if name != BAD_LINE] == []:
        raise DataError("no line of the source is a JSON object", where=files.shown)
    if BAD_LINE not in rows.columns:
        return _numbered(rows, files, source).withColumn(BAD_LINE, F.lit(None).cast("string"))
    return _numbered(_with_file_name(rows, "json"), files, source)


def _with_file_name(rows: DataFrame, kind: str) -> DataFrame:
    line = F.concat(F.lit(f"{kind}\n"), F.col("_metadata.file_path"), F.lit("\n"), F.col(BAD_LINE))
    return rows.withColumn(BAD_LINE, F.when(F.col(BAD_LINE).isNotNull(), line))


def bad_line_error(count: int, line: str) -> DataError:
    """Return the error of lines that cannot be read; `line` is one of them as `BAD_LINE` holds it."""
    kind, file, text = line.split("\n", 2)
    if kind == "json":
        what = f"{count} line(s) are no JSON objects"
        fixes = ["write one object per line; of an array: jq -c '.[]'", "mend or remove the line"]
    else:
        what = f"{count} line(s) have too few or too many columns"
        fixes = ["check `delimiter` and `columns` of the source", "mend or remove the line"]
        if kind == "csv":
            fixes.append("`multi_line: true` where a quoted field holds a line break")
    return DataError(what, where=unquote(file), got=text[:300], fixes=fixes)


def _joined(
    frame: DataFrame, join: JoinConfig, root: str, spark: SparkSession, where: str, check: bool
) -> DataFrame:
    side = read_source(join.source, root, spark, where=f"{where}.source")
    columns = [name for name in side.columns if name != BAD_LINE and not name.startswith(UNNAMED)]
    require_columns(join.on, frame.columns, f"{where}.on (rows)")
    require_columns(join.on, columns, f"{where}.on (side table)")
    have = {name.lower() for name in frame.columns}
    clash = [name for name in columns if name not in join.on and name.lower() in have]
    if clash:
        raise ConfigError(
            "the side table has columns that the rows have already",
            where=where,
            got=clash,
            fixes=["rename them in the source, or list other `columns`"],
        )
    place = join.source.table or str(join.source.path)
    with named_failures(place, reading=True):
        if check:
            _check_side(side, join.on, f"{where}: {place}")
    keys = [f"__key_{number}" for number in range(len(join.on))]
    matches: list[Column] = []
    for key, name in zip(keys, join.on, strict=True):
        same = frame.schema[name].dataType == side.schema[name].dataType
        # Text against numbers compares as text (`7` and `7.0` alike), never by an implicit cast.
        side = side.withColumn(key, column(name) if same else token(side, name))
        matches.append((column(name) if same else token(frame, name)) == F.col(key))
    side = side.drop(*[name for name in side.columns if name not in (*columns, *keys)], *join.on)
    condition = matches[0]
    for match in matches[1:]:
        condition = condition & match
    return frame.join(side, condition, "left").drop(*keys)


def _check_side(side: DataFrame, keys: list[str], where: str) -> None:
    """Check in one pass that the keys are unique and the lines sound."""
    # Reading every column keeps Spark from pruning them, which would hide lines with too many of them.
    everything = F.xxhash64(*[column(name) for name in side.columns])
    counted = side.groupBy(*[column(name) for name in keys]).agg(
        F.count(F.lit(1)).alias("n"),
        F.count(BAD_LINE).alias("lines"),
        F.max(everything).alias("everything"),
    )
    twice = F.col("n") > 1
    for name in keys:
        twice = twice & column(name).isNotNull()
    found = counted.agg(
        F.count(F.lit(1)).alias("keys"),
        F.count(F.when(twice, 1)).alias("twice"),
        F.sum("lines").alias("lines"),
        F.max("everything").alias("everything"),
    ).first()
    assert found is not None
    if found["keys"] == 0:
        raise DataError("the side table is empty", where=where)
    if found["lines"]:
        row = side.agg(F.max(BAD_LINE).alias("line"), F.max(everything)).first()
        assert row is not None
        raise bad_line_error(found["lines"], row["line"])
    if found["twice"]:
        row = (
            counted.where(twice)
            .select(F.concat_ws(", ", *[column(name).cast("string") for name in keys]))
            .first()
        )
        assert row is not None
        raise DataError(
            f"{found['twice']} key(s) of the side table are not unique",
            where=where,
            got=row[0],
            fixes=[f"keep one row per {', '.join(keys)}"],
        )
