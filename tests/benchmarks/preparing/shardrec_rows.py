"""`prepare` in a local Spark session. It also says what memory the driver took.

In local mode one JVM is driver and executor at once, and tasks hand rows on through files. The driver's
Python process holds no rows.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import RunConfig, prepare
from jobs.session import spark_session
from tests.benchmarks.preparing import CORES, DENSE, FRACTIONS, LABEL, MIN_COUNT, SEED, SPARSE, timed

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def config(raw: Path) -> RunConfig:
    """Return the run config of the work."""
    return RunConfig.model_validate(
        {
            "name": "bench_prepare",
            "data": {
                "root": str(raw.parent),
                "source": {"path": raw.name, "format": "parquet"},
                "label": {"column": LABEL},
                "split": {"method": "random", "fractions": FRACTIONS, "seed": SEED},
            },
            "features": {
                "dense": [{"columns": DENSE, "ops": [{"fill": 0}, "log1p"]}],
                "sparse": [{"columns": SPARSE, "ops": [{"vocabulary": {"min_count": MIN_COUNT}}]}],
            },
            "model": {"name": "dlrm"},
        }
    )


def main() -> None:
    """Start Spark with the memory of the third argument, prepare, and print."""
    memory = sys.argv[3]
    spark = spark_session("bench_prepare", master=f"local[{CORES}]", conf={"spark.driver.memory": memory})

    def work(raw: Path, out: Path) -> dict[str, Any]:
        # Prepare has its own clock, which leaves out what is measured after it.
        dataset = prepare(None, config(raw), out, spark=spark)
        return {"seconds": dataset.seconds} | _driver_memory(spark)

    timed(work)
    spark.stop()


def _driver_memory(spark: SparkSession) -> dict[str, float]:
    jvm: Any = spark._jvm
    beans = jvm.java.lang.management.ManagementFactory
    heap = [
        pool.getPeakUsage().getUsed()
        for pool in beans.getMemoryPoolMXBeans()
        if pool.getType().toString() == "Heap memory"
    ]
    jvm.java.lang.System.gc()
    unit = 1 if os.uname().sysname == "Darwin" else 2**10
    return {
        "python_driver_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30,
        "heap_limit_gib": jvm.java.lang.Runtime.getRuntime().maxMemory() / 2**30,
        "heap_peak_gib": sum(heap) / 2**30,
        "heap_live_gib": beans.getMemoryMXBean().getHeapMemoryUsage().getUsed() / 2**30,
    }


if __name__ == "__main__":
    main()
