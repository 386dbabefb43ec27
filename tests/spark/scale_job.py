"""Prepares 20 million rows, each with an id of its own, in a Spark session whose heap ends at 1 GiB.

python -m tests.spark.scale_job RAW OUT

What tasks hand on goes through Spark and its heap, as on a cluster. Prints one JSON object: the heap's limit
and the peak resident memory of the driver's Python process, in GiB.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from jobs import RunConfig, prepare
from jobs.preparation import pipeline
from jobs.preparation.streams import Streams
from jobs.session import spark_session


def config(raw: Path) -> RunConfig:
    """Return the run config: all rows but few are training rows."""
    return RunConfig.model_validate(
        {
            "name": "scale",
            "data": {
                "root": str(raw.parent),
                "source": {"path": raw.name, "format": "parquet"},
                "label": {"column": "label"},
                "split": {"fractions": [0.98, 0.01, 0.01]},
                "keep": ["user", "item"],
            },
            "features": {"sparse": [{"columns": ["user", "item"], "ops": "vocabulary"}]},
            "model": {"name": "dlrm"},
        }
    )


def main() -> None:
    """Prepare and print."""
    raw, out = map(Path, sys.argv[1:])
    pipeline.streams_between_tasks = lambda *_: nullcontext(Streams())  # type: ignore[assignment]
    spark = spark_session("scale", master="local[2]", conf={"spark.driver.memory": "1g"})
    prepare(None, config(raw), out, spark=spark)
    jvm: Any = spark._jvm
    facts = {
        "heap_limit_gib": jvm.java.lang.Runtime.getRuntime().maxMemory() / 2**30,
        "driver_gib": _peak_gib(),
    }
    spark.stop()
    print(json.dumps(facts))


def _peak_gib() -> float:
    # Not `ru_maxrss`: that of a new program begins with what the one that started it took.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 2**20


if __name__ == "__main__":
    main()
