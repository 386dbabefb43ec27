"""Whether `recommend` leaves out what rows of users list."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.scoring.asked_rows import user_row_section
from tests.unit.trainer.test_repeated_targets import run_of
from trainer.config import RunConfig


@pytest.mark.parametrize(
    ("user_rows", "recommend", "excluded"),
    [
        ({}, {}, True),
        ({"drop_seen": False}, {}, False),
        ({"drop_seen": False, "hold_out": {}}, {}, True),
        ({"drop_seen": False}, {"exclude_seen": True}, True),
        ({}, {"exclude_seen": False}, False),
    ],
)
def test_recommend_leaves_out_what_evaluation_does_unless_it_is_told(
    user_rows: dict[str, Any], recommend: dict[str, Any], excluded: bool
) -> None:
    run = run_of({}, **user_rows)
    named = run.as_dict() | {"recommend": {"user": "user", "item": "item", **recommend}}
    configs = [RunConfig.from_dict(named), RunConfig.from_dict(RunConfig.from_dict(named).as_dict())]
    for config in configs if recommend else [run, *configs]:
        assert user_row_section(config).exclude_seen is excluded
