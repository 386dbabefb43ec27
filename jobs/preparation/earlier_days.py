"""The raw rows of a data set, given again so that the rows of a new day can be compared with them.

What looks at several rows is made of old and new ones together; the old ones are not written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.cleaning import clean, rank_in_key
from jobs.preparation.failures import named_source
from jobs.preparation.row_hashes import with_row_hashes
from jobs.preparation.sources import rows_and_columns
from trainer.config import RunConfig
from trainer.errors import DataError
from trainer.schema import Manifest

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

WHERE = "--history-input"
_PLACE = "__place"


@dataclass(frozen=True)
class EarlierDays:
    """Where the raw rows of all earlier days are.

    Attributes:
        runs: one config for each source to read.
        frame: a DataFrame with the rows, in place of sources.
    """

    runs: tuple[RunConfig, ...] = ()
    frame: DataFrame | None = None


def with_earlier_days(
    rows: DataFrame, own: Sequence[str], run: RunConfig, earlier: EarlierDays, spark: SparkSession
) -> tuple[DataFrame, list[str]]:
    """Return the rows of a new day and of the days before with `OLD`, and what the report should say.

    Args:
        rows: of the new day, cleaned, with `HASH` and `ORDER`.
        own: the columns of the source.
        run: names the rules of cleaning.
        earlier: the days before.
        spark: the session.

    Raises:
        DataError: the days have other columns, or a new row would take the place of an old one.
    """
    days = [_day(run, earlier.frame, rows, own, spark)] if earlier.frame is not None else []
    days += [_day(each, None, rows, own, spark) for each in earlier.runs]
    with named_source(WHERE):
        before, _ = clean(reduce(lambda a, b: a.unionByName(b), days), run.data.clean)
    before = before.drop(C.FILE).withColumn(C.OLD, F.lit(True))
    both = rows.withColumn(C.OLD, F.lit(False)).unionByName(before, allowMissingColumns=True)
    return _without_known_keys(both, run) if run.data.clean.deduplicate is not None else (both, [])


def fingerprint_of(rows: DataFrame) -> int:
    """Return the sum of the rows' hashes, as the survey counts it."""
    found = rows.agg(F.sum(F.col(C.HASH).cast("decimal(20,0)"))).first()
    return int(found[0] or 0) % 2**64 if found is not None else 0


def check_whole(rows: DataFrame, old: Manifest) -> None:
    """Check that the rows of the days before are those of the data set, all of them and no others.

    Raises:
        DataError: they are not.
    """
    found, so_far = fingerprint_of(rows), 0
    steps = [(old.fingerprint, old.created), *((a.fingerprint, a.created) for a in old.appended)]
    up_to = None
    for fingerprint, created in steps:
        so_far = (so_far + int(fingerprint or "0", 16)) % 2**64
        up_to = created if found == so_far else up_to
    if found != so_far:
        added = ", ".join(created for _, created in steps)
        raise DataError(
            "these are not the raw rows that the data set was made of",
            where=WHERE,
            got="other rows" if up_to is None else f"only the rows that were added up to {up_to}",
            allowed=f"all rows added at {added}, and no others",
            fixes=[
                "name every file or folder that was prepared or appended, each once",
                "prepare all rows again, without --append",
            ],
        )


def _day(
    run: RunConfig, frame: DataFrame | None, like: DataFrame, own: Sequence[str], spark: SparkSession
) -> DataFrame:
    with named_source(WHERE):
        rows, names = rows_and_columns(run, spark, frame)
        kinds = _kinds(like)
        differing = sorted(n for n in {*_kinds(rows), *kinds} if _kinds(rows).get(n) != kinds.get(n))
        if differing or set(names) != set(own):
            name = (differing or sorted(set(names) ^ set(own)))[0]
            raise DataError(
                f"column {name!r} is another one in the earlier rows than in the new ones",
                where=f"{WHERE}: {run.data.root}",
                got=_kinds(rows).get(name, "no such column"),
                allowed=kinds.get(name, "no such column"),
                fixes=["give both days the same columns of the same types"],
            )
        return with_row_hashes(rows, names, run.data.split.seed)


def _kinds(rows: DataFrame) -> dict[str, str]:
    return {f.name: f.dataType.simpleString() for f in rows.schema if not f.name.startswith("__")}


def _without_known_keys(rows: DataFrame, run: RunConfig) -> tuple[DataFrame, list[str]]:
    """Leave out new rows whose key an old row has; refuse those that would be kept in place of an old one."""
    rule = run.data.clean.deduplicate
    assert rule is not None
    # Of equal rows the old one stays: it is written already.
    ranked = rows.withColumn(_PLACE, rank_in_key(rows, rule, F.col(C.OLD).desc()))
    second = F.col(_PLACE) > 1
    found = ranked.agg(
        F.count(F.when(second & F.col(C.OLD), 1)),
        F.count(F.when(second & ~F.col(C.OLD), 1)),
        F.count(F.when(~second & ~F.col(C.OLD), 1)),
    ).first()
    assert found is not None
    replaced, known, left = found
    if replaced:
        raise DataError(
            f"{replaced:,} new row(s) would be kept in place of rows that the data set holds already",
            where=f"data.clean.deduplicate: keep {rule.keep}",
            got=f"keys: {', '.join(rule.by or ['the whole row'])}",
            allowed="new rows of new keys, and such as the rule leaves out beside the old ones",
            fixes=["leave those rows out of the new day", "prepare all rows again, without --append"],
        )
    if known and not left:
        raise DataError(
            "the data set has rows of every key among the new rows already",
            where="data.clean.deduplicate",
            got=f"{known:,} row(s) left out, none stays",
            fixes=["name the rows of another day: --input", "nothing is to be done"],
        )
    remarks = [f"deduplicate: {known:,} new row(s) left out, whose keys were there already"] if known else []
    return ranked.where(~second).drop(_PLACE), remarks
