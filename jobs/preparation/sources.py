"""Raw rows: files, a table or a DataFrame, with side tables joined to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.preparation.columns import BAD_LINE, column, token
from jobs.preparation.failures import named_failures
from jobs.preparation.files import SourceFiles, find_files
from trainer.config import JoinConfig, RunConfig, SourceConfig
from trainer.config.messages import did_you_mean
from trainer.errors import ConfigError, DataError

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
    return joined.drop(BAD_LINE)


def rows_and_columns(
    run: RunConfig, spark: SparkSession, frame: DataFrame | None
) -> tuple[DataFrame, list[str]]:
    """Return the joined rows with `BAD_LINE` (null where the line is sound), and the source's own columns."""
    if frame is None:
        if run.data.source is None:
            raise ConfigError(
                "there are no rows to prepare",
                where="data.source",
                fixes=["set data.source.path", "pass a DataFrame"],
            )
        frame = read_source(run.data.source, run.data.root, spark, where="data.source")
    else:
        frame = frame.withColumn(BAD_LINE, F.lit(None).cast("string"))
    own = [name for name in frame.columns if name != BAD_LINE]
    for number, join in enumerate(run.data.joins):
        frame = _joined(frame, join, run.data.root, spark, where=f"data.joins.{number}")
    return frame, own


def read_source(source: SourceConfig, root: str, spark: SparkSession, where: str) -> DataFrame:
    """Return the rows of one source and `BAD_LINE`: file and text of a line with too few or too many columns.

    Args:
        source: what to read.
        root: folder that relative paths start from.
        spark: the session.
        where: key path for errors.

    Raises:
        ConfigError: the format cannot be told, or a text source has neither header nor column names.
        DataError: the source is missing or unreadable.
    """
    if source.table is not None:
        with named_failures(f"{where}.table: {source.table}"):
            rows = spark.table(source.table)
        return rows.withColumn(BAD_LINE, F.lit(None).cast("string"))
    if source.path is None:
        raise ConfigError("a source needs `path` or `table`", where=where)
    files = find_files(source, root, where, local=spark.conf.get("spark.master", "local").startswith("local"))
    with named_failures(", ".join(files.paths[:3])):
        if files.format in _TEXT_DELIMITER:
            return _read_text(files, source, spark, where)
        if files.format == "json":
            return _read_json(files, source, spark)
        return spark.read.parquet(*files.paths).withColumn(BAD_LINE, F.lit(None).cast("string"))


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
    reader = (
        spark.read.option("sep", delimiter)
        .option("encoding", source.encoding)
        .option("quote", quote)
        .option("escape", quote or "\\")
        .option("header", str(source.header).lower())
    )
    if source.header:
        names = reader.csv(files.paths[0]).columns
    elif source.columns:
        names = source.columns
    else:
        raise ConfigError(
            "a text source needs its column names", where=where, fixes=["columns: [...]", "header: true"]
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError("a source names a column twice", where=where, got=twice)
    schema = ", ".join(f"`{name.replace('`', '``')}` string" for name in [*names, BAD_LINE])
    rows = (
        reader.schema(schema)
        .option("mode", "PERMISSIVE")
        .option("columnNameOfCorruptRecord", BAD_LINE)
        .option("enforceSchema", "false")  # every file's header must be the first one's
        .csv(files.paths)
    )
    return _with_file_name(rows)


def _read_json(files: SourceFiles, source: SourceConfig, spark: SparkSession) -> DataFrame:
    reader = spark.read.option("mode", "PERMISSIVE").option("columnNameOfCorruptRecord", BAD_LINE)
    rows = reader.option("encoding", source.encoding).option("lineSep", "\n").json(files.paths)
    if [name for name in rows.columns if name != BAD_LINE] == []:
        raise DataError("no line of the source is a JSON object", where=", ".join(files.paths[:3]))
    if BAD_LINE not in rows.columns:
        return rows.withColumn(BAD_LINE, F.lit(None).cast("string"))
    return _with_file_name(rows)


def _with_file_name(rows: DataFrame) -> DataFrame:
    line = F.concat(F.col("_metadata.file_path"), F.lit("\n"), F.col(BAD_LINE))
    return rows.withColumn(BAD_LINE, F.when(F.col(BAD_LINE).isNotNull(), line))


def bad_line_error(count: int, line: str) -> DataError:
    """Return the error of a line that does not fit the columns."""
    file, _, text = line.partition("\n")
    return DataError(
        f"{count} line(s) have too few or too many columns",
        where=file,
        got=text[:300],
        fixes=["check `delimiter` and `columns` of the source", "mend or remove the line"],
    )


def _joined(frame: DataFrame, join: JoinConfig, root: str, spark: SparkSession, where: str) -> DataFrame:
    side = read_source(join.source, root, spark, where=f"{where}.source")
    columns = [name for name in side.columns if name != BAD_LINE]
    require_columns(join.on, frame.columns, f"{where}.on (rows)")
    require_columns(join.on, columns, f"{where}.on (side table)")
    clash = [name for name in columns if name not in join.on and name in frame.columns]
    if clash:
        raise ConfigError(
            "the side table has columns that the rows have already",
            where=where,
            got=clash,
            fixes=["rename them in the source, or list other `columns`"],
        )
    place = join.source.table or str(join.source.path)
    with named_failures(place):
        _check_side(side, join.on, f"{where}: {place}")
    keys = [f"__key_{number}" for number in range(len(join.on))]
    matches: list[Column] = []
    for key, name in zip(keys, join.on, strict=True):
        same = frame.schema[name].dataType == side.schema[name].dataType
        # Text against numbers compares as text (`7` and `7.0` alike), never by an implicit cast.
        side = side.withColumn(key, column(name) if same else token(side, name))
        matches.append((column(name) if same else token(frame, name)) == F.col(key))
    side = side.drop(BAD_LINE, *join.on)
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
