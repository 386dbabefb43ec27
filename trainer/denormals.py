"""Numbers too small for a float's full precision, which a CPU computes with many times slower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Take denormal numbers for 0 in this thread, and in those that torch starts from it meanwhile.

    Afterwards this thread does as before. A thread of torch's pool keeps what it began with: where torch has
    computed in the process before, the pool's others go on with denormals, and those that begin inside flush
    until the process ends.

    Adam's moments of weights that get no gradient any more, such as those of dead units, shrink to such
    numbers and stay there. A CPU that cannot flush them goes on with them.
    """
    for kind in (np.float16, np.float32, np.float64):
        np.finfo(kind)  # numpy looks at the smallest number once, and warns if it is taken for 0
    before = _flushes()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _flushes() -> bool:
    smallest_normal = torch.tensor([torch.finfo(torch.float32).tiny])
    return (smallest_normal / 2).item() == 0.0
