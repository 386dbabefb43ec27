"""The learning-rate factor against numbers worked out by hand."""

import math

import pytest

from trainer.config import ScheduleConfig
from trainer.schedule import learning_rate_factor


def test_warm_up_rises_linearly_to_one() -> None:
    schedule = ScheduleConfig(warmup_steps=4)
    assert [learning_rate_factor(schedule, step, 100) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


@pytest.mark.parametrize(
    ("decay", "middle", "end"),
    [
        ("constant", 1.0, 1.0),
        ("linear", 0.6, 0.2),
        ("cosine", 0.2 + 0.8 * 0.5, 0.2),
        ("exponential", math.sqrt(0.2), 0.2),
    ],
)
def test_decay_reaches_the_final_factor_at_the_end(decay: str, middle: float, end: float) -> None:
    schedule = ScheduleConfig(warmup_steps=10, decay=decay, final_factor=0.2)  # type: ignore[arg-type]
    assert learning_rate_factor(schedule, 10, 110) == pytest.approx(1.0)
    assert learning_rate_factor(schedule, 60, 110) == pytest.approx(middle)
    assert learning_rate_factor(schedule, 110, 110) == pytest.approx(end)
    assert learning_rate_factor(schedule, 500, 110) == pytest.approx(end)


def test_decay_steps_end_the_decay_early() -> None:
    schedule = ScheduleConfig(decay="linear", decay_steps=10)
    assert learning_rate_factor(schedule, 5, 1000) == pytest.approx(0.5)
    assert learning_rate_factor(schedule, 10, 1000) == 0.0
