"""Silence what TorchRec logs about other people's use of it, for the length of one call."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_torchrec() -> Iterator[None]:
    """Hide TorchRec's log lines and warnings inside the block; its errors are exceptions, so none is lost."""
    root, handler = logging.getLogger(), logging.NullHandler()
    torchrec, alone = logging.getLogger("torchrec"), _loggers_alone()
    level, disabled = torchrec.level, [logger.disabled for logger in alone]
    torchrec.setLevel(logging.CRITICAL)
    # A level goes through all loggers of the process; no others lie below these that it would reach.
    for logger in alone:
        logger.disabled = True
    # TorchRec calls `logging.warning` too, which would set up the root logger where nobody has yet.
    root.addHandler(handler)
    root.addFilter(_is_not_planner_noise)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(_is_not_planner_noise)
        root.removeHandler(handler)
        torchrec.setLevel(level)
        for logger, was in zip(alone, disabled, strict=True):
            logger.disabled = was


def _loggers_alone() -> list[logging.Logger]:
    """Return loggers outside those of TorchRec's modules."""
    # Such as `MethodLogger-NullHandler`.
    own = [name for name in logging.root.manager.loggerDict if name.endswith("Logger-NullHandler")]
    # Its collections ask torch.fx whether it traces them, which warns of its own future.
    return [logging.getLogger(name) for name in ("torch.fx._symbolic_trace", *own)]


def _is_not_planner_noise(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Sharding spec not found")
