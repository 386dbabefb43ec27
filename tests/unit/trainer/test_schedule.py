"""Steps, the learning-rate factor against numbers worked out by hand, and settings without effect."""

import math

import pytest

from trainer.config import ScheduleConfig, TrainConfig
from trainer.schedule import learning_rate_factor, step_warnings, steps_of_run


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


def test_polynomial_falls_with_its_power() -> None:
    schedule = ScheduleConfig(decay="polynomial", power=3, final_factor=0.1, decay_steps=100)
    assert learning_rate_factor(schedule, 50, 1000) == pytest.approx(0.1 + 0.9 * 0.5**3)
    assert learning_rate_factor(schedule, 100, 1000) == pytest.approx(0.1)


def test_exponential_ends_at_the_factor_that_is_set_and_at_its_least_one_for_0() -> None:
    ends = [
        learning_rate_factor(ScheduleConfig(decay="exponential", final_factor=final), 100, 100)
        for final in (0.001, 0.0)
    ]
    assert ends == pytest.approx([0.001, math.exp(-5)])


def test_steps_fall_by_their_factor_and_not_below_the_last_one() -> None:
    schedule = ScheduleConfig(
        warmup_steps=2, decay="step", step_every_steps=10, step_factor=0.5, final_factor=0.2
    )
    factors = [learning_rate_factor(schedule, step, 100) for step in (2, 11, 12, 21, 22, 32, 99)]
    assert factors == pytest.approx([1, 1, 0.5, 0.5, 0.25, 0.2, 0.2])


@pytest.mark.parametrize("keys", [{"decay": "step"}, {"decay": "cosine", "step_every_steps": 5}])
def test_steps_and_their_distance_belong_together(keys: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="step_every_steps"):
        ScheduleConfig.model_validate(keys)


def test_decay_steps_end_the_decay_early() -> None:
    schedule = ScheduleConfig(decay="linear", decay_steps=10)
    assert learning_rate_factor(schedule, 5, 1000) == pytest.approx(0.5)
    assert learning_rate_factor(schedule, 10, 1000) == 0.0


def settings(**values: object) -> TrainConfig:
    return TrainConfig.model_validate(values)


@pytest.mark.parametrize(("max_steps", "steps"), [(None, 30), (25, 25), (40, 30)])
def test_a_run_ends_after_its_epochs_or_earlier(max_steps: int | None, steps: int) -> None:
    assert steps_of_run(settings(epochs=3, max_steps=max_steps), 10) == steps


@pytest.mark.parametrize(("warmup", "told"), [(29, None), (30, "at 100%"), (60, "at 50%")])
def test_a_warm_up_as_long_as_the_run_is_told(warmup: int, told: str | None) -> None:
    lines = step_warnings(settings(epochs=3, schedule={"warmup_steps": warmup}), 10)
    assert (told is None) == (lines == [])
    if told is not None:
        assert f"warmup_steps is {warmup} and the run has 30 steps" in lines[0]
        assert told in lines[0]


@pytest.mark.parametrize("decay", ["linear", "polynomial", "cosine"])
def test_steps_at_rate_0_are_told_with_their_first(decay: str) -> None:
    def lines(steps: int, **keys: object) -> list[str]:
        schedule = {"warmup_steps": 5, "decay": decay, **keys}
        return step_warnings(settings(epochs=1, schedule=schedule), steps)

    (line,) = lines(21, decay_steps=15)
    assert "the learning rate is 0 from step 21 on, and the run has 21 steps" in line
    schedule = ScheduleConfig(warmup_steps=5, decay=decay, decay_steps=15)  # type: ignore[arg-type]
    assert [learning_rate_factor(schedule, step, 21) > 0 for step in (19, 20)] == [True, False]
    assert lines(20, decay_steps=15) == lines(21) == lines(21, decay_steps=15, final_factor=0.01) == []


@pytest.mark.parametrize(
    ("every", "patience", "evaluations"),
    [(None, 2, None), (None, 3, 3), (7, 4, None), (7, 5, 5), (10, 3, 3), (100, 1, 1)],
)
def test_patience_that_the_evaluations_cannot_exhaust_is_told(
    every: int | None, patience: int, evaluations: int | None
) -> None:
    train = settings(epochs=3, evaluate_every_steps=every, early_stopping={"patience": patience})
    lines = step_warnings(train, 10)
    assert (evaluations is None) == (lines == [])
    if evaluations is not None:
        assert f"patience is {patience} and the run evaluates {evaluations} time" in lines[0]
