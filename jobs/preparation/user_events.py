"""Checks the events that rows of users are made of, before they are put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.preparation import columns as C
from jobs.preparation.row_checks import RowCheck, row_checks, source_name
from jobs.preparation.sources import require_columns
from jobs.preparation.user_rows import is_event
from trainer.config import RunConfig, UserRowsConfig
from trainer.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_WHERE = "data.user_rows"


@dataclass(frozen=True)
class Events:
    """How many events there are.

    Attributes:
        source_rows: of all labels.
        unmatched: those without a row of a side table, by the number of the join.
    """

    source_rows: int
    unmatched: dict[str, int]


def check_columns(rows: DataFrame, config: UserRowsConfig, have: list[str]) -> None:
    """Check the columns that rows of users are made of, and the names of new ones.

    Args:
        rows: events.
        config: names the columns.
        have: raw columns.

    Raises:
        ConfigError: a column of lists or maps, or a new column with the name of a raw one.
        DataError: there is no such column.
    """
    named = [config.by, *config.order_by, *config.lists.values(), config.targets, *config.user_columns]
    require_columns(named, have, _WHERE)
    known = {name.lower() for name in have}
    for name in config.lists:
        if name.lower() in known or name.startswith("__"):
            raise ConfigError(
                "a new list has the name of a column of the events"
                if name.lower() in known
                else "names that begin with two underscores are taken",
                where=f"{_WHERE}.lists.{name}",
                fixes=["give the list another name"],
            )
    for name in (config.by, *config.lists.values(), config.targets):
        if C.is_list(rows, name):
            raise ConfigError(
                f"column {name!r} holds lists, one value per event is needed",
                where=_WHERE,
                got=rows.schema[name].dataType.simpleString(),
            )
    for name in config.user_columns:
        if isinstance(rows.schema[name].dataType, T.MapType):
            raise ConfigError(
                f"column {name!r} holds maps, which have no order", where=f"{_WHERE}.user_columns"
            )


def check_events(rows: DataFrame, run: RunConfig, config: UserRowsConfig) -> Events:
    """Check all events in one pass.

    Args:
        rows: cleaned events with `BAD_LINE`.
        run: names label, weight and side tables.
        config: what is made of them.

    Raises:
        DataError: no events; an unreadable line, a wrong label or weight; a positive event without user,
            item, time, or value of a list.
    """
    checks = [*row_checks(rows, run, ()), *_checks(rows, run, config)]
    joins = [C.matched(number) for number in range(len(run.data.joins))]
    asked = [F.count(F.lit(1))]
    asked += [F.count(F.when(~F.col(name), 1)) for name in joins]
    for check in checks:
        asked += [F.count(F.when(check.bad, 1)), F.min(F.when(check.bad, check.shown.cast("string")))]
    found = list(rows.agg(*[column.alias(f"a{n}") for n, column in enumerate(asked)]).collect()[0])
    count, unmatched, told = found[0], found[1 : len(joins) + 1], found[len(joins) + 1 :]
    if not count:
        raise DataError("the source has no rows", where=source_name(run))
    wrong = zip(checks, told[::2], told[1::2], strict=True)
    errors = [check.error(bad, value or "") for check, bad, value in wrong if bad]
    if errors:
        first, *others = errors
        fixes = [*first.fixes, *(f"also: {other.what} ({other.where})" for other in others)]
        raise DataError(first.what, where=first.where, got=first.got, allowed=first.allowed, fixes=fixes)
    return Events(count, {str(number): missing for number, missing in enumerate(unmatched)})


def check_one_split(rows: DataFrame, run: RunConfig, config: UserRowsConfig) -> None:
    """Check that no user's events lie in several splits where `hold_out` takes targets out of one.

    Args:
        rows: events with `SPLIT`.
        run: names the label.
        config: what is made of them.

    Raises:
        DataError: those of a user do.
    """
    if config.hold_out is None or run.data.split.by == config.by:
        return
    user = C.token(rows, config.by)
    splits = (
        rows.where(is_event(rows, run))
        .groupBy(user.alias("user"))
        .agg(F.sort_array(F.collect_set(C.SPLIT)).alias("splits"))
    )
    found = (
        splits.where(F.size("splits") > 1).agg(F.count(F.lit(1)), F.min(F.struct("user", "splits"))).first()
    )
    if found is not None and found[0]:
        user_id, names = found[1]
        raise DataError(
            f"{found[0]:,} user(s) have events in several splits, so none need be held out of one",
            where=f"{_WHERE}.hold_out",
            got=f"{config.by} {user_id}: {', '.join(names)}",
            fixes=[f"leave out {_WHERE}.hold_out", f"data.split: {{method: random, by: {config.by}}}"],
        )


def _checks(rows: DataFrame, run: RunConfig, config: UserRowsConfig) -> list[RowCheck]:
    event, first = is_event(rows, run), config.order_by[0]
    checks = [_missing(event, rows, config.by, f"{_WHERE}.by: {config.by}")]
    keys = {config.targets: "targets"}
    for name, column in config.lists.items():
        keys.setdefault(column, f"lists.{name}")
    checks += [_missing(event, rows, name, f"{_WHERE}.{key}: {name}") for name, key in keys.items()]
    missing, unreadable = C.time_problems(rows, first)
    where = f"{_WHERE}.order_by: {first}"
    checks.append(_missing(event, rows, first, where, missing))
    checks.append(
        RowCheck(
            event & unreadable,
            C.column(first),
            lambda count, value: DataError(
                f"{count:,} event(s) have a time that cannot be read",
                where=where,
                got=value,
                allowed="numbers, timestamps, dates, or text of them",
                fixes=["name another column"],
            ),
        )
    )
    return checks


def _missing(
    event: Column, rows: DataFrame, name: str, where: str, missing: Column | None = None
) -> RowCheck:
    found = C.missing(rows, name) if missing is None else missing
    return RowCheck(
        event & found,
        F.lit(None),
        lambda count, _: DataError(
            f"{count:,} event(s) have no {name}",
            where=where,
            fixes=[f"data.clean.drop_missing: [{name}]", "name another column"],
        ),
    )
