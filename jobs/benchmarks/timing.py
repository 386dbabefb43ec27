"""Times contenders in turns, so that whatever else the machine does slows all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

_TRIES = 10
Work = Iterator[int]
"""What a contender yields: the units of work of each batch, done when the batch is there."""


@dataclass(frozen=True)
class Pass:
    """One contender in one round: work done, by the clock and in processor seconds of all threads.

    Attributes:
        work: units of work.
        seconds: by the clock.
        cpu_seconds: of all threads.
        tries: passes that this one took; those before it, which did not do all the work, are not in its time.
        whole: whether it did all the work.
    """

    work: int
    seconds: float
    cpu_seconds: float
    tries: int = 1
    whole: bool = True

    @property
    def per_second(self) -> float:
        """Return work per second by the clock."""
        return self.work / self.seconds

    @property
    def per_cpu_second(self) -> float:
        """Return work per processor second, which other programs disturb less than the clock."""
        return self.work / self.cpu_seconds


def timed_rounds(
    contenders: Mapping[str, Callable[[], Work]],
    work: int,
    repeats: int,
    told: Callable[[str], None] = lambda _: None,
) -> dict[str, list[Pass]]:
    """Run every contender `repeats` times, after a round that warms caches and is not counted.

    Args:
        contenders: what to run, by name.
        work: what each has to do in a pass; one that does less tries again, 10 times at most.
        repeats: rounds; every other one takes the contenders in reverse.
        told: takes a line on each pass.

    Returns:
        The passes of each contender, round by round.
    """
    passes: dict[str, list[Pass]] = {name: [] for name in contenders}
    with only_new_garbage():
        for number in range(repeats + 1):
            names = list(contenders)
            for name in names if number % 2 else reversed(names):
                done = _whole_pass(contenders[name], work)
                lost = f", at try {done.tries}" if done.tries > 1 else ""
                told(f"round {number}: {name}, {done.work:,} in {done.seconds:.2f} s{lost}")
                if number:
                    passes[name].append(done)
    return passes


@contextmanager
def only_new_garbage() -> Iterator[None]:
    """Keep the objects of the imports out of garbage collection, so that each one takes little time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def median_ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median over the rounds of one contender's speed by another's of the same round."""
    return statistics.median(m / t for m, t in zip(mine, theirs, strict=True))


def _whole_pass(make: Callable[[], Work], work: int) -> Pass:
    tries, done = 0, -1
    while done != work and tries < _TRIES:
        gc.collect()  # What the one before has left is not this one's to clean up.
        clock, cpu = time.perf_counter(), time.process_time()
        done = sum(make())
        seconds, cpu_seconds = time.perf_counter() - clock, time.process_time() - cpu
        tries += 1
    return Pass(done, seconds, cpu_seconds, tries, whole=done == work)
