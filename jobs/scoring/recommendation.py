"""`recommend`: score every item for some users with a trained run and keep the best."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.cluster import Cluster
from jobs.rank_requests import chosen_checkpoint, job_folder, run_request
from jobs.results import Dataset, TrainResult
from jobs.scoring.lists import RankedItem, Recommendations, UserList, shown_text, top_k
from jobs.scoring.vocabulary_copies import with_vocabularies
from jobs.verbs import with_input
from trainer.config import RecommendConfig, RunConfig
from trainer.errors import DataError, UserError
from trainer.rank_jobs import SCORES_FILE, score_columns
from trainer.run_folder import RunFolder
from trainer.schema import KEEP_PREFIX, FeatureSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from jobs.scoring.index_search import ItemIndex


def recommend(
    result: TrainResult | str | Path,
    users: DataFrame | Iterable[Any] | None = None,
    k: int = 10,
    *,
    events: DataFrame | None = None,
    split: str | None = None,
    index: ItemIndex | str | Path | None = None,
    cluster: Cluster | None = None,
    spark: SparkSession | None = None,
    checkpoint: str | None = None,
) -> DataFrame:
    """Rank all items that a user has not met yet, by predicted probability or rating.

    Where the data set has rows of users, the items are those that a row of `split` does not list, ranked by
    the model's score, and `events` make rows that list all of them.

    Args:
        result: run or run folder; its config needs a `recommend` section, but not for rows of users.
        users: ids, or a DataFrame with the user column; of rows of users default all.
        k: items per user.
        events: raw rows in place of those that were prepared; needed when those came as a DataFrame.
        split: of the rows of users; default `test`.
        index: of the run's items, from `index`, to ask in place of scoring every item for rows of users.
        cluster: ranks to score on; default one in this process.
        spark: session; default the active one, else a local one.
        checkpoint: name of a checkpoint; default the run's choice (best, else last).

    Returns:
        Columns: user, item, `rank` from 1, `score`, `title`, `subtitle`.
    """
    spark = spark or _session()
    found = recommend_lists(
        result,
        users,
        k,
        events=events,
        split=split,
        index=index,
        cluster=cluster,
        spark=spark,
        checkpoint=checkpoint,
    )
    return spark.createDataFrame(found.frame())


def recommend_lists(
    result: TrainResult | str | Path,
    users: DataFrame | Iterable[Any] | None = None,
    k: int = 10,
    *,
    events: DataFrame | str | Path | None = None,
    split: str | None = None,
    index: ItemIndex | str | Path | None = None,
    cluster: Cluster | None = None,
    spark: SparkSession | None = None,
    checkpoint: str | None = None,
) -> Recommendations:
    """Do the same as `recommend` and return lists, in the asked order, with what each user liked before.

    Raises:
        ConfigError: the config has no `recommend` section.
        DataError: no user is named, or one has no raw rows.
        CheckpointError: no complete checkpoint has that name.
        UserError: an index is named that is of no use here.
    """
    from jobs.preparation.raw_copies import raw_copies

    folder = RunFolder(result.path if isinstance(result, TrainResult) else Path(result))
    checkpoint = chosen_checkpoint(folder, checkpoint)
    with raw_copies(folder.path / "jobs" / "raw"):
        if folder.config().data.user_rows is not None:
            return _of_user_rows(folder, users, k, events, split, index, cluster, spark, checkpoint)
        for option, given in (("--index", index), ("--split", split)):
            if given is not None:
                raise UserError(
                    "this is for rows of users, and the data set has rows of events",
                    where=option,
                    got=str(given),
                    fixes=[f"leave {option} out: every item is scored for each user", "data.user_rows"],
                )
        users = [] if users is None else users
        return _recommended(folder, users, k, events, cluster, spark, checkpoint)


def _of_user_rows(
    folder: RunFolder,
    users: DataFrame | Iterable[Any] | None,
    k: int,
    events: DataFrame | str | Path | None,
    split: str | None,
    index: ItemIndex | str | Path | None,
    cluster: Cluster | None,
    spark: SparkSession | None,
    checkpoint: str,
) -> Recommendations:
    from jobs.scoring.asked_rows import user_row_section
    from jobs.scoring.index_search import ItemIndex
    from jobs.scoring.user_recommendation import RowRequest, recommended_rows
    from jobs.session import same_results

    if events is not None and split is not None:
        raise UserError(
            "rows made of raw rows are of no split",
            where="--split",
            got=split,
            fixes=["leave --split out", "leave --input out"],
        )
    run, frame = raw_rows_of(folder, events)
    asked = None if users is None else user_ids(users, user_row_section(run))
    opened = ItemIndex.open(index) if isinstance(index, (str, Path)) else index
    spark, given = spark or _session(), events is not None
    with same_results(spark, reads_files=frame is None):
        request = RowRequest.open(
            folder, run, frame, checkpoint=checkpoint, spark=spark, cluster=cluster, given=given
        )
        return recommended_rows(request, asked, k, split=split or "test", now=given, index=opened)


def _recommended(
    folder: RunFolder,
    users: DataFrame | Iterable[Any],
    k: int,
    events: DataFrame | str | Path | None,
    cluster: Cluster | None,
    spark: SparkSession | None,
    checkpoint: str,
) -> Recommendations:
    from jobs.preparation.pipeline import write_inputs
    from jobs.preparation.transform import apply_spec
    from jobs.scoring.candidates import Events, section
    from jobs.session import same_results

    run, frame = raw_rows_of(folder, events)
    columns = section(run)
    asked = user_ids(users, columns)
    spark = spark or _session()
    spec = folder.manifest().spec
    with ExitStack() as ended:
        ended.enter_context(same_results(spark, reads_files=frame is None))
        met = Events.read(run, spark, frame)
        known = met.known_users(asked).cache()
        ended.callback(known.unpersist)
        shown = [name for name in (columns.title, columns.subtitle) if name is not None]
        keep = list(dict.fromkeys([columns.user, columns.item, *shown]))
        order = [KEEP_PREFIX + columns.user, KEEP_PREFIX + columns.item]
        with job_folder(folder, "recommend") as place:
            dataset = folder.dataset_files()
            vocabularies = with_vocabularies(dataset, spec, place)
            inputs = apply_spec(met.candidates(known, spec.features), spec, vocabularies, spark, keep=keep)
            manifest = write_inputs(
                inputs, spec, place / "rows", spark, name="candidates", vectors_in=dataset, order_by=order
            )
            data = Dataset(place / "rows", manifest)
            ranked: dict[str, UserList] = {}
            if manifest.splits["test"].rows > 0:
                run_request(
                    place / "job", "score_rank", folder, data, "test", cluster or Cluster.local(),
                    checkpoint=checkpoint,
                )  # fmt: skip
                scores = pq.read_table(place / "job" / SCORES_FILE)[ranking_column(columns, spec)]
                ranked = _lists(data, scores.to_numpy(), columns, k)
        liked = met.liked(known)
        ids = {str(row[0]): row[0] for row in known.collect()}
    lists = [
        replace(ranked.get(str(user), UserList(ids[str(user)], [], [])), liked=liked.get(str(user), []))
        for user in asked
    ]
    return Recommendations(columns.user, columns.item, lists)


def raw_rows_of(folder: RunFolder, events: DataFrame | str | Path | None) -> tuple[RunConfig, Any]:
    """Return the run's config reading the raw rows from where they were prepared, and a frame if given."""
    run, raw = folder.config(), folder.manifest().raw
    if raw is not None:
        values = run.as_dict()
        values["data"].update(raw)
        run = RunConfig.from_dict(values, where="manifest: raw")
    if isinstance(events, (str, Path)):
        return with_input(run, events), None
    return run, events


