"""Copies the files of a folder to another place, many at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed

from jobs.attended import PHASES
from trainer.errors import StoreError
from trainer.storage import Place, list_files
from trainer.store_writing import copy_file

_FILES_AT_ONCE = 16
_SECONDS_BETWEEN_LINES = 10.0


def copy_files(origin: Place, target: Place, sizes: Mapping[str, int]) -> None:
    """Copy files, 16 at once, and stop all copies where one fails.

    Args:
        origin: folder of the files.
        target: folder to copy them to.
        sizes: bytes of each file, by its path in the folder.

    Raises:
        FileNotFoundError: a file is missing.
        StoreError: a store cannot be reached, refuses access, or keeps failing.
        OSError: a local file cannot be read or written.
    """
    total, done, said = sum(sizes.values()), 0, time.monotonic()
    PHASES.info("copying %s files (%s) from %s to %s", f"{len(sizes):,}", _size_text(total), origin, target)
    stop = threading.Event()
    with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="shardrec-copy") as pool:
        copies = {
            pool.submit(copy_file, origin / name, target / name, stop): size for name, size in sizes.items()
        }
        try:
            for copy in as_completed(copies):
                copy.result()
                done += copies[copy]
                if time.monotonic() - said > _SECONDS_BETWEEN_LINES:
                    said = time.monotonic()
                    PHASES.info("copied %s of %s", _size_text(done), _size_text(total))
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def require_sizes(target: Place, sizes: Mapping[str, int]) -> None:
    """Check that all files are at a place, whole.

    Args:
        target: folder.
        sizes: bytes of each file, by its path in the folder.

    Raises:
        StoreError: one is missing or has another size, or the store cannot be read.
    """
    found = list_files(target)
    for name, size in sizes.items():
        if found.get(name) != size:
            raise StoreError(
                "a file was not copied whole, or something else writes to the same place",
                where=str(target / name),
                got="no file" if name not in found else f"{found[name]:,} bytes",
                allowed=f"{size:,} bytes",
                fixes=["copy again when nothing else writes there"],
            )


def _size_text(size: int) -> str:
    unit, name = next(((u, n) for u, n in ((2**30, "GiB"), (2**20, "MiB")) if size >= u), (2**10, "KiB"))
    return f"{size / unit:.1f} {name}"
