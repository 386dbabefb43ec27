"""Negatives that a file lists: one list per positive (NCF's form), or one per user."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.failures import named_failures
from jobs.preparation.files import find_files
from jobs.preparation.negative_sampling import PLACE, USER
from jobs.preparation.raw_copies import fetched
from jobs.preparation.sources import read_source, require_columns
from jobs.session import is_local, reads_elsewhere
from trainer.config import NegativesFile, RunConfig, SamplingConfig, SourceConfig
from trainer.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

VALUE = "__value"
_NCF_PAIR = r"^\((.*),([^,]*)\)$"
_LIST = "__list"
_KEY = "__key"


def listed_negatives(
    positives: DataFrame, run: RunConfig, sampling: SamplingConfig, item: str, where: str, spark: SparkSession
) -> tuple[DataFrame, list[str]]:
    """Return the positives once per negative of their list.

    Equal rows share one list. The lists are taken as they are, known items among them or not.

    Args:
        positives: with `USER`, the item's token, `HASH` and `ORDER`.
        run: names the root, the user and the item column.
        sampling: with a `file`.
        item: column of the positive's item token; that of the negative takes its place.
        where: key path for errors.
        spark: the session.

    Returns:
        Rows with the negative's token, its raw value `VALUE` and its place in the list `PLACE`; remarks.

    Raises:
        DataError: a line cannot be read, an item is of another type, or no positive has a list.
    """
    config = run.data.negatives
    assert config is not None
    assert sampling.file is not None
    file, place = sampling.file, f"{where}.file.path: {sampling.file.path}"
    positives = positives.dropDuplicates([C.HASH, C.ORDER])
    with named_failures(place, reading=True):
        per_positive = file.format == "ncf"
        lists = _ncf_lists(file, run, place, spark) if per_positive else _user_lists(file, run, place, spark)
        keys = [USER, _KEY] if per_positive else [USER]
        positives = positives.withColumnRenamed(item, _KEY)
        remarks = _check_matches(positives, lists.select(*keys).distinct(), keys, place)
        if per_positive:
            lists = lists.select(*keys, F.posexplode(_LIST).alias(PLACE, _LIST))
        found = positives.join(lists, keys)
        if not per_positive and sampling.per_positive is not None:
            found = _some(found, sampling.per_positive, config.seed)
        kind = positives.schema[config.item].dataType
        if not C.is_text(kind):
            _check_items(lists, kind.simpleString(), place)
    value = F.expr(f"try_cast({_LIST} as {kind.simpleString()})")
    return found.drop(_KEY).withColumn(VALUE, value).withColumnRenamed(_LIST, item), remarks


def _ncf_lists(file: NegativesFile, run: RunConfig, place: str, spark: SparkSession) -> DataFrame:
    """Return user, item (`_KEY`) and the list of negatives of a file such as `ml-1m.test.negative`."""
    local = is_local(spark)
    source = SourceConfig(path=file.path, format="tsv", columns=["line"])
    source = fetched(source, run.data.root, place, spark)
    files = find_files(source, run.data.root, place, local=local, elsewhere=reads_elsewhere(spark))
    text = spark.read.text(files.paths).where(F.trim("value") != "")
    parts = F.split(F.regexp_replace("value", "\r$", ""), "\t")
    lines = text.select("value", parts[0].alias("pair"), F.slice(parts, 2, 1 << 30).alias("items"))
    whole = F.col("pair").rlike(_NCF_PAIR) & (F.size("items") > 0) & ~F.array_contains("items", "")
    bad = lines.where(~whole).first()
    if bad is not None:
        raise DataError(
            "a line is not `(user,item)<tab>item<tab>item...`", where=place, got=str(bad["value"])[:100]
        )
    user, item = (F.regexp_extract("pair", _NCF_PAIR, number) for number in (1, 2))
    return lines.select(user.alias(USER), item.alias(_KEY), F.col("items").alias(_LIST))


def _user_lists(file: NegativesFile, run: RunConfig, place: str, spark: SparkSession) -> DataFrame:
    """Return user, negative and a place of 0 of a file with a user and an item column."""
    config = run.data.negatives
    assert config is not None
    suffixes = {suffix.lower() for suffix in PurePosixPath(file.path).suffixes}
    kind = file.format or ("csv" if ".csv" in suffixes else "tsv" if ".tsv" in suffixes else "parquet")
    source = SourceConfig.model_validate({"path": file.path, "format": kind, "header": kind != "parquet"})
    rows = read_source(source, run.data.root, spark, place)
    require_columns([config.user, config.item], rows.columns, place)
    pairs = rows.select(C.token(rows, config.user).alias(USER), C.token(rows, config.item).alias(_LIST))
    return pairs.dropna().distinct().withColumn(PLACE, F.lit(0))


def _check_matches(positives: DataFrame, lists: DataFrame, keys: list[str], place: str) -> list[str]:
    listed = positives.select(*keys).join(lists.withColumn("__listed", F.lit(True)), keys, "left")
    found = listed.agg(F.count(F.lit(1)).alias("all"), F.count("__listed").alias("listed")).first()
    assert found is not None
    if found["all"] and not found["listed"]:
        example = positives.select(*keys).first()
        raise DataError(
            "the file has no negatives for any of the positives",
            where=place,
            got=f"{found['all']} positives, for instance {tuple(example or ())}",
            fixes=["check that the file and the rows use the same ids"],
        )
    without = found["all"] - found["listed"]
    return [f"{without} of {found['all']} positives have no negatives in {place}"] if without else []


def _check_items(lists: DataFrame, kind: str, place: str) -> None:
    bad = lists.where(F.expr(f"try_cast({_LIST} as {kind}) is null")).first()
    if bad is not None:
        raise DataError(
            f"an item of the file is no {kind}, as those of the rows are", where=place, got=bad[_LIST]
        )


def _some(found: DataFrame, count: int, seed: int) -> DataFrame:
    """Keep so many negatives of each positive, chosen by a hash."""
    chance = F.xxhash64(F.lit(seed), F.lit("listed"), C.ORDER, C.HASH, _LIST)
    place = F.row_number().over(Window.partitionBy(C.ORDER, C.HASH).orderBy(chance, _LIST))
    return found.withColumn(PLACE, place - 1).where(F.col(PLACE) < count)
