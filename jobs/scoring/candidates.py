"""Raw rows of every user asked for with every item, ready for the feature spec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyspark.sql import Window
from pyspark.sql import functions as F

from jobs.preparation.cleaning import clean, cleaned_events
from jobs.preparation.columns import BAD_LINE, SPLIT, column
from jobs.preparation.derived import with_values_of_now
from jobs.preparation.labels import label_value
from jobs.preparation.row_hashes import with_row_hashes
from jobs.preparation.sources import raw_rows, read_source, require_columns, rows_and_columns
from jobs.preparation.splits import with_split
from jobs.preparation.time_formats import with_iso_times
from jobs.scoring.candidate_draws import all_pairs
from trainer.config import RecommendConfig, RunConfig
from trainer.errors import ConfigError, DataError
from trainer.schema import Feature

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

LIKED_SHOWN = 5


@dataclass(frozen=True)
class Events:
    """The raw rows as a recommender sees them: who met what.

    Attributes:
        run: the config; its `recommend` section names the columns.
        spark: the session.
        rows: rows of the source, without side tables.
        frame: the rows where they were given as a frame, and not read.
    """

    run: RunConfig
    spark: SparkSession
    rows: DataFrame
    frame: DataFrame | None = None

    @classmethod
    def read(cls, run: RunConfig, spark: SparkSession, frame: DataFrame | None = None) -> Events:
        """Read the rows that were prepared, or take a frame in their place.

        Raises:
            ConfigError: the config has no `recommend` section or no source.
            DataError: a column that it names is missing.
        """
        columns = section(run)
        given = frame
        if frame is None:
            if run.data.source is None:
                raise ConfigError(
                    "the data set was prepared from a DataFrame, which is not here any more",
                    where="recommend",
                    fixes=[
                        "pass the rows again: recommend(..., events=FRAME)",
                        "name their files: --input PATH",
                    ],
                )
            frame = read_source(run.data.source, run.data.root, spark, "data.source").drop(BAD_LINE)
        named = [columns.user, columns.item, *columns.user_columns, *columns.item_columns]
        require_columns(named + ([columns.time] if columns.time else []), frame.columns, "recommend")
        return cls(run, spark, with_iso_times(frame, run.data.time_formats), given)

    @property
    def columns(self) -> RecommendConfig:
        """Return the `recommend` section."""
        return section(self.run)

    def known_users(self, users: Sequence[Any]) -> DataFrame:
        """Return the users as one column of the source's type.

        Raises:
            DataError: some of them are in no row.
        """
        name = self.columns.user
        kind = self.rows.schema[name].dataType
        asked = self.spark.createDataFrame([(str(user),) for user in users], "text string")
        cast = F.expr(f"try_cast(text as {kind.simpleString()})")
        asked = asked.select(cast.alias(name)).distinct()
        known = self.rows.select(column(name)).distinct().join(asked, name, "left_semi")
        found = {str(row[0]) for row in known.collect()}
        missing = [str(user) for user in users if str(user) not in found]
        if missing:
            raise DataError(
                "users without a single raw row", where=f"recommend.user: {name}", got=", ".join(missing[:10])
            )
        return known

    def users(self) -> DataFrame:
        """Return all users as one column."""
        name = self.columns.user
        return self.rows.select(column(name)).where(column(name).isNotNull()).distinct()

    def pairs(self) -> DataFrame:
        """Return user and item of every row."""
        return self.rows.select(column(self.columns.user), column(self.columns.item))

    def training_positives(self) -> DataFrame:
        """Return user and item of the positives in train, dealt as `prepare` deals them.

        Raises:
            ConfigError: the label is a rating.
        """
        run = self.run
        if run.data.first_task.label.kind == "rating":
            raise ConfigError(
                "ratings say of no item that it is a positive",
                where=f"{run.data.first_task.key}.kind: rating",
                fixes=["exclude the items of all rows of a user"],
            )
        rows, own = rows_and_columns(run, self.spark, self.frame)
        rows = with_row_hashes(rows.where(F.col(BAD_LINE).isNull()), own, run.data.split.seed)
        rows = with_split(clean(rows, run.data.clean)[0], run.data.split)
        trained = rows.where((F.col(SPLIT) == "train") & (label_value(rows, run.data.first_task) == 1))
        return trained.select(column(self.columns.user), column(self.columns.item))

    def candidates(self, users: DataFrame, features: Sequence[Feature]) -> DataFrame:
        """Return `as_rows` of each user with each item not seen yet."""
        if self.columns.exclude_seen is False:
            return self.as_rows(users.crossJoin(self.items()), features)
        return self.as_rows(all_pairs(users, self.items(), self.pairs()), features)

    def as_rows(self, pairs: DataFrame, features: Sequence[Feature]) -> DataFrame:
        """Return raw rows, side tables joined, of pairs of user and item.

        Columns that belong to neither are null, as in a row whose value is missing. What features are made of
        earlier rows is made of all rows there are.
        """
        columns, rows = self.columns, pairs
        for key, names in ((columns.user, columns.user_columns), (columns.item, columns.item_columns)):
            if names:
                rows = rows.join(self._newest(key, names), key, "left")
        have = set(rows.columns)
        for field in self.rows.schema.fields:
            if field.name not in have:
                rows = rows.withColumn(field.name, F.lit(None).cast(field.dataType))
        joined = raw_rows(self.run, self.spark, rows)
        events = cleaned_events(self.run, self.spark, self.rows)
        return with_values_of_now(joined, events, features, label_value(events, self.run.data.first_task))

    def liked(self, users: DataFrame) -> dict[str, list[str]]:
        """Return by user (as text) titles of the newest liked items: label 1, or rated above their mean."""
        columns = self.columns
        rows = raw_rows(self.run, self.spark, self.rows.join(users, columns.user, "left_semi"))
        task = self.run.data.first_task
        label, least = label_value(rows, task), F.lit(1.0)
        if task.label.kind == "rating":
            least = F.avg(F.col("__label")).over(Window.partitionBy(columns.user))
        # A window stands in a column of its own.
        rows = rows.withColumn("__label", label).withColumn("__least", least)
        rows = rows.where(F.col("__label") >= F.col("__least"))
        order = column(columns.time).desc() if columns.time else column(columns.item).asc()
        place = F.row_number().over(Window.partitionBy(columns.user).orderBy(order, column(columns.item)))
        title = column(columns.title or columns.item).cast("string")
        shown = rows.select(column(columns.user).cast("string"), place.alias("place"), title)
        found: dict[str, list[str]] = {}
        for user, _, text in sorted(shown.where(F.col("place") <= LIKED_SHOWN).collect()):
            found.setdefault(user, []).append(text)
        return found

    def items(self) -> DataFrame:
        """Return all items: of the side table that is joined by the item alone, else of the rows."""
        name = self.columns.item
        kind = self.rows.schema[name].dataType
        for number, join in enumerate(self.run.data.joins):
            if join.on == [name]:
                side = read_source(join.source, self.run.data.root, self.spark, f"data.joins.{number}.source")
                return side.select(column(name).cast(kind).alias(name)).distinct()
        return self.rows.select(column(name)).distinct()

    def _newest(self, key: str, names: Sequence[str]) -> DataFrame:
        time = self.columns.time
        order = column(time).desc() if time else F.lit(0)
        place = F.row_number().over(Window.partitionBy(key).orderBy(order, *[column(name) for name in names]))
        rows = self.rows.select(column(key), *[column(name) for name in names], place.alias("__place"))
        return rows.where(F.col("__place") == 1).drop("__place")


def section(run: RunConfig) -> RecommendConfig:
    """Return the `recommend` section.

    Raises:
        ConfigError: the config has none.
    """
    if run.recommend is None:
        raise ConfigError(
            "the config does not say what to recommend",
            where="recommend",
            fixes=["add recommend: {user: USER_COLUMN, item: ITEM_COLUMN}"],
        )
    return run.recommend
