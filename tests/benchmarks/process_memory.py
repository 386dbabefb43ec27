"""Resident memory and processor time of a process and everything that it starts."""

from __future__ import annotations

import os
import resource
import threading
from collections import defaultdict
from pathlib import Path

_EVERY_SECONDS = 0.2


class TreeMemory:
    """Watches the resident sets of a process and its descendants while inside.

    Pages that processes share count once for each of them.

    Attributes:
        peak_gib: largest sum so far.
        peak_gib_of: largest sum so far of the processes of one program (`java`, `python3.11`), by its name.
    """

    def __init__(self, root: int) -> None:
        self.peak_gib = 0.0
        self.peak_gib_of: dict[str, float] = {}
        self._root = root
        self._stop = threading.Event()

    def __enter__(self) -> TreeMemory:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        unit = resource.getpagesize() / 2**30
        while not self._stop.wait(_EVERY_SECONDS):
            by_program: dict[str, float] = defaultdict(float)
            for pid in _family(self._root):
                program, pages = _program_and_pages(pid)
                by_program[program] += pages * unit
            self.peak_gib = max(self.peak_gib, sum(by_program.values()))
            for program, gib in by_program.items():
                self.peak_gib_of[program] = max(self.peak_gib_of.get(program, 0.0), gib)


def cpu_seconds() -> float:
    """Return the processor time of this process, its living descendants, and those that were waited for."""
    ticks = 0
    for pid in _family(os.getpid()):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _family(root: int) -> list[int]:
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children[parent].append(int(entry.name))
    found, queue = [], [root]
    while queue:
        found.append(queue.pop())
        queue += children.get(found[-1], [])
    return found


def _program_and_pages(pid: int) -> tuple[str, int]:
    try:
        program = Path(f"/proc/{pid}/exe").readlink().name
        return program, int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return "", 0
