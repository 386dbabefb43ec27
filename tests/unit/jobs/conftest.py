"""What several tests of the command line need."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture
def python_handles_sigint() -> Iterator[None]:
    """Put Python's own handler in place: a Spark session of another test leaves its handler behind."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
