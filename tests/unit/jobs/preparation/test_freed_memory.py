"""Freed memory serves again without new pages from the kernel."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_PAGES = """
import resource

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.preparation.freed_memory import keep_freed_memory

keep_freed_memory()

def columns():
    held = [np.ones(500_000) for _ in range(8)]
    held += [pc.add(pa.array(x), 1.0) for x in held]

columns()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    columns()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_columns_made_again_take_no_new_pages() -> None:
    told = subprocess.run([sys.executable, "-c", _PAGES], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 20_000  # left to themselves they take over 100,000
