from __future__ import annotations

import os
from pathlib import Path

import pytest

from sharding.machine_memory import memory_bytes

PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize("file", ["memory.max", "memory/memory.limit_in_bytes"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [("1073741824\n", 2**30), ("max\n", PHYSICAL), ("9223372036854771712\n", PHYSICAL), (None, PHYSICAL)],
)
def test_memory_keeps_to_the_limit_of_a_container(
    tmp_path: Path, file: str, text: str | None, expected: int
) -> None:
    if text is not None:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    assert memory_bytes(tmp_path) == expected
