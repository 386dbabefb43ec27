"""`mine`: the unseen items that a trained run scores highest for each user, as negatives for the next run."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.cluster import Cluster
from jobs.rank_requests import chosen_checkpoint, job_folder, run_request
from jobs.results import Dataset, TrainResult
from jobs.scoring.recommendation import ranking_column, raw_rows_of, user_ids
from jobs.scoring.vocabulary_copies import with_vocabularies
from trainer.config import RecommendConfig, RunConfig
from trainer.errors import DataError, UserError
from trainer.rank_jobs import SCORES_FOLDER
from trainer.run_folder import RunFolder
from trainer.schema import KEEP_PREFIX

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from jobs.scoring.candidates import Events

CANDIDATES_PER_USER = 1_000
_ROW = "__row"
_ORDER = "__user_order"


@dataclass(frozen=True)
class MinedNegatives:
    """A Parquet file of hard negatives.

    Attributes:
        path: of the file: user and item under their raw names, `rank` (1 is the best of all), `score`.
        users: that have some.
        rows: pairs of user and item.
    """

    path: Path
    users: int
    rows: int

    def as_json(self) -> dict[str, Any]:
        """Return the `--json` form of `mine`."""
        return {"negatives": str(self.path), "users": self.users, "rows": self.rows}


def mine_negatives(
    result: TrainResult | str | Path,
    out: str | Path,
    k: int = 20,
    *,
    skip_top: int = 0,
    candidates_per_user: int | None = CANDIDATES_PER_USER,
    exclude: Literal["train", "known"] = "train",
    users: Iterable[Any] | None = None,
    events: DataFrame | str | Path | None = None,
    split: str | None = None,
    cluster: Cluster | None = None,
    spark: SparkSession | None = None,
    checkpoint: str | None = None,
) -> MinedNegatives:
    """Write each user's best scored items among candidates that are not excluded.

    Spark draws the candidates, the ranks score all of them in one launch, and Spark picks the best: neither
    users nor scores are ever together in the memory of one process. For rows of users the ranks draw them.

    Args:
        result: run or run folder; its config needs a `recommend` section, but not for rows of users.
        out: Parquet file, usable as `data.negatives.train.file`.
        k: items per user.
        skip_top: best items left out: the likeliest to be liked, only not met yet.
        candidates_per_user: items that are drawn, each as likely; None takes all.
        exclude: what is no negative: items of the user's positives in train, dealt by the run's config, or
            those of any of the user's raw rows (`known`). Of rows of users those that the row lists, in
            train or else in valid; `known` those that the row of test lists or is to find.
        users: ids; default all users of the raw rows, or all that have a row.
        events: raw rows in place of those that were prepared; of rows of users with `exclude: known` alone.
        split: of the rows of users; default as `exclude` says.
        cluster: ranks to score on; default one in this process.
        spark: session; default the active one, else a local one.
        checkpoint: name of a checkpoint; default the run's choice (best, else last).

    Raises:
        ConfigError: the config has no `recommend` section.
        DataError: no user is named, an id is in no raw row, or no user has an item left.
        UserError: there are fewer candidates than items to skip and to keep.
    """
    from jobs.preparation.raw_copies import raw_copies
    from jobs.preparation.spark_paths import spark_path
    from jobs.session import same_results, spark_session

    _check_numbers(k, skip_top, candidates_per_user)
    folder = RunFolder(result.path if isinstance(result, TrainResult) else Path(result))
    checkpoint = chosen_checkpoint(folder, checkpoint)
    run, frame = raw_rows_of(folder, events)
    _check_rows(run, events is not None, exclude, split)
    spark = spark or spark_session("shardrec mine")
    mining = _Mining(
        folder,
        run,
        frame,
        given=events is not None,
        users=users,
        ranks=(skip_top, skip_top + k),
        candidates=candidates_per_user,
        exclude=exclude,
        cluster=cluster,
        spark=spark,
        checkpoint=checkpoint,
    )
    with (
        raw_copies(folder.path / "jobs" / "raw"),
        same_results(spark, reads_files=frame is None),
        job_folder(folder, "mine") as place,
    ):
        of_events = run.data.user_rows is None
        ordered = mining.best_of_events(place) if of_events else mining.best_of_rows(place, split)
        ordered.write.parquet(spark_path(place / "best"))
        return _written(place / "best", Path(out), skip_top)


@dataclass(frozen=True)
class _Mining:
    """What `mine` is asked for.

    Attributes:
        folder: of the run.
        run: its config, which names the raw rows.
        frame: the raw rows where they came as a frame.
        given: whether the raw rows were named.
        users: ids; None for all.
        ranks: those above the first number, up to the second, are kept.
        candidates: items that are drawn for each user; None takes all.
        exclude: `train` or `known`.
        cluster: ranks to score on.
        spark: session.
        checkpoint: of the run.
    """

    folder: RunFolder
    run: RunConfig
    frame: DataFrame | None
    given: bool
    users: Iterable[Any] | None
    ranks: tuple[int, int]
    candidates: int | None
    exclude: str
    cluster: Cluster | None
    spark: SparkSession
    checkpoint: str

    def best_of_events(self, place: Path) -> DataFrame:
        """Return user, item, rank and score for users of the raw rows."""
        from jobs.scoring.candidates import Events

        met = Events.read(self.run, self.spark, self.frame)
        columns = met.columns
        named = None if self.users is None else user_ids(self.users, columns)
        asked = met.users() if named is None else met.known_users(named)
        excluded = met.training_positives() if self.exclude == "train" else met.pairs()
        pairs = _pairs(met, asked, excluded, self.candidates, place)
        data = _inputs(self.folder, met, pairs, place)
        if data.manifest.splits["test"].rows == 0:
            raise DataError(
                "no user has an item left to be a negative", where=f"recommend.user: {columns.user}"
            )
        run_request(
            place / "job", "score_parts_rank", self.folder, data, "test", self.cluster or Cluster.local(),
            checkpoint=self.checkpoint,
        )  # fmt: skip
        best = _best(
            place / "rows" / "test",
            place / "job" / SCORES_FOLDER,
            columns,
            ranking_column(columns, self.folder.manifest().spec),
            self.ranks,
            self.spark,
        )
        return _in_order(best, columns, named, self.spark)

    def best_of_rows(self, place: Path, split: str | None) -> DataFrame:
        """Return the same for rows of users: of a split, or made of raw rows that were named."""
        from pyspark.sql import functions as F

        from jobs.scoring.row_items import Ranking
        from jobs.scoring.user_recommendation import RowRequest, mined_split

        request = RowRequest.open(
            self.folder,
            self.run,
            self.frame,
            checkpoint=self.checkpoint,
            spark=self.spark,
            cluster=self.cluster,
            given=self.given,
        )
        named = None if self.users is None else user_ids(self.users, request.columns)
        if self.given:
            data, split = request.now(named, place / "now"), "test"
        else:
            split = split or mined_split(self.run, self.exclude)
            data = request.of_split(named, split, place / "asked")
        items = request.run.model.sampler.num_items
        ranking = Ranking(
            min(self.ranks[1], items),
            known=self.exclude == "known",
            candidates=self.candidates if self.candidates is not None and self.candidates < items else None,
            seed=self.run.seed,
        )
        best = request.ranked(data, split, ranking, place).where(F.col("rank") > self.ranks[0])
        return _in_order(best, request.columns, named, self.spark)


def _check_rows(run: RunConfig, given: bool, exclude: str, split: str | None) -> None:
    """Refuse what does not fit rows of users, or events."""
    rows = run.data.user_rows
    if rows is None and split is not None:
        raise UserError(
            "the data set has rows of events, of which all raw ones are taken",
            where=f"--split {split}",
            fixes=["leave --split out"],
        )
    if rows is not None and given and (exclude == "train" or split is not None):
        raise UserError(
            "rows made of raw rows list all events of a user, whatever their split",
            where="--input",
            fixes=["--exclude known, without --split", "leave --input out"],
        )


def _check_numbers(k: int, skip_top: int, candidates: int | None) -> None:
    if candidates is not None and candidates < k + skip_top:
        raise UserError(
            "fewer candidates are drawn than are to be skipped and kept",
            where="--candidates-per-user",
            got=candidates,
            allowed=f"{k + skip_top} (--k {k} + --skip-top {skip_top}) or more, or `all`",
            fixes=[f"--candidates-per-user {max(CANDIDATES_PER_USER, 10 * (k + skip_top))}"],
        )


def _pairs(met: Events, users: DataFrame, excluded: DataFrame, count: int | None, place: Path) -> DataFrame:
    """Return the candidates: all of them where no more than `count` items are to be had."""
    from jobs.preparation.columns import column
    from jobs.scoring.candidate_draws import all_pairs, drawn_pairs

    items = met.items().where(column(met.columns.item).isNotNull())
    if count is None or items.count() <= count:
        return all_pairs(users, items, excluded)
    return drawn_pairs(
        users, items, excluded, count, seed=met.run.seed, scratch=place / "items", spark=met.spark
    )


def _inputs(folder: RunFolder, met: Events, pairs: DataFrame, place: Path) -> Dataset:
    """Write the model inputs of the pairs."""
    from jobs.preparation.pipeline import write_inputs
    from jobs.preparation.transform import apply_spec

    dataset, spec = folder.dataset_files(), folder.manifest().spec
    vocabularies = with_vocabularies(dataset, spec, place)
    rows = met.as_rows(pairs, spec.features)
    keep = [met.columns.user, met.columns.item]
    inputs = apply_spec(rows, spec, vocabularies, met.spark, keep=keep)
    manifest = write_inputs(inputs, spec, place / "rows", met.spark, name="candidates", vectors_in=dataset)
    return Dataset(place / "rows", manifest)


def _best(
    pairs: Path,
    scores: Path,
    columns: RecommendConfig,
    by: str,
    ranks: tuple[int, int],
    spark: SparkSession,
) -> DataFrame:
    """Return user, item, rank and score of the ranks above the first number, up to the second."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    from jobs.preparation.columns import column
    from jobs.preparation.part_numbers import numbered_parts
    from jobs.preparation.spark_paths import spark_path

    found = numbered_parts(pairs, spark, _ROW)
    names = [column(KEEP_PREFIX + name).alias(name) for name in (columns.user, columns.item)]
    scored = spark.read.parquet(spark_path(scores)).withColumnRenamed("row", _ROW)
    rows = found.select(*names, _ROW).join(scored, _ROW)
    order = [F.col(by).desc(), column(columns.item)]
    rank = F.row_number().over(Window.partitionBy(column(columns.user)).orderBy(*order)).cast("bigint")
    score = F.round(by, 6)
    ranked = rows.select(column(columns.user), column(columns.item), rank.alias("rank"), score.alias("score"))
    return ranked.where(F.col("rank").between(ranks[0] + 1, ranks[1]))


