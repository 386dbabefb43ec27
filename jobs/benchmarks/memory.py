"""Resident memory of this process, and whether it grows."""

from __future__ import annotations

import gc
import os
import resource
import sys
from pathlib import Path

import numpy as np


def resident_mib() -> float:
    """Return the resident memory of this process in MiB; its peak where the system tells no more (macOS)."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def growth(values: list[float]) -> float:
    """Return the slope of the straight line that fits values at 0, 1, 2, ... best."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0])
