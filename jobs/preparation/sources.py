"""Raw rows: files, a table or a DataFrame, with side tables joined to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.preparation.columns import BAD_LINE, FILE, column, matched, token, value_to_hash
from jobs.preparation.drift import METADATA, read_parquet
from jobs.preparation.failures import column_twice, named_failures
from jobs.preparation.files import SourceFiles, find_files
from jobs.preparation.raw_copies import copied_path, fetched, with_urls
from jobs.preparation.row_numbers import with_row_numbers
from jobs.preparation.table_folders import refuse_tables_of_spark
from jobs.preparation.text_files import UNNAMED
from jobs.preparation.text_rows import bad_line_error, read_json, read_text
from jobs.preparation.time_formats import with_iso_times
from jobs.session import is_local, reads_elsewhere
from trainer.config import JoinConfig, RunConfig, SourceConfig
from trainer.config.messages import did_you_mean
from trainer.config.source import absolute_path
from trainer.config.text_guesses import header_fixes
from trainer.errors import ConfigError, DataError
from trainer.schema import SYNTHETIC_FILE

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


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
    return joined.drop(BAD_LINE, FILE, *map(matched, range(len(run.data.joins))))


def rows_and_columns(
    run: RunConfig, spark: SparkSession, frame: DataFrame | None, remarks: list[str] | None = None
) -> tuple[DataFrame, list[str]]:
    """Return the joined rows with `BAD_LINE` (null where the line is sound), and the source's own columns.

    Where files decide the split, `FILE` says which one a row comes from; `columns.matched` whether a side
    table has a row for it.

    Args:
        run: names the source and the joins.
        spark: the session.
        frame: rows to take instead of `data.source`.
        remarks: takes what was skipped as damaged, for the report; without it, nothing is counted.

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
        by_file = run.data.split.method == "files"
        frame = read_source(
            run.data.source, run.data.root, spark, "data.source", remarks=remarks, with_file=by_file
        )
    else:
        _check_distinct(frame, "the DataFrame")
        frame = frame.withColumn(BAD_LINE, F.lit(None).cast("string"))
    own = [name for name in frame.columns if name not in (BAD_LINE, FILE)]
    return with_side_tables(frame, run, spark, remarks=remarks), own


def with_side_tables(
    frame: DataFrame,
    run: RunConfig,
    spark: SparkSession,
    *,
    check: bool = True,
    remarks: list[str] | None = None,
) -> DataFrame:
    """Join the side tables to rows, and write times that have a format in ISO 8601.

    Args:
        frame: rows with the columns of the source.
        run: names the joins.
        spark: the session.
        check: False where the same tables were joined and checked before.
        remarks: takes what was skipped as damaged.

    Raises:
        ConfigError, DataError: see `raw_rows`.
    """
    for number, join in enumerate(run.data.joins):
        where = f"data.joins.{number}"
        side = read_source(join.source, run.data.root, spark, f"{where}.source", remarks=remarks)
        frame = _joined(frame, side, join, where, check, matched(number))
    return with_iso_times(frame, run.data.time_formats)


def read_source(
    source: SourceConfig,
    root: str,
    spark: SparkSession,
    where: str,
    *,
    remarks: list[str] | None = None,
    with_file: bool = False,
) -> DataFrame:
    """Return the rows of one source and `BAD_LINE`: format, file and text of a line that cannot be read.

    Args:
        source: what to read.
        root: folder that relative paths start from.
        spark: the session.
        where: key path for errors.
        remarks: takes a line on what `on_corrupt: skip` left out; without it, nothing is counted.
        with_file: add `FILE`, the file that a row comes from, where there is one.

    Raises:
        ConfigError: the format cannot be told, or a text source has neither header nor column names.
        DataError: the source is missing or unreadable, has two columns of one name, or is the folder of a
            table.
    """
    if source.table is not None:
        with named_failures(f"{where}.table: {source.table}", reading=True):
            rows = spark.table(source.table)
        return rows.withColumn(BAD_LINE, F.lit(None).cast("string"))
    if source.path is None:
        raise ConfigError("a source needs `path` or `table`", where=where)
    local = is_local(spark)
    with named_failures(", ".join(source.paths()[:3]), reading=True):
        source = fetched(source, root, where, spark)
        files = find_files(source, root, where, local=local, elsewhere=reads_elsewhere(spark))
        if not files.here:
            refuse_tables_of_spark(files.paths, where, spark)
    with named_failures(files.shown, reading=True):
        if files.format == "parquet":
            rows = _placed(read_parquet(files.groups, spark), files, source, with_file)
            rows = rows.withColumn(BAD_LINE, F.lit(None).cast("string"))
        else:
            read = read_json if files.format == "json" else read_text
            files, rows = read(files, source, spark, where)
            rows = _placed(rows, files, source, with_file)
            if source.on_corrupt == "skip":
                rows = _sound_lines(rows, where, remarks)
    if remarks is not None:
        remarks += [f"{where}: {with_urls(line)}" for line in files.lost]
    return rows


def _placed(rows: DataFrame, files: SourceFiles, source: SourceConfig, with_file: bool) -> DataFrame:
    """Add what is asked for of a row's place among the files."""
    if with_file:
        rows = rows.withColumn(FILE, F.col(f"{METADATA}.file_path"))
    if source.row_number is not None:
        rows = with_row_numbers(rows, files, source.row_number)
    return rows.drop(METADATA)


def _sound_lines(rows: DataFrame, where: str, remarks: list[str] | None) -> DataFrame:
    """Leave out the lines that cannot be read, and count them for the remarks."""
    if remarks is not None:
        found = rows.agg(
            F.count(BAD_LINE).alias("count"),
            F.max(BAD_LINE).alias("line"),
            F.max(_everything(rows)).alias("all"),
        ).first()
        if found is not None and found["count"]:
            error = bad_line_error(found["count"], found["line"])
            remarks.append(
                f"{where}: skipped: {error.what}, for instance in {with_urls(error.where)}: "
                f"{str(error.got)[:80]}"
            )
    # Always true: Spark refuses a query of nothing but the lines that it could not read.
    first = next(name for name in rows.columns if name not in (BAD_LINE, FILE))
    another = F.xxhash64(column(first)).bitwiseAND(F.lit(0)) == 0
    sound = rows.where(F.col(BAD_LINE).isNull() & another)
    return sound.withColumn(BAD_LINE, F.lit(None).cast("string"))


def _everything(rows: DataFrame) -> Column:
    """Return a value of all columns: Spark does not see what is wrong with columns that it leaves out."""
    return F.xxhash64(*[value_to_hash(rows, name) for name in rows.columns])


def is_synthetic(run: RunConfig) -> bool:
    """Return whether rows or side tables lie in a folder that `shardrec synth` made, as its marker tells."""
    sources = [run.data.source, *(join.source for join in run.data.joins)]
    paths = [path for source in sources if source is not None for path in source.paths()]
    here = [local for path in paths if (local := copied_path(absolute_path(path, run.data.root))) is not None]
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
            fixes=(header_fixes(have) or ([near] if near else [])) + others,
        )


def _joined(
    frame: DataFrame, side: DataFrame, join: JoinConfig, where: str, check: bool, mark: str
) -> DataFrame:
    """Join a side table, and add the column `mark`: whether it has a row for a row."""
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
    joined = frame.join(side, condition, "left")
    return joined.withColumn(mark, F.col(keys[0]).isNotNull()).drop(*keys)


def _check_side(side: DataFrame, keys: list[str], where: str) -> None:
    """Check in one pass that the keys are unique and the lines sound."""
    everything = _everything(side)
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
