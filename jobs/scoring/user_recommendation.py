"""`recommend` and `mine` for rows of users (`data.user_rows`), by models that score queries against items."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.cluster import Cluster
from jobs.rank_requests import job_folder
from jobs.results import Dataset
from jobs.scoring.asked_rows import asked_rows, rows_of_now, user_row_section
from jobs.scoring.item_run import ItemRun
from jobs.scoring.lists import RankedItem, Recommendations, UserList, shown_text
from jobs.scoring.row_items import Ranking, ranked_items, require_index
from trainer.config import RecommendConfig, RunConfig
from trainer.run_folder import RunFolder

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from jobs.scoring.candidates import Events
    from jobs.scoring.index_search import ItemIndex


@dataclass(frozen=True)
class RowRequest:
    """What `recommend` or `mine` is asked about rows of users.

    Attributes:
        run: the run.
        checkpoint: of it.
        spark: the session.
        cluster: ranks to use; default one in this process.
        met: raw rows, where they are to be had.
        columns: the `recommend` section.
    """

    run: ItemRun
    checkpoint: str
    spark: SparkSession
    cluster: Cluster | None
    met: Events | None
    columns: RecommendConfig

    @classmethod
    def open(
        cls,
        folder: RunFolder,
        config: RunConfig,
        events: DataFrame | None,
        *,
        checkpoint: str,
        spark: SparkSession,
        cluster: Cluster | None,
        given: bool,
    ) -> RowRequest:
        """Open a run.

        Args:
            folder: of the run.
            config: that names the raw rows.
            events: raw rows as a frame.
            checkpoint: as above.
            spark: as above.
            cluster: as above.
            given: whether the raw rows were named; else those that were prepared are taken, if there are any.

        Raises:
            ConfigError: see `ItemRun.open` and `user_row_section`.
        """
        from jobs.scoring.candidates import Events

        run, columns = ItemRun.open(folder), user_row_section(config)
        met = None
        if given or run.manifest.raw is not None:
            met = Events.read(config.model_copy(update={"recommend": columns}), spark, events)
        return cls(run, checkpoint, spark, cluster, met, columns)

    def types(self) -> dict[str, str]:
        """Return the Spark types of the raw user and item, where they are known."""
        if self.met is None:
            return {}
        schema = self.met.rows.schema
        return {name: schema[name].dataType.simpleString() for name in (self.columns.user, self.columns.item)}

    def now(self, users: Sequence[Any] | None, place: Path) -> Dataset:
        """Return rows of users, all of them by default, that list all their events up to now.

        Raises:
            DataError: some are in no raw row.
        """
        assert self.met is not None
        known = self.met.users() if users is None else self.met.known_users(users)
        return rows_of_now(self.met, self.run, known, place)

    def of_split(self, users: Sequence[Any] | None, split: str, place: Path) -> Dataset:
        """Return rows of a split; see `asked_rows`."""
        return asked_rows(self.run, self.columns, split, users, place)

    def ranked(self, data: Dataset, split: str, ranking: Ranking, place: Path) -> DataFrame:
        """Return user, item, rank and score; see `ranked_items`."""
        return ranked_items(
            self.run,
            self.columns,
            data,
            split,
            ranking,
            cluster=self.cluster,
            checkpoint=self.checkpoint,
            place=place,
            spark=self.spark,
            types=self.types(),
        )


def recommended_rows(
    request: RowRequest,
    users: Sequence[Any] | None,
    k: int,
    *,
    split: str,
    now: bool,
    index: ItemIndex | None,
) -> Recommendations:
    """Return lists of the items that rows of users do not list, in the asked order, else by user.

    Args:
        request: what is asked about.
        users: ids; None for all.
        k: items of a user.
        split: whose rows are taken; their items to be found are ranked like others.
        now: take rows made of the raw rows instead.
        index: to ask in place of scoring every item.

    Raises:
        DataError: a user has no row, or is in no raw row.
        UserError: the index is of another run or checkpoint.
    """
    from jobs.preparation.columns import quoted

    if index is not None:
        request.run.require_products()
        require_index(index, request.run, request.checkpoint)
    columns, spark = request.columns, request.spark
    with ExitStack() as ended:
        place = ended.enter_context(job_folder(request.run.folder, "recommend"))
        if now:
            data, split = request.now(users, place / "now"), "test"
        else:
            data = request.of_split(users, split, place / "asked")
        lists: dict[str, UserList] = {}
        if data.manifest.split(split).rows:
            ranking = Ranking(k, exclude=columns.exclude_seen is not False, index=index)
            ranked = request.ranked(data, split, ranking, place).cache()
            ended.callback(ranked.unpersist)
            lists = _lists(_with_titles(ranked, request), columns)
            if request.met is not None:
                liked = request.met.liked(ranked.select(quoted(columns.user)).distinct())
                lists = {name: replace(one, liked=liked.get(name, [])) for name, one in lists.items()}
    if users is None:
        found = sorted(lists.values(), key=lambda one: (str(type(one.user)), one.user))
        return Recommendations(columns.user, columns.item, found)
    kind = request.types().get(columns.user)
    ids = {str(user): user for user in users}
    if kind is not None:
        asked = spark.createDataFrame([(name,) for name in ids], "text string")
        cast = asked.selectExpr("text", f"try_cast(text as {kind}) as user")
        ids = {row["text"]: row["user"] for row in cast.collect()}
    return Recommendations(
        columns.user,
        columns.item,
        [lists.get(str(user), UserList(ids[str(user)], [], [])) for user in users],
    )


def _with_titles(ranked: DataFrame, request: RowRequest) -> DataFrame:
    """Return user, item, rank, score, and `title` and `subtitle` where the config names them."""
    from pyspark.sql import functions as F

    from jobs.preparation.columns import column

    columns = request.columns
    rows = ranked
    if request.met is not None and (columns.title or columns.subtitle):
        rows = request.met.as_rows(ranked, [])
    shown = [
        (column(name) if name in rows.columns else F.lit(None)).alias(alias)
        for name, alias in ((columns.title or columns.item, "title"), (columns.subtitle, "subtitle"))
        if name is not None
    ]
    own = [column(columns.user).alias("user"), column(columns.item).alias("item")]
    return rows.select(*own, "rank", "score", *shown)


def _lists(rows: DataFrame, columns: RecommendConfig) -> dict[str, UserList]:
    """Return the lists by user, as text."""
    lists: dict[str, UserList] = {}
    for row in sorted(rows.collect(), key=lambda row: (str(row["user"]), row["rank"])):
        title = row["item"] if row["title"] is None else row["title"]
        subtitle = shown_text(row["subtitle"] if columns.subtitle else None)
        item = RankedItem(row["rank"], row["item"], str(title), subtitle, row["score"])
        lists.setdefault(str(row["user"]), UserList(row["user"], [], [])).items.append(item)
    return lists


def mined_split(run: RunConfig, exclude: str) -> str:
    """Return the split whose rows list just what `exclude` leaves out, or else most of it."""
    rows = run.data.user_rows
    assert rows is not None
    order = ("train", "valid", "test") if exclude == "train" else ("test", "valid", "train")
    return next(name for name in order if name in rows.splits)
