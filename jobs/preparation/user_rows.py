"""Makes one row per user and split of the positive events, with lists of what was met and is to be found.

An event has a level: 0 for train, 1 and 2 for valid and test. The row of a split lists the events of lower
levels (train: its own) and is to find those of its own level. Where each user lies in one split, the events
that are not held out get the level 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.preparation import columns as C
from jobs.preparation.labels import label_value
from jobs.preparation.leave_last import tie_keys
from jobs.preparation.planned import PlannedFeature
from trainer.config import HoldOutConfig, RunConfig, UserRowsConfig
from trainer.schema import SPLITS

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_USER, _BY, _ITEM, _LEVEL, _HOME = "__user", "__by", "__item", "__level", "__home"
# Whether an event is to be found by the row of its level, or to be listed; its place, order and values.
_FIND, _LISTED, _PLACE, _KEYS, _FIELDS = "__find", "__listed", "__place", "__keys", "__fields"
_EVENTS, _ROW, _SEEN, _FOUND = "__events", "__row", "__seen", "__found"


def with_list_columns(rows: DataFrame, config: UserRowsConfig) -> DataFrame:
    """Add the columns of lists, empty, as they are in rows of events."""
    kinds = {name: rows.schema[column].dataType for name, column in listed(config).items()}
    return rows.withColumns({name: F.array().cast(T.ArrayType(kind)) for name, kind in kinds.items()})


def with_user_rows(rows: DataFrame, run: RunConfig, config: UserRowsConfig) -> DataFrame:
    """Return rows of users in place of the events of the splits that the config names; adds `USER_ROW`.

    Left out are rows with too few items or nothing to be found: their `SPLIT` says so, see
    `user_row_remarks`.

    Args:
        rows: events with `SPLIT`, checked by `check_events`.
        run: names the label.
        config: what the rows hold.
    """
    events = _collected(_leveled(_positive(rows, run, config), config), config)
    users = _as_rows(_row_per_split(events, config), rows, run, config)
    others = rows.where(~F.col(C.SPLIT).isin(*config.splits)).withColumn(C.USER_ROW, F.lit(False))
    if set(config.splits) == set(SPLITS):
        return users
    return with_list_columns(others, config).unionByName(users, allowMissingColumns=True)


def with_listed_histories(
    rows: DataFrame, features: Sequence[PlannedFeature], config: UserRowsConfig
) -> DataFrame:
    """Add the columns of histories to rows of users: the newest of the events that they list.

    Args:
        rows: of users and of events, in which the columns are null.
        features: planned.
        config: names the lists.
    """
    lists = {column: name for name, column in config.lists.items()}
    made: dict[str, Column] = {}
    for feature in (f for f in features if f.derived is not None):
        assert feature.derived is not None
        items = C.token(rows, lists[feature.derived.params["item"]])
        length = int(feature.derived.params["max_length"])
        newest = F.slice(items, F.greatest(F.size(items) - length + 1, F.lit(1)), F.lit(length))
        made[feature.column] = F.when(F.col(C.USER_ROW), newest)
    return rows.withColumns(made) if made else rows


def user_row_remarks(rows: Mapping[str, int], config: UserRowsConfig | None) -> list[str]:
    """Return what the report should say about users whose rows were left out.

    Args:
        rows: by `SPLIT`.
        config: what the rows hold.
    """
    if config is None:
        return []
    few, none = f"fewer than {config.min_items} event(s) to list", "no item to be found"
    return [
        f"user rows: {rows[start + split]:,} user(s) have no row in {split}: {why}"
        for split in SPLITS
        for start, why in ((C.FEW_ITEMS, few), (C.NO_TARGETS, none))
        if rows.get(start + split)
    ]


def listed(config: UserRowsConfig) -> dict[str, str]:
    """Return the columns of lists with the event columns that they are made of."""
    return {**config.lists, C.TARGETS: config.targets}


def is_event(rows: DataFrame, run: RunConfig) -> Column:
    """Return whether a row is a positive event, which rows of users are made of."""
    positive = F.coalesce(label_value(rows, run.data.first_task) == 1, F.lit(False))
    return positive & ~F.col(C.NEGATIVE) if C.NEGATIVE in rows.columns else positive


def _positive(rows: DataFrame, run: RunConfig, config: UserRowsConfig) -> DataFrame:
    """Return the positive events with user, item, level, order and fields."""
    first, *others = config.order_by
    keys = [C.time(rows, first), *(key for name in others for key in tie_keys(rows, name))]
    keys += [F.col(C.ORDER), F.col(C.HASH)]
    fields = dict.fromkeys([*listed(config).values(), *config.user_columns])
    level = F.coalesce(*[F.when(F.col(C.SPLIT) == name, n) for n, name in enumerate(SPLITS)])
    return rows.where(is_event(rows, run) & level.isNotNull()).select(
        C.token(rows, config.by).alias(_USER),
        C.column(config.by).alias(_BY),
        C.token(rows, config.targets).alias(_ITEM),
        level.alias(_LEVEL),
        F.lit(-1).alias(_HOME),
        F.struct(*[key.alias(f"k{n}") for n, key in enumerate(keys)]).alias(_KEYS),
        F.struct(*[C.column(name).alias(name) for name in fields]).alias(_FIELDS),
    )


def _leveled(events: DataFrame, config: UserRowsConfig) -> DataFrame:
    """Return the events with their levels, and whether they are to be found."""
    if config.hold_out is not None:
        train = events.where(F.col(_LEVEL) == 0).withColumns({_HOME: F.lit(0), _FIND: F.lit(False)})
        return train.unionByName(_held_out(events.where(F.col(_LEVEL) > 0), config.hold_out))
    find = F.col(_LEVEL) > 0
    if config.drop_seen:
        find &= F.col(_LEVEL) == F.min(_LEVEL).over(Window.partitionBy(_USER, _ITEM))
    return events.withColumn(_FIND, find)


def _held_out(events: DataFrame, hold_out: HoldOutConfig) -> DataFrame:
    """Hold out a share of each user's items: their events keep their level, the others get 0."""
    chance = F.xxhash64(F.lit(hold_out.seed), F.lit("hold out"), F.col(_USER), F.col(_ITEM))
    user = Window.partitionBy(_USER, _LEVEL)
    numbered = events.withColumn(_PLACE, F.dense_rank().over(user.orderBy(chance, _ITEM)))
    # A hair more: 0.29 of 100 is less than 29 in binary fractions.
    share = F.floor(F.max(_PLACE).over(user) * F.lit(hold_out.share) + F.lit(1e-9))
    held = F.col(_PLACE) <= F.greatest(share, F.lit(hold_out.at_least))
    found = numbered.withColumns({_HOME: F.col(_LEVEL), _FIND: held})
    return found.withColumn(_LEVEL, F.when(F.col(_FIND), F.col(_LEVEL)).otherwise(0)).drop(_PLACE)


