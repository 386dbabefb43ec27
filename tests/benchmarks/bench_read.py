"""`shardrec bench read` on both of its synthetic data sets, as one JSON object.

python -m tests.benchmarks.bench_read [--rows 1000000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial

from jobs.benchmarks.figures import as_json
from jobs.benchmarks.reading import ReadingTask, bench_read


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    criteo = ReadingTask(rows=options.rows, repeats=options.rounds)
    lists = ReadingTask(rows=max(1, options.rows // 4), repeats=options.rounds, multi_hot=True, epochs=0)
    told = partial(print, file=sys.stderr)
    print(json.dumps(as_json([*bench_read(criteo, told), *bench_read(lists, told)]), indent=1))


if __name__ == "__main__":
    main()