def ranking_column(columns: RecommendConfig, spec: FeatureSpec) -> str:
    """Return the column of scores that items are ranked by."""
    names = [task.name for task in spec.tasks]
    return score_columns(spec.tasks)[0 if columns.task is None else names.index(columns.task)]


def _lists(
    data: Dataset, scores: NDArray[np.float64], columns: RecommendConfig, k: int
) -> dict[str, UserList]:
    kept = [columns.user, columns.item, columns.title or columns.item, columns.subtitle]
    names = [KEEP_PREFIX + name for name in dict.fromkeys(kept) if name is not None]
    files = [str(data.path / part.path) for part in data.manifest.split("test").files]
    rows = pads.dataset(files, format="parquet").to_table(columns=names)
    lists = {}
    for user, chosen in top_k(rows[KEEP_PREFIX + columns.user].to_numpy(), scores, k).items():
        items = [
            _item(rank, row, columns, float(scores[number]))
            for rank, (row, number) in enumerate(
                zip(rows.take(chosen).to_pylist(), chosen, strict=True), start=1
            )
        ]
        lists[str(user)] = UserList(user, [], items)
    return lists


def _item(rank: int, row: dict[str, Any], columns: RecommendConfig, score: float) -> RankedItem:
    item = row[KEEP_PREFIX + columns.item]
    title = row[KEEP_PREFIX + (columns.title or columns.item)]
    subtitle = row.get(f"{KEEP_PREFIX}{columns.subtitle}")
    return RankedItem(
        rank, item, str(item if title is None else title), shown_text(subtitle), round(score, 6)
    )


def user_ids(users: DataFrame | Iterable[Any], columns: RecommendConfig) -> list[Any]:
    """Return the ids once each, in the order given."""
    select = getattr(users, "select", None)
    # numpy's own integers would not be found in a set of plain ones.
    plain = getattr(users, "tolist", None)
    if select is not None:
        users = [row[0] for row in select(columns.user).distinct().collect()]
    elif plain is not None:
        users = plain()
    ids = list(dict.fromkeys(users))
    if not ids:
        raise DataError("no user is named", where="--users", got="no ids", fixes=["name some: --users 1,42"])
    return ids


def _session() -> SparkSession:
    from jobs.session import spark_session

    return spark_session("shardrec recommend")
