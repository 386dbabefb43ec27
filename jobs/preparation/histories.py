"""A user's earlier events as lists: strictly earlier in time, the newest kept, oldest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.failures import named_failures
from jobs.preparation.planned import HISTORY
from jobs.preparation.sources import raw_rows
from trainer.config import RunConfig
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


def with_history(
    frame: DataFrame, events: DataFrame, user: Column, time: Column, max_length: int, name: str
) -> DataFrame:
    """Add the list of each row's earlier events.

    No list ever grows beyond `max_length` times the events at one moment, however long a user's life: events
    of one user and moment become one group first, and windows run over groups.

    Args:
        frame: the rows.
        events: columns `user`, `time`, `counts` (whether the event counts), `token` (null: no item), `id`.
        user: user of a row of `frame`.
        time: time of a row of `frame`, comparable to `events.time`.
        max_length: newest events kept.
        name: column to add, array<bigint>, never null.
    """
    counted = F.when(F.col("counts") & F.col("token").isNotNull(), F.struct("token", "id"))
    moments = (
        events.where(F.col("user").isNotNull() & F.col("time").isNotNull())
        .groupBy("user", "time")
        # Events of one moment have no order of their own; by token, the lists are at least the same each run.
        .agg(F.sort_array(F.collect_list(counted)).alias("items"))
        .select("user", "time", _newest(F.col("items")["id"], max_length).alias("ids"))
        .withColumn("filled", F.size("ids") > 0)
    )
    recent = Window.partitionBy("user", "filled").orderBy("time").rowsBetween(1 - max_length, 0)
    earlier = Window.partitionBy("user").orderBy("time").rowsBetween(Window.unboundedPreceding, -1)
    # Up to and including each moment with events, then, for every moment, the latest of those before it.
    upto = _newest(F.flatten(F.collect_list("ids").over(recent)), max_length)
    lists = (
        moments.withColumn("upto", F.when(F.col("filled"), upto))
        .withColumn(name, F.last("upto", ignorenulls=True).over(earlier))
        .select(F.col("user").alias("__user"), F.col("time").alias("__time"), name)
        .where(F.col(name).isNotNull())
    )
    joined = frame.join(lists, (user == F.col("__user")) & (time == F.col("__time")), "left")
    empty = F.array().cast("array<bigint>")
    return joined.drop("__user", "__time").withColumn(name, F.coalesce(F.col(name), empty))


def history_as_of_now(
    run: RunConfig, feature: str, spark: SparkSession, frame: DataFrame | None = None
) -> DataFrame:
    """Return every user's newest events, for recommendations made now.

    Args:
        run: names the source and the history.
        feature: name of a `history` feature.
        spark: the session.
        frame: events to take instead of `data.source`.

    Returns:
        Columns: the user column, and one of the feature's name with the raw items as text (array, oldest
        first), which `apply_spec` takes. Users without events that count are absent.

    Raises:
        ConfigError: no history feature has that name.
    """
    groups = {
        g.name: g.history for g in run.features.sequence if g.history is not None and g.name is not None
    }
    history = groups.get(feature)
    if history is None:
        raise ConfigError(
            f"no {HISTORY} feature has this name",
            where="features.sequence",
            got=feature,
            allowed=list(groups),
        )
    rows = raw_rows(run, spark, frame)
    with named_failures(f"feature {feature!r}"):
        if history.where is not None:
            rows = rows.where(F.expr(history.where))
        events = rows.select(
            C.column(history.user).alias("user"),
            C.time(rows, history.time).alias("time"),
            C.token(rows, history.item).alias("token"),
        ).where(F.col("user").isNotNull() & F.col("time").isNotNull() & F.col("token").isNotNull())
        newest = Window.partitionBy("user").orderBy(F.col("time").desc(), F.col("token").desc())
        kept = events.withColumn("n", F.row_number().over(newest)).where(F.col("n") <= history.max_length)
        lists = kept.groupBy("user").agg(
            F.sort_array(F.collect_list(F.struct("time", "token"))).alias("items")
        )
    return lists.select(F.col("user").alias(history.user), F.col("items")["token"].alias(feature))


def _newest(items: Column, length: int) -> Column:
    """Return the last `length` items of a list."""
    return F.slice(items, F.greatest(F.size(items) - F.lit(length - 1), F.lit(1)), F.lit(length))
