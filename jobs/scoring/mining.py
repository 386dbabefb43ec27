"""`mine`: the unseen items that a trained run scores highest for each user, as negatives for the next run."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.cluster import Cluster
from jobs.results import TrainResult
from jobs.scoring.recommendation import raw_rows_of, recommend_lists
from trainer.config import RecommendConfig
from trainer.errors import ConfigError, DataError
from trainer.run_folder import RunFolder

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# Candidates (users times items) that are scored in one go.
CANDIDATES_AT_ONCE = 4_000_000


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
    users: Iterable[Any] | None = None,
    events: DataFrame | str | Path | None = None,
    cluster: Cluster | None = None,
    spark: SparkSession | None = None,
    checkpoint: str | None = None,
) -> MinedNegatives:
    """Write each user's best scored items among those in none of the user's raw rows.

    Users are scored in groups, so that memory holds the candidates of one group at a time.

    Args:
        result: run or run folder; its config needs a `recommend` section.
        out: Parquet file, usable as `data.negatives.train.file`.
        k: items per user.
        skip_top: best items left out: the likeliest to be liked, only not met yet.
        users: ids; default all users of the raw rows.
        events: raw rows in place of those that were prepared.
        cluster: ranks to score on; default one in this process.
        spark: session; default the active one, else a local one.
        checkpoint: name of a checkpoint; default the run's choice (best, else last).

    Raises:
        ConfigError: the config has no `recommend` section, or it ranks items that users have seen.
        DataError: an id is in no raw row, or no user has an item left.
    """
    from jobs.scoring.candidates import Events, section
    from jobs.session import spark_session

    run, frame = raw_rows_of(
        RunFolder(result.path if isinstance(result, TrainResult) else Path(result)), events
    )
    columns = section(run)
    if not columns.exclude_seen:
        raise ConfigError(
            "items that a user has seen are no negatives",
            where="recommend.exclude_seen",
            got=False,
            fixes=["recommend.exclude_seen: true"],
        )
    spark = spark or spark_session("shardrec mine")
    met = Events.read(run, spark, frame)
    asked = list(users) if users is not None else met.user_ids()
    size = max(1, CANDIDATES_AT_ONCE // max(1, met.items().count()))
    groups = (asked[start : start + size] for start in range(0, max(1, len(asked)), size))
    lists = (
        recommend_lists(
            result, group, k + skip_top, events=events, cluster=cluster, spark=spark, checkpoint=checkpoint
        ).frame()
        for group in groups
    )
    return _written(lists, Path(out), columns, skip_top)


def _written(
    lists: Iterator[pd.DataFrame], out: Path, columns: RecommendConfig, skip_top: int
) -> MinedNegatives:
    """Write the groups one after another; the file appears when it is whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    writer: pq.ParquetWriter | None = None
    users = rows = 0
    try:
        for frame in lists:
            kept = frame.loc[frame["rank"] > skip_top, [columns.user, columns.item, "rank", "score"]]
            if kept.empty:
                continue
            table = pa.Table.from_pandas(kept, preserve_index=False)
            writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
            writer.write_table(table.cast(writer.schema))
            users, rows = users + kept[columns.user].nunique(), rows + len(kept)
        if writer is None:
            raise DataError(
                "no user has an item left to be a negative", where=f"recommend.user: {columns.user}"
            )
        writer.close()
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return MinedNegatives(out, users, rows)
