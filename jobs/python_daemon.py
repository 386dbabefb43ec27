"""Spark's Python daemon, which has imported already what tasks need when it forks a worker.

Left to itself each worker imports NumPy, pandas, pyarrow and this package anew, and looks through all of it
for garbage after every task.
"""

from __future__ import annotations

import gc
import importlib

from pyspark import daemon

# These import all the rest.
_NEEDED = ("pandas", "jobs.preparation.parquet_scan", "jobs.preparation.vocabulary")


def main() -> None:
    """Import, and fork workers until Spark ends."""
    for name in _NEEDED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    daemon.manager()


if __name__ == "__main__":
    main()