def _collected(events: DataFrame, config: UserRowsConfig) -> DataFrame:
    """Return one row per user with the events in order."""
    most = config.max_length
    kept = events.withColumn(_LISTED, F.lit(True)) if most is None else _newest(events, most)
    together = F.sort_array(F.collect_list(F.struct(_KEYS, _LEVEL, _LISTED, _FIND, _FIELDS)))
    # Values of one token, such as 7 and 7.0, are those of one user.
    return kept.groupBy(_USER, _HOME).agg(F.max(_BY).alias(_BY), together.alias(_EVENTS))


def _newest(events: DataFrame, most: int) -> DataFrame:
    """Return so many of the newest events of each level, and beside them each item to be found once.

    They are taken apart, so that Spark drops older events before it brings those of a user together.
    """
    level = Window.partitionBy(_USER, _HOME, _LEVEL).orderBy(F.col(_KEYS).desc())
    newest = events.withColumn(_PLACE, F.row_number().over(level)).where(F.col(_PLACE) <= most)
    newest = newest.drop(_PLACE, _ITEM).withColumns({_LISTED: F.lit(True), _FIND: F.lit(False)})
    first = F.min(F.struct(_KEYS, _FIELDS, _BY)).alias("first")
    found = events.where(_FIND).groupBy(_USER, _HOME, _LEVEL, _ITEM).agg(first)
    found = found.select(_USER, _HOME, _LEVEL, "first.*")
    return newest.unionByName(found.withColumns({_LISTED: F.lit(False), _FIND: F.lit(True)}))


