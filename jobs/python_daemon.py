"""Spark's Python daemon, which has imported already what tasks need when it forks a worker.

Left to itself each worker imports NumPy, pandas, pyarrow and this package anew, looks through all of it for
garbage after every task, and reads the directories of Spark's archives before each: a tenth of a second.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import re
import sys
from contextlib import suppress
from importlib.machinery import PathFinder

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_ARCHIVE = re.compile(r"(^|/)(pyspark\.zip|py4j-[^/]+\.zip|spark-core[^/]+\.jar)(/|$)")
# These import all the rest.
_NEEDED = ("pandas", "jobs.preparation.parquet_scan", "jobs.preparation.vocabulary")


def main() -> None:
    """Import, and fork workers until Spark ends."""
    _leave_out_archives()
    _keep_freed_memory()
    from pyspark import daemon

    for name in _NEEDED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    daemon.manager()


def _leave_out_archives() -> None:
    """Take the archives that Spark adds off the path, where PySpark is installed as plain files as well."""
    plain = [place for place in sys.path if not _ARCHIVE.search(place)]
    if all(PathFinder.find_spec(name, plain) for name in ("pyspark", "py4j")):
        sys.path[:] = plain
        for place in filter(_ARCHIVE.search, list(sys.path_importer_cache)):
            del sys.path_importer_cache[place]


def _keep_freed_memory() -> None:
    """Let NumPy's next arrays take the memory of freed ones: the system would clear each page of it anew."""
    with suppress(OSError, AttributeError):  # a system without glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, 256 * 2**20)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)


if __name__ == "__main__":
    main()
