"""Features made of several rows, as raw columns `__derived_<feature>` for everything that comes after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.cleaning import cleaned_events
from jobs.preparation.earlier import earlier_column, needs_prior, newest_second, prior_of
from jobs.preparation.encodings import fit_encodings, with_encoding
from jobs.preparation.failures import named_failures
from jobs.preparation.histories import event_time, history_column, keeps_missing
from jobs.preparation.ordered import KEY, OrderedColumn, as_of_now, id_key, in_order, staged
from jobs.preparation.planned import HISTORY, PlannedFeature, id_columns, source_columns
from jobs.preparation.shared_ids import share
from jobs.preparation.sources import require_columns
from trainer.config import RunConfig
from trainer.errors import ConfigError
from trainer.schema import Feature, FittedOp

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import Column, DataFrame, SparkSession

AnyFeature = TypeVar("AnyFeature", PlannedFeature, Feature)


def fit_derived(
    rows: DataFrame, features: Sequence[PlannedFeature], label: Column, dataset: Path, spark: SparkSession
) -> list[PlannedFeature]:
    """Fit what derived features need of the training rows: priors, and the tables of target encodings.

    Args:
        rows: raw rows with `SPLIT` and `ORDER`.
        features: all features.
        label: 0 or 1, null where it is missing.
        dataset: folder of the data set under construction.
        spark: the session.

    Returns:
        The features in the same order, those with something to fit with it.
    """
    waiting = [f for f in features if needs_prior(f)]
    fitted: dict[str, FittedOp] = {}
    if waiting:
        train = rows.where(F.col(C.SPLIT) == "train")
        found = train.agg(*[prior_of(rows, f, label).alias(str(n)) for n, f in enumerate(waiting)]).first()
        assert found is not None
        for feature, prior in zip(waiting, found, strict=True):
            assert feature.derived is not None
            # Seven digits: the last ones of a mean depend on the order of the rows.
            number = None if prior is None else float(f"{prior:.7g}")
            fitted[feature.name] = FittedOp(
                name=feature.derived.name, params={**feature.derived.params, "prior": number}
            )
    encoded = [f for f in features if _is(f, "target_encoding")]
    fitted |= fit_encodings(rows, encoded, label, dataset, spark)
    return [replace(f, derived=fitted.get(f.name, f.derived)) for f in features]


def with_derived(
    rows: DataFrame,
    features: Sequence[AnyFeature],
    label: Column | None,
    dataset: str | Path,
    spark: SparkSession,
    *,
    fitted: bool = False,
) -> DataFrame:
    """Add the column of each derived feature; the order of the rows changes.

    Args:
        rows: raw rows. With `SPLIT` they are those of `prepare`, checked later on, and every value is made of
            them. Without, they are to be scored: a column of the feature's own name holds its ready value.
        features: all features; those that are not derived are left alone.
        label: 0 or 1, null where it is not known; None where the rows have no label.
        dataset: folder of the data set, with the tables of target encodings.
        spark: the session.
        fitted: target encodings are those of the data set, though the rows have `SPLIT`: none of them is a
            row that the tables were made of.

    Raises:
        DataError: a column that a feature is made of is missing.
    """
    made = [f for f in features if f.derived is not None]
    ready = [f for f in made if _is_ready(rows, f)]
    rows = rows.withColumns({f.column: _ready_value(rows, f) for f in ready}) if ready else rows
    waiting = [f for f in made if f not in ready]
    for feature in waiting:
        assert feature.derived is not None
        # A label that is not there is told of where it is needed, with the ways out.
        require_columns(source_columns(feature.derived), rows.columns, f"feature {feature.name!r}")
    groups = _by_order([f for f in waiting if not _is(f, "target_encoding")])
    plain, total = rows, rows.count() if groups and C.SPLIT in rows.columns else 0
    for group in groups:
        columns = [_column(rows, f, label) for f in group]
        op = group[0].derived
        assert op is not None
        time = _time(rows, op.params["time"], group[0].name)
        key = id_key(rows, id_columns(op))
        # Asking the rows with the values so far would make those once more.
        shared = share(staged(plain, key, time, columns), columns, total)
        rows = in_order(staged(rows, key, time, columns), columns, shared)
    for feature in waiting:
        if _is(feature, "target_encoding"):
            rows = with_encoding(rows, feature, label, dataset, spark, fitted=fitted)
    return rows


def with_values_of_now(
    rows: DataFrame, events: DataFrame, features: Sequence[Feature], label: Column
) -> DataFrame:
    """Add to rows to be scored, under the features' own names, what is made of all events up to now.

    Now is the time of the newest event, which counts as earlier itself.

    Args:
        rows: to be scored; they are no events.
        events: the raw rows so far.
        features: all features; only histories and `earlier` are made here, of the events.
        label: of the events.
    """
    made = rows
    for group in _by_order([f for f in features if f.derived is not None and "time" in f.derived.params]):
        assert group[0].derived is not None
        key = id_key(rows, id_columns(group[0].derived))
        # Of the rows as they came: asking those with the values so far would make each group twice.
        queries = rows.select(key.alias(KEY)).where(F.col(KEY).isNotNull()).distinct()
        values = _of_now(events, group, label, queries.withColumn("__id", F.col(KEY))).drop(KEY)
        made = made.join(values, key == F.col("__id"), "left").drop("__id")
        empty = F.array().cast("array<string>")
        lists = [f.name for f in group if _is(f, HISTORY)]
        made = made.withColumns({name: F.coalesce(C.column(name), empty) for name in lists})
    return made


def _of_now(
    events: DataFrame, group: Sequence[AnyFeature], label: Column | None, queries: DataFrame
) -> DataFrame:
    """Return `queries`, which have the column `KEY`, with the values of features of the same ids and time."""
    op = group[0].derived
    assert op is not None
    columns = [replace(_column(events, f, label), name=f.name) for f in group]
    time = event_time(events, op.params["time"], f"feature {group[0].name!r}")
    timed = any("seconds" in c.inputs for c in columns)
    seconds = newest_second(events, op.params["time"]) if timed else None
    return as_of_now(events, id_key(events, id_columns(op)), time, columns, queries, seconds)


def history_as_of_now(
    run: RunConfig, feature: str, spark: SparkSession, frame: DataFrame | None = None
) -> DataFrame:
    """Return the newest events of every user, for recommendations made now.

    Args:
        run: names the source and the history.
        feature: name of a `history` feature.
        spark: the session.
        frame: events to take instead of `data.source`.

    Returns:
        Columns: the user column, and one of the feature's name with the raw items as text (array, oldest
        first), which `apply_spec` takes. Users without events that count are absent, as are missing users.

    Raises:
        ConfigError: no history feature has that name, or its condition does not fit the rows.
    """
    groups = {g.name: g for g in run.features.sequence if g.history is not None}
    group = groups.get(feature)
    if group is None or group.history is None:
        raise ConfigError(
            f"no {HISTORY} feature has this name",
            where="features.sequence",
            got=feature,
            allowed=[name for name in groups if name is not None],
        )
    planned = Feature(
        name=feature,
        kind="sequence",
        column=feature,
        derived=FittedOp(name=HISTORY, params=group.history.model_dump()),
        ops=tuple(FittedOp(name=op.name) for op in group.ops),
        is_list=True,
    )
    rows, user = cleaned_events(run, spark, frame), group.history.user
    with named_failures(f"feature {feature!r}"):
        users = rows.select(C.column(user)).distinct()
        lists = _of_now(rows, [planned], None, users.withColumn(KEY, id_key(users, [user])))
    return lists.drop(KEY).where(F.size(C.column(feature)) > 0)


def _is(feature: PlannedFeature | Feature, name: str) -> bool:
    return feature.derived is not None and feature.derived.name == name


def _is_ready(rows: DataFrame, feature: PlannedFeature | Feature) -> bool:
    if C.SPLIT in rows.columns or feature.name not in rows.columns:
        return False
    return C.is_list(rows, feature.name) == feature.is_list


def _ready_value(rows: DataFrame, feature: PlannedFeature | Feature) -> Column:
    if not feature.is_list:
        return C.number(rows, feature.name, where=f"feature {feature.name!r}")
    assert feature.derived is not None
    items, length = C.token(rows, feature.name), int(feature.derived.params["max_length"])
    if not keeps_missing(feature):
        items = F.filter(items, lambda item: item.isNotNull())
    return F.slice(items, F.greatest(F.size(items) - length + 1, F.lit(1)), F.lit(length))


def _column(rows: DataFrame, feature: PlannedFeature | Feature, label: Column | None) -> OrderedColumn:
    if _is(feature, HISTORY):
        return history_column(rows, feature)
    return earlier_column(rows, feature, label)


def _time(rows: DataFrame, name: str, feature: str) -> Column:
    """Return the time of an event; one that cannot be read fails here where no survey of `prepare` does."""
    return C.time(rows, name) if C.SPLIT in rows.columns else event_time(rows, name, f"feature {feature!r}")


def _by_order(features: Sequence[AnyFeature]) -> list[list[AnyFeature]]:
    """Return the features in groups that one sort of the rows serves: the same ids, time and ties."""
    groups: dict[tuple[tuple[str, ...], str, str | None], list[AnyFeature]] = {}
    # Histories first: numbers need no order of ties, so they may join any of them.
    for feature in sorted(features, key=lambda f: not _is(f, HISTORY)):
        assert feature.derived is not None
        params = feature.derived.params
        ids, time, item = tuple(id_columns(feature.derived)), params["time"], params.get("item")
        fitting = [key for key in groups if key[:2] == (ids, time) and item in (None, key[2])]
        groups.setdefault(fitting[0] if fitting else (ids, time, item), []).append(feature)
    return list(groups.values())
