"""Leaves out raw rows that the config does not want, and counts them rule by rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.conditions import event_counts
from jobs.preparation.row_hashes import with_row_hashes
from jobs.preparation.sources import require_columns, rows_and_columns
from trainer.config import CleanConfig, RunConfig
from trainer.config.rows import DeduplicateConfig
from trainer.errors import DataError
from trainer.records import CleaningStep

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_PLACE = "__place"
_FIXES = {
    "where": ["check the condition against a few rows"],
    "drop_missing": ["name only columns that most rows have"],
    "k_core": ["ask for fewer rows of a value"],
}


def clean(rows: DataFrame, config: CleanConfig) -> tuple[DataFrame, tuple[CleaningStep, ...]]:
    """Apply `where`, `drop_missing`, `deduplicate` and `k_core`, in this order.

    Args:
        rows: raw rows with `HASH`, `ORDER` and `BAD_LINE`.
        config: the rules.

    Returns:
        The rows that stay, and what each rule of the config dropped. Rows with a line that cannot be read are
        refused later, so nothing is cleaned where there are some.

    Raises:
        ConfigError: the condition is no condition over the columns.
        DataError: a column is not there, a key or a time is missing, or no row is left.
    """
    if config == CleanConfig():
        return rows, ()
    _require_all_columns(rows, config)
    present = _conditions(rows, config)
    counts = _count(rows, config, present)
    if counts["lines"] or not counts["rows"]:
        return rows, ()
    steps: list[CleaningStep] = []
    before = counts["rows"]
    for name, condition in present.items():
        rows = rows.where(condition)
        before = _add(steps, name, before, counts[name])
    if config.deduplicate is not None:
        rows = deduplicated(rows, config)
        before = _add(steps, "deduplicate", before, rows.count())
    if config.k_core:
        whole, (rows, left) = rows, _k_core(rows, config.k_core)
        _add(steps, "k_core", before, left, lambda: _largest(whole, config.k_core))
    return rows, tuple(steps)


def valid_events(rows: DataFrame, config: CleanConfig) -> DataFrame:
    """Apply the rules that look at one row or its copies, all but `k_core`, without counting.

    Args:
        rows: raw rows; with `HASH` and `ORDER` where `deduplicate` is set.
        config: the rules.
    """
    _require_all_columns(rows, config)
    for condition in _conditions(rows, config).values():
        rows = rows.where(condition)
    return deduplicated(rows, config) if config.deduplicate is not None else rows


def cleaned_events(run: RunConfig, spark: SparkSession, frame: DataFrame | None) -> DataFrame:
    """Return the raw rows, side tables joined, that `valid_events` leaves: what a user did up to now.

    Args:
        run: names the source and the rules.
        spark: the session.
        frame: rows to take instead of `data.source`.
    """
    rows, own = rows_and_columns(run, spark, frame)
    return valid_events(with_row_hashes(rows, own, run.data.split.seed), run.data.clean).drop(C.BAD_LINE)


def deduplicated(rows: DataFrame, config: CleanConfig) -> DataFrame:
    """Keep one row of each key."""
    assert config.deduplicate is not None
    place = rank_in_key(rows, config.deduplicate)
    return rows.withColumn(_PLACE, place).where(F.col(_PLACE) == 1).drop(_PLACE)


def rank_in_key(rows: DataFrame, rule: DeduplicateConfig, *ties: Column) -> Column:
    """Return the place of a row among those of its key, from 1, which is the row to keep.

    Args:
        rows: with `HASH` and `ORDER`.
        rule: keys and order.
        ties: what orders rows that are equal in all columns.
    """
    # Two hashes of 64 bits stand for the whole row: a row may hold maps, which Spark cannot group by.
    keys = [C.column(name) for name in rule.by or (C.HASH, C.ORDER)]
    order = [F.col(C.HASH), F.col(C.ORDER), *ties]
    if rule.order_by is not None:
        time = C.time(rows, rule.order_by)
        order.insert(0, time.asc() if rule.keep == "first" else time.desc())
    return F.row_number().over(Window.partitionBy(*keys).orderBy(*order))


def _require_all_columns(rows: DataFrame, config: CleanConfig) -> None:
    have = [name for name in rows.columns if not name.startswith("__")]
    require_columns(config.drop_missing, have, "data.clean.drop_missing")
    require_columns(list(config.k_core), have, "data.clean.k_core")
    rule = config.deduplicate
    if rule is not None:
        require_columns(rule.by or [], have, "data.clean.deduplicate.by")
        require_columns([rule.order_by] if rule.order_by else [], have, "data.clean.deduplicate.order_by")


def _conditions(rows: DataFrame, config: CleanConfig) -> dict[str, Column]:
    """Return what must hold for a row to stay, by rule."""
    found: dict[str, Column] = {}
    if config.where is not None:
        found["where"] = event_counts(rows, config.where, "data.clean.where")
    if config.drop_missing:
        found["drop_missing"] = F.lit(True)
        for name in config.drop_missing:
            found["drop_missing"] = found["drop_missing"] & ~C.missing(rows, name)
    return found


def _count(rows: DataFrame, config: CleanConfig, conditions: Mapping[str, Column]) -> dict[str, int]:
    """Count rows, and those left after each condition, in one pass; refuse keys and times that are missing.

    Raises:
        DataError: a row that is left lacks a key of `deduplicate` or `k_core`, or has no readable `order_by`.
    """
    # The hash reads every column: Spark finds lines with too many columns only where it reads them all.
    facts = {"rows": F.count(F.lit(1)), "lines": F.count(C.BAD_LINE), "all": F.max(C.HASH)}
    left = F.lit(True)
    for name, condition in conditions.items():
        left = left & condition
        facts[name] = F.count(F.when(left, 1))
    problems = _key_problems(rows, config)
    for number, (_, _, bad) in enumerate(problems):
        facts[f"bad_{number}"] = F.count(F.when(left & bad, 1))
    found = rows.agg(*[value.alias(name) for name, value in facts.items()]).first()
    assert found is not None
    counts: dict[str, int] = found.asDict()
    for number, (where, what, _) in enumerate(problems):
        if counts[f"bad_{number}"] and not counts["lines"]:
            name = where.rpartition(" ")[2]
            raise DataError(
                f"{counts[f'bad_{number}']:,} row(s) have {what}",
                where=where,
                fixes=[f"data.clean.drop_missing: [{name}]"] if "no value" in what else ["mend the source"],
            )
    return counts


def _key_problems(rows: DataFrame, config: CleanConfig) -> list[tuple[str, str, Column]]:
    """Return place, text and condition of everything that keys and times must not be."""
    rule = config.deduplicate
    keys = [("data.clean.k_core", name) for name in config.k_core]
    problems: list[tuple[str, str, Column]] = []
    if rule is not None:
        keys = [("data.clean.deduplicate.by", name) for name in rule.by or []] + keys
        if rule.order_by is not None:
            missing, bad = C.time_problems(rows, rule.order_by)
            where = f"data.clean.deduplicate.order_by: {rule.order_by}"
            problems += [(where, "no value in it", missing), (where, "a time that cannot be read", bad)]
    for where, name in keys:
        # What can be no id can be no key either.
        problems.append((f"{where}: {name}", "no value in it", C.token(rows, name).isNull()))
    return problems


def _k_core(rows: DataFrame, least: Mapping[str, int]) -> tuple[DataFrame, int]:
    """Drop rows of rare values until none is rare, and return how many rows are left.

    The rounds run over the distinct keys and their numbers of rows alone. Each round is cut off from the plan
    of those before it, however many it takes.
    """
    keys = {name: f"__key_{number}" for number, name in enumerate(least)}
    pairs = rows.groupBy(*[C.column(name).alias(key) for name, key in keys.items()])
    edges = pairs.agg(F.count(F.lit(1)).alias("rows")).localCheckpoint()
    before, left = -1, _sum(edges)
    while left not in (before, 0):
        for name, key in keys.items():
            rows_of_value = edges.groupBy(key).agg(F.sum("rows").alias("rows"))
            edges = edges.join(
                rows_of_value.where(F.col("rows") >= least[name]).select(key), key, "left_semi"
            )
        edges = edges.localCheckpoint()
        before, left = left, _sum(edges)
    same = F.lit(True)
    for name, key in keys.items():
        same = same & (C.column(name) == F.col(key))
    return rows.join(edges, same, "left_semi"), left


def _sum(edges: DataFrame) -> int:
    found = edges.agg(F.sum("rows")).first()
    return int(found[0] or 0) if found is not None else 0


def _largest(rows: DataFrame, least: Mapping[str, int]) -> list[str]:
    """Say for each column of a k-core how many rows its most frequent value has."""
    lines: list[str] = []
    for name, asked in least.items():
        counts = rows.groupBy(C.column(name).alias("value")).count()
        found = counts.agg(F.max("count")).first()
        lines.append(
            f"{name}: the most rows of one value are {found[0] if found else 0:,}, asked for {asked:,}"
        )
    return lines


def _add(
    steps: list[CleaningStep],
    name: str,
    before: int,
    left: int,
    advice: Callable[[], Sequence[str]] = lambda: (),
) -> int:
    """Add what a rule did, and return the rows that are left.

    Raises:
        DataError: none is.
    """
    steps.append(CleaningStep(name=name, dropped=before - left, left=left))
    if left == 0:
        done = "; ".join(f"`{step.name}` dropped {step.dropped:,}" for step in steps)
        raise DataError(
            f"cleaning leaves no rows: `{name}` dropped the last {before:,}",
            where=f"data.clean.{name}",
            got=f"{steps[0].dropped + steps[0].left:,} rows; {done}",
            fixes=[*_FIXES.get(name, []), *advice()],
        )
    return left
