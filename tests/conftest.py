"""The smallest run and its data set, for tests in any folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from jobs import Dataset, RunConfig
from tests.support.tiny import CONFIG, tiny_data

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("untimed", deadline=None, max_examples=50)
settings.load_profile("untimed")


@pytest.fixture
def run() -> RunConfig:
    """A run of 12 steps."""
    return RunConfig.from_dict(CONFIG)


@pytest.fixture
def data(tmp_path: Path, run: RunConfig) -> Dataset:
    """Its data set: 1,000 training rows, 200 of each other split."""
    return tiny_data(tmp_path / "data", run)
