"""Item factors by alternating least squares, Spark MLlib's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.preparation.spark_paths import spark_path
from jobs.session import is_local, over_connect
from trainer.baselines.histories import Histories
from trainer.baselines.sections import AlsSection

if TYPE_CHECKING:
    from pyspark.ml.recommendation import ALSModel
    from pyspark.sql import DataFrame, SparkSession

_SCHEMA = pa.schema({"user": pa.int32(), "item": pa.int32(), "rating": pa.float32()})
_EVENTS_AT_ONCE = 1 << 20
# Without checkpoints the plan of some fifteen iterations overflows Java's stack.
_CHECKPOINT_INTERVAL = 4


def als_item_factors(
    histories: Histories, section: AlsSection, *, implicit: bool, seed: int, spark: SparkSession
) -> NDArray[np.float32]:
    """Return the factors of all items, [N, F]; zeros of those that were in no event.

    Args:
        histories: see `fitted_als`, like all that follows.
        section: of the config.
        implicit: kind of the values.
        seed: of the first factors.
        spark: session.
    """
    with fitted_als(histories, section, implicit=implicit, seed=seed, spark=spark) as model:
        found_NF = np.zeros((histories.num_items, model.rank), np.float32)
        for item, factors in model.itemFactors.toLocalIterator():
            found_NF[item] = factors
        return found_NF


@contextmanager
def fitted_als(
    histories: Histories, section: AlsSection, *, implicit: bool, seed: int, spark: SparkSession
) -> Iterator[ALSModel]:
    """Fit MLlib's ALS on what users met; the model is good as long as the context is open.

    A local session reads the events from a file and writes checkpoints beside it. Executors elsewhere get the
    events from this process, and checkpoints go where the session's checkpoint folder is, if it has one.

    Args:
        histories: of all users in training, with their ratings.
        section: rank, iterations, regularisation, alpha.
        implicit: whether values say how often something happened, or how much it was liked.
        seed: of the first factors.
        spark: session.
    """
    from pyspark.ml.recommendation import ALS

    als = ALS(
        rank=section.rank,
        maxIter=section.iterations,
        regParam=section.regularisation,
        alpha=section.alpha,
        implicitPrefs=implicit,
        seed=seed,
        userCol="user",
        itemCol="item",
        ratingCol="rating",
        checkpointInterval=_CHECKPOINT_INTERVAL,
    )
    if over_connect(spark) or not is_local(spark):
        yield als.fit(_sent(histories, spark))
        return
    context = spark.sparkContext
    with tempfile.TemporaryDirectory(prefix="shardrec_als_") as folder:
        path = Path(folder) / "events.parquet"
        _write(histories, path)
        before = context.getCheckpointDir()
        context.setCheckpointDir(str(Path(folder) / "checkpoints"))
        try:
            yield als.fit(spark.read.parquet(spark_path(path)))
        finally:
            if before is not None:
                context.setCheckpointDir(before)


def _sent(histories: Histories, spark: SparkSession) -> DataFrame:
    """Return the events as rows that go from this process to the executors."""
    values = (histories.users(), histories.items_H, histories.values_H)
    kinds = (np.int32, np.int32, np.float32)
    columns = {
        name: value.astype(kind) for name, value, kind in zip(_SCHEMA.names, values, kinds, strict=True)
    }
    return spark.createDataFrame(pd.DataFrame(columns), "user int, item int, rating float")


def _write(histories: Histories, path: Path) -> None:
    begins_U1 = histories.begins_U1
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        for first in range(0, len(histories.items_H), _EVENTS_AT_ONCE):
            part = slice(first, min(first + _EVENTS_AT_ONCE, len(histories.items_H)))
            entries = np.arange(part.start, part.stop)
            users_H = np.searchsorted(begins_U1, entries, side="right") - 1
            columns = (users_H, histories.items_H[part], histories.values_H[part])
            arrays = [pa.array(column, kind) for column, kind in zip(columns, _SCHEMA.types, strict=True)]
            writer.write_table(pa.table(arrays, schema=_SCHEMA))
