"""Settings of notebooks that are wrong are told as every other mistake is."""

from __future__ import annotations

import pytest

from jobs.notebooks import config_of, ranks_of, settings
from trainer.errors import ConfigError, UserError


def test_a_variable_wins_over_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDREC_RAW", "/mnt/raw")
    assert settings({}, raw="data", out="prepared") == {"raw": "/mnt/raw", "out": "prepared"}


def test_a_config_is_a_path_or_an_installed_name_with_overrides() -> None:
    run = config_of({"config": "tiny_local", "overrides": "train.max_steps=3\nseed=7"})
    assert (run.train.max_steps, run.seed) == (3, 7)
    with pytest.raises(ConfigError, match="tiny_lokal"):
        config_of({"config": "tiny_lokal", "overrides": ""})


@pytest.mark.parametrize(
    ("on", "ranks", "said"),
    [
        ("process", "2", "one process is one rank"),
        ("local", "two", "whole number"),
        ("gpu", "1", "no such place"),
    ],
)
def test_ranks_that_cannot_be_are_refused(on: str, ranks: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        ranks_of({}, on=on, ranks=ranks)


def test_ranks_without_a_number_are_one_on_this_host() -> None:
    assert ranks_of({}, on="process", ranks="").world_size == 1
    assert ranks_of({}, on="local", ranks="2").world_size == 2
