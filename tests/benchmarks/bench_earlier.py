"""Time of numbers of earlier rows where few ids have most of the rows, with and without sharing them.

    python -m tests.benchmarks.bench_earlier [--rows 5000000] [--ids two|power] [--cores 8]

`two`: two ids with half the rows each; `power`: ids drawn by a power law, the largest with about a third of
the rows. Prints one JSON object {"rows": [{"name", "value", "unit"}]}: seconds of making a count, a rate and
the mean of a window, rows of the largest task, and seconds of the longest task that makes them, for each of
one task per id (`whole`) and tasks that share frequent ids (`shared`). Each is run once; the rows are cached.
Spark takes the machine to have `--cores`; where it has fewer, tasks wait for each other.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation import shared_ids
from jobs.preparation.derived import with_derived
from jobs.session import spark_session
from trainer.schema import Feature, FittedOp

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

MADE: dict[str, dict[str, Any]] = {
    "count": {"what": "count"},
    "rate": {"what": "rate", "smoothing": 10.0, "prior": 0.5},
    "lately": {"what": "mean", "of": "value", "window_seconds": 1000.0},
}


def features() -> list[Feature]:
    """Return a count, a rate, and a mean of a window, all of the id `user`."""
    usual = {"by": ["user"], "time": "time", "of": None, "where": None, "window_seconds": None}
    usual |= {"delay_seconds": 0.0, "smoothing": 0.0, "prior": None}
    ops = {name: FittedOp(name="earlier", params={**usual, **own}) for name, own in MADE.items()}
    return [Feature(name=name, kind="dense", column=name, derived=op) for name, op in ops.items()]


def events(spark: SparkSession, rows: int, ids: str) -> DataFrame:
    """Return cached rows with the marks that `prepare` gives them."""
    number = F.col("id")
    uniform = F.pmod(F.xxhash64(number), F.lit(1_000_000)) / 1e6
    user = number % 2 if ids == "two" else F.floor(F.pow(1.0 - uniform, F.lit(-1.0 / 0.6)))
    made = spark.range(rows).select(
        user.cast("bigint").alias("user"),
        F.pmod(F.xxhash64(number, F.lit(1)), F.lit(rows // 4)).alias("time"),
        (number % 7).cast("double").alias("value"),
        (number % 3 == 0).cast("int").alias("label"),
        F.lit("train").alias(C.SPLIT),
        F.xxhash64(number, F.lit(2)).alias(C.ORDER),
    )
    made = made.persist()
    made.count()
    return made


def measured(began: float, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Count a task's rows and the seconds from its first to its last batch, and sum up what was made."""
    rows, first = 0, None
    sums = dict.fromkeys(MADE, 0.0)
    for batch in batches:
        first = first or time.time()
        rows += batch.num_rows
        for name in MADE:
            sums[name] += float(pa.compute.sum(batch.column(name)).as_py() or 0)
    seconds = time.time() - (first or began)
    found = {"rows": [rows], "seconds": [seconds], **{name: [x] for name, x in sums.items()}}
    yield pa.RecordBatch.from_pydict(found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--ids", choices=["two", "power"], default="two")
    parser.add_argument("--cores", type=int, default=8)
    asked = parser.parse_args()
    spark = spark_session("bench earlier", master=f"local[{asked.cores}]", conf={"spark.driver.memory": "3g"})
    rows = events(spark, asked.rows, asked.ids)
    schema = "rows bigint, seconds double, " + ", ".join(f"{name} double" for name in MADE)
    lines, usual = [], shared_ids._FEWEST_ROWS
    for name, fewest in (("whole", asked.rows), ("shared", usual)):
        shared_ids._FEWEST_ROWS = fewest
        start = time.time()
        made = with_derived(rows, features(), F.col("label"), "", spark)
        found = made.mapInArrow(partial(measured, start), schema).collect()
        sizes = sorted(row["rows"] for row in found)
        sums = {key: round(sum(row[key] for row in found), 3) for key in MADE}
        lines += [
            {"name": f"{name}: all", "value": round(time.time() - start, 1), "unit": "s"},
            {"name": f"{name}: largest task", "value": sizes[-1], "unit": "rows"},
            {
                "name": f"{name}: longest task",
                "value": round(max(row["seconds"] for row in found), 1),
                "unit": "s",
            },
            {"name": f"{name}: sums of what was made", "value": sums, "unit": ""},
        ]
    print(json.dumps({"rows": lines}))
    spark.stop()


if __name__ == "__main__":
    main()