def _row_per_split(users: DataFrame, config: UserRowsConfig) -> DataFrame:
    """Return the rows of each user: what they list, and what they are to find."""
    numbers = [SPLITS.index(split) for split in config.splits]
    rows = users.withColumn(_ROW, F.explode(F.array(*map(F.lit, sorted(numbers)))))
    own = F.expr(f"exists({_EVENTS}, e -> e.{_LEVEL} = {_ROW})")
    home = F.when(F.col(_HOME) == -1, own).otherwise(F.col(_HOME) == F.col(_ROW))
    seen = f"filter({_EVENTS}, e -> e.{_LISTED} and e.{_LEVEL} < greatest({_ROW}, 1))"
    found = f"filter({_EVENTS}, e -> e.{_LEVEL} = {_ROW} and e.{_FIND})"
    rows = rows.where(home).withColumns({_SEEN: F.expr(seen), _FOUND: F.expr(found)}).drop(_EVENTS)
    if config.max_length is None:
        return rows
    most = config.max_length
    newest = f"slice({_SEEN}, greatest(size({_SEEN}) - {most - 1}, 1), {most})"
    return rows.withColumn(_SEEN, F.expr(newest))


def _as_rows(made: DataFrame, rows: DataFrame, run: RunConfig, config: UserRowsConfig) -> DataFrame:
    """Return the rows of users with the columns of `rows`, those of lists, and the marks of their own."""

    def values(of: str, name: str) -> str:
        return f"transform({of}, e -> e.{_FIELDS}.{C.quoted(name)})"

    columns: dict[str, Column] = {config.by: F.col(_BY)}
    for name in config.user_columns:
        columns[name] = F.expr(f"try_element_at(filter({values(_SEEN, name)}, x -> x is not null), -1)")
    columns |= {name: F.expr(values(_SEEN, column)) for name, column in config.lists.items()}
    columns[C.TARGETS] = F.expr(f"array_distinct({values(_FOUND, config.targets)})")
    split = F.element_at(F.array(*map(F.lit, SPLITS)), F.col(_ROW) + 1)
    few, none = F.size(_SEEN) < config.min_items, (F.col(_ROW) > 0) & (F.size(_FOUND) == 0)
    columns[C.SPLIT] = (
        F.when(few, F.concat(F.lit(C.FEW_ITEMS), split))
        .when(none, F.concat(F.lit(C.NO_TARGETS), split))
        .otherwise(split)
    )
    events = [F.expr(f"transform({of}, e -> e.{_KEYS})") for of in (_SEEN, _FOUND)]
    columns[C.HASH] = F.xxhash64(F.lit("user row"), F.col(_USER), split, *events)
    columns[C.ORDER] = F.xxhash64(F.lit(run.data.split.seed), F.lit("order"), F.col(_USER), split)
    columns[C.USER_ROW] = F.lit(True)
    columns |= {C.matched(number): F.lit(True) for number in range(len(run.data.joins))}
    if C.NEGATIVE in rows.columns:
        columns[C.NEGATIVE] = F.lit(False)
    for field in rows.schema.fields:
        columns.setdefault(field.name, F.lit(None).cast(field.dataType))
    return made.select(*[column.alias(name) for name, column in columns.items()])
