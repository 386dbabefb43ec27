"""Time and memory of histories when one user has most of the events.

    python -m tests.benchmarks.bench_histories [--events 1000000] [--length 50]

One user has all events but 1 %. Prints one JSON object {"rows": [{"name", "value", "unit"}]}: events/s of
making the lists, and the largest resident memory of the Python workers that make them. Spark itself sorts on
disk what does not fit into its memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterable, Iterator

import pyarrow as pa
from pyspark.sql import functions as F

from jobs.preparation.derived import with_derived
from jobs.session import spark_session
from trainer.schema import Feature, FittedOp


def history(length: int) -> Feature:
    """Return a history of the columns `user`, `item` and `time`."""
    params = {"user": "user", "item": "item", "time": "time", "max_length": length}
    op = FittedOp(name="history", params={**params, "where": None, "include_ties": False})
    return Feature(name="seen", kind="sequence", column="seen_list", derived=op, is_list=True)


def count_and_memory(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Count list items in the worker that made them, and return its peak resident memory."""
    items = sum(len(batch.column("seen_list").flatten()) for batch in batches)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield pa.RecordBatch.from_pydict({"items": [items], "peak": [peak]})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--length", type=int, default=50)
    asked = parser.parse_args()
    spark = spark_session("bench histories", master="local[2]", conf={"spark.driver.memory": "2g"})
    number = F.col("id")
    events = spark.range(asked.events).select(
        F.when(number % 100 == 0, number).otherwise(7).alias("user"),
        (F.xxhash64(number) % 10_000).alias("item"),
        (F.xxhash64(number, F.lit(1)) % (asked.events // 4)).alias("time"),
    )
    start = time.perf_counter()
    made = with_derived(events, [history(asked.length)], None, "", spark)
    found = made.mapInArrow(count_and_memory, "items bigint, peak bigint").collect()
    seconds = time.perf_counter() - start
    rows = [
        {"name": "histories of a heavy user", "value": round(asked.events / seconds), "unit": "events/s"},
        {"name": "list items made", "value": sum(row["items"] for row in found), "unit": "items"},
        {
            "name": "largest Python worker",
            "value": round(max(row["peak"] for row in found) / 1024),
            "unit": "MiB",
        },
    ]
    print(json.dumps({"rows": rows}))
    spark.stop()


if __name__ == "__main__":
    main()