def _in_order(
    best: DataFrame, columns: RecommendConfig, users: list[Any] | None, spark: SparkSession
) -> DataFrame:
    """Sort by user, as named where they are, and rank."""
    from pyspark.sql import functions as F

    from jobs.preparation.columns import column

    if users is None:
        return best.orderBy(column(columns.user), "rank")
    places = {str(user): place for place, user in reversed(list(enumerate(users)))}
    order = spark.createDataFrame(list(places.items()), f"__text string, {_ORDER} bigint")
    joined = best.join(order, column(columns.user).cast("string") == F.col("__text"), "left")
    return joined.orderBy(_ORDER, column(columns.user), "rank").select(*map(column, best.columns))


def _written(best: Path, out: Path, skip_top: int) -> MinedNegatives:
    """Copy the parts into one file, a batch at a time; it appears when it is whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    parts = sorted(best.glob("part-*.parquet"))
    users = rows = 0
    try:
        with pq.ParquetWriter(temporary, pq.read_schema(parts[0]), compression="zstd") as writer:
            for part in parts:
                for batch in pq.ParquetFile(part).iter_batches():
                    writer.write_batch(batch)
                    rows += batch.num_rows
                    # Every user in the file has an item of the first rank that is kept.
                    users += pc.sum(pc.equal(batch["rank"], skip_top + 1)).as_py() or 0
        if rows == 0:
            said = f"no user has more than {skip_top} items left to be negatives"
            raise DataError(said, where="--skip-top", fixes=["a smaller --skip-top"])
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return MinedNegatives(out, users, rows)
