"""The best items of rows of users, by the model or by an index, under raw ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.cluster import Cluster
from jobs.rank_requests import run_request
from jobs.results import Dataset
from jobs.scoring.asked_rows import kept_users
from jobs.scoring.item_run import ItemRun
from trainer.config import RecommendConfig
from trainer.errors import UserError
from trainer.storage import open_input

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from jobs.scoring.index_search import ItemIndex

# Rows whose queries are asked of an index at once.
_ROWS_AT_ONCE = 1 << 14
_RESULT = pa.schema({"row": pa.int64(), "rank": pa.int64(), "id": pa.int64(), "score": pa.float64()})


@dataclass(frozen=True)
class Ranking:
    """How items are ranked for rows.

    Attributes:
        count: items of a row.
        exclude: whether items that the row lists are left out.
        known: whether those that it is to find are left out too.
        candidates: items drawn for each row, that alone are ranked; None for all.
        index: to ask in place of scoring every item.
        seed: of the draws.
    """

    count: int
    exclude: bool = True
    known: bool = False
    candidates: int | None = None
    index: ItemIndex | None = None
    seed: int = 1


def ranked_items(
    run: ItemRun,
    columns: RecommendConfig,
    data: Dataset,
    split: str,
    ranking: Ranking,
    *,
    cluster: Cluster | None,
    checkpoint: str,
    place: Path,
    spark: SparkSession,
    types: Mapping[str, str],
) -> DataFrame:
    """Return user, item, `rank` from 1 and `score` of the best items of each row.

    The ranks write the best items of their rows, Spark puts raw ids in their place: scores of all rows are
    never together in the memory of one process.

    Args:
        run: whose model ranks.
        columns: names of user and item.
        data: rows of users; those of `asked_rows` or `rows_of_now`.
        split: of them.
        ranking: how.
        cluster: ranks to score on; default one in this process.
        checkpoint: of the run.
        place: folder of the job.
        spark: session.
        types: Spark types of the raw columns, where they are known.
    """
    from pyspark.sql import functions as F

    from jobs.preparation.spark_paths import spark_path
    from trainer.item_jobs import BEST_ITEMS

    if ranking.index is None:
        options = {
            "count": ranking.count, "exclude": ranking.exclude, "known": ranking.known,
            "candidates": ranking.candidates, "seed": ranking.seed,
        }  # fmt: skip
        job = "trainer.item_jobs:best_items_rank"
        run_request(
            place / "job", job, run.folder, data, split, cluster or Cluster.local(), checkpoint=checkpoint,
            options=options,
        )  # fmt: skip
        best = place / "job" / BEST_ITEMS
    else:
        best = place / "found"
        _ask_index(run, data, split, ranking, cluster, checkpoint, place, best)
    _write_users(run, columns, data, split, place / "users")
    _write_item_names(run, place / "names")
    found, users, items = (
        spark.read.parquet(spark_path(p)) for p in (best, place / "users", place / "names")
    )
    named = found.join(users, "row").join(items, "id")
    casts = {name: types.get(name) for name in (columns.user, columns.item)}
    chosen = [
        (F.col(own) if casts[name] is None else F.col(own).cast(str(casts[name]))).alias(name)
        for own, name in (("user", columns.user), ("item", columns.item))
    ]
    return named.select(*chosen, "rank", F.round("score", 6).alias("score"))


def require_index(index: ItemIndex, run: ItemRun, checkpoint: str) -> None:
    """Refuse an index that is of other weights than those that make the queries.

    Raises:
        UserError: it is of another run or checkpoint.
    """
    own = (str(run.folder.path.absolute()), checkpoint, run.manifest.spec.hash)
    theirs = (index.info.run, index.info.checkpoint, index.info.spec_hash)
    if own != theirs:
        raise UserError(
            "the index is of another run or checkpoint, whose vectors do not fit these queries",
            where=f"--index {index.path}",
            got=f"{index.info.run} ({index.info.checkpoint})",
            allowed=f"{own[0]} ({own[1]})",
            fixes=[
                f"shardrec index {own[0]} --checkpoint {checkpoint} --out {index.path}",
                f"--checkpoint {index.info.checkpoint}",
            ],
        )


def _ask_index(
    run: ItemRun,
    data: Dataset,
    split: str,
    ranking: Ranking,
    cluster: Cluster | None,
    checkpoint: str,
    place: Path,
    out: Path,
) -> None:
    """Write what an index finds for the queries of the rows, as `best_items_rank` does."""
    from trainer.item_jobs import QUERY_VECTORS

    index = ranking.index
    assert index is not None
    job = "trainer.item_jobs:query_vectors_rank"
    launched = cluster or Cluster.local()
    run_request(place / "job", job, run.folder, data, split, launched, checkpoint=checkpoint)
    out.mkdir()
    seen = _Seen(run, data, split, known=ranking.known) if ranking.exclude else None
    for part in sorted((place / "job" / QUERY_VECTORS).glob("part-*.parquet")):
        with pq.ParquetWriter(out / part.name, _RESULT) as writer:
            for batch in pq.ParquetFile(part).iter_batches(_ROWS_AT_ONCE):
                rows_R, vectors = batch["row"].to_numpy(), batch["vector"]
                queries_RX = vectors.flatten().to_numpy().reshape(len(rows_R), vectors.type.list_size)
                held = None if seen is None else seen.of(rows_R)
                found = index.search(queries_RX, ranking.count, held)
                row_P, place_P = np.nonzero(found.ids_QK)
                values = [
                    rows_R[row_P],
                    place_P + 1,
                    found.ids_QK[row_P, place_P],
                    found.scores_QK[row_P, place_P].astype(np.float64),
                ]
                writer.write_table(pa.table(values, schema=_RESULT))


class _Seen:
    """The items that rows list, as ids; one part file is in memory at a time."""

    def __init__(self, run: ItemRun, data: Dataset, split: str, *, known: bool) -> None:
        target = run.manifest.spec.target
        self._names = [*run.model.holders, *([target.name] if known and target is not None else [])]
        self._files = data.manifest.split(split).files
        self._folder = data.manifest.folder_in(data.path)
        self._starts = np.concatenate([[0], np.cumsum([file.rows for file in self._files])])
        self._read: tuple[int, pa.Table] | None = None

    def of(self, rows_R: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return the ids of each row."""
        lists: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * len(rows_R)
        file_R = np.searchsorted(self._starts, rows_R, side="right") - 1
        for file in np.unique(file_R):
            table, mine = self._table(int(file)), np.flatnonzero(file_R == file)
            inside = pa.array(rows_R[mine] - self._starts[file])
            for name in self._names:
                for place, ids in zip(mine, table[name].take(inside), strict=True):
                    value = ids.values if hasattr(ids, "values") else [ids.as_py()]
                    own = np.asarray(value if value is not None else [], dtype=np.int64)
                    lists[place] = np.concatenate([lists[place], own])
        return lists

    def _table(self, file: int) -> pa.Table:
        if self._read is None or self._read[0] != file:
            with open_input(self._folder / self._files[file].path) as stream:
                self._read = file, pq.read_table(stream, columns=self._names)
        return self._read[1]


def _write_users(run: ItemRun, columns: RecommendConfig, data: Dataset, split: str, folder: Path) -> None:
    """Write the raw user of each row."""
    kept = kept_users(run, data, columns, split)
    folder.mkdir()
    writer = None
    groups = range(len(kept.starts) - 1)
    for start, values in zip(kept.starts, kept.read(columns.user, groups), strict=False):
        rows = pa.array(np.arange(start, start + len(values)), pa.int64())
        table = pa.table({"row": rows, "user": values})
        writer = writer or pq.ParquetWriter(folder / "part-00000.parquet", table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _write_item_names(run: ItemRun, folder: Path) -> None:
    """Write the raw id of each item."""
    folder.mkdir()
    raw, first = run.raw_items(), run.model.sampler.first
    ids = pa.array(np.arange(first, first + len(raw)), pa.int64())
    pq.write_table(pa.table({"id": ids, "item": raw}), folder / "part-00000.parquet")
