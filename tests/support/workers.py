"""What the workers of pytest-xdist make once for all of them."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(folder: Path, name: str) -> Iterator[Path]:
    """Wait until no other worker makes what has this name, and yield its folder, empty for the first one."""
    with (folder / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (folder / name).mkdir(exist_ok=True)
        yield folder / name
