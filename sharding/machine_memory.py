"""The memory of this machine, or of the container that this process is in."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the memory that this process may use: that of the machine, or the limit of its container."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroup v2, v1
        with suppress(OSError, ValueError):  # No such file, or `max`.
            return min(physical, int((cgroup / limit).read_text()))
    return physical
