"""Memory that a task has freed, kept by its process for what the task makes next."""

from __future__ import annotations

import ctypes
from functools import cache

import pyarrow as pa

# Numbers of glibc's `mallopt`.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 256 * 2**20
_LARGEST_PIECE = 32 * 2**20  # glibc takes no more


@cache
def keep_freed_memory() -> None:
    """Let this process keep up to 256 MiB that it frees.

    Columns of a batch are made and freed a hundred times a second. Left to themselves, glibc and Arrow hand
    them back to the kernel, and a sixth of the time goes into getting zeroed pages again. Under another C
    library nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows
        return
    # Pieces above the first threshold are the kernel's again when freed.
    if mallopt(_MMAP_THRESHOLD, _LARGEST_PIECE) and mallopt(_TRIM_THRESHOLD, _KEPT_BYTES):
        pa.set_memory_pool(pa.system_memory_pool())
