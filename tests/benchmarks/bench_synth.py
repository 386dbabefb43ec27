"""Rows/s of `synth`: on all cores by Spark's tasks, and of one core without Spark.

    python -m tests.benchmarks.bench_synth [--rows 4000000] [--rounds 3]

Prints one JSON object {"rows": [{"name", "value", "unit"}]}; medians of the rounds. The first run of a Spark
session is not counted. Processor seconds of the one core are given since other programs disturb them less
than the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from jobs import synthesize
from jobs.session import spark_session
from jobs.synthesis.shape import Shape
from jobs.synthesis.truth import fit_truth
from jobs.synthesis.writing import write_file

SHAPES: dict[str, dict[str, Any]] = {
    "Criteo shape, Parquet": {},
    "Criteo shape, TSV": {"format": "tsv"},
    "with two lists of 20 ids and histories, Parquet": {"multi_hot": 2, "history": 20},
}
ONE_FILE_ROWS = 262_144


def with_spark(folder: Path, options: dict[str, Any], rows: int, rounds: int) -> float:
    """Return rows/s of whole runs in a session that is warm, the folder's commit included."""
    spark = spark_session("bench synth")
    synthesize(folder / "synth", rows=ONE_FILE_ROWS, spark=spark, **options)
    taken = [synthesize(folder / "synth", rows=rows, spark=spark, **options).seconds for _ in range(rounds)]
    return rows / statistics.median(taken)


def of_one_core(folder: Path, options: dict[str, Any], rounds: int) -> float:
    """Return rows per processor second of making and writing one file."""
    shape = Shape.of(rows=ONE_FILE_ROWS, **options)
    truth, taken = fit_truth(shape), []
    for number in range(rounds + 1):
        start = time.process_time()
        write_file(shape, truth, folder, 0)
        if number > 0:
            taken.append(time.process_time() - start)
    return ONE_FILE_ROWS / statistics.median(taken)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    found = []
    for name, options in SHAPES.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            cpu = of_one_core(folder, options, given.rounds)
            clock = with_spark(folder, options, given.rows, given.rounds)
        found.append({"name": name, "value": round(clock), "unit": "synthetic rows/s"})
        found.append({"name": name, "value": round(cpu), "unit": "synthetic rows per CPU second"})
    print(json.dumps({"rows": found}, indent=1))


if __name__ == "__main__":
    main()
