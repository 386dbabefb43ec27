"""The steps of a run, the learning-rate factor at each, and settings that do not fit them."""

from __future__ import annotations

import math

from trainer.config import ScheduleConfig, TrainConfig

# Where exponential decay stops that has no last factor, for it never gets to 0: e^-5 is below 1 %.
_LEAST_FACTOR = math.exp(-5.0)


def steps_of_run(train: TrainConfig, steps_per_epoch: int) -> int:
    """Return the steps of the whole run, resumed or not, if nothing stops it early.

    Args:
        train: section `train`.
        steps_per_epoch: global batches of an epoch.
    """
    steps = train.epochs * steps_per_epoch
    return min(steps, train.max_steps or steps)


def step_warnings(train: TrainConfig, steps_per_epoch: int) -> list[str]:
    """Return a line for each setting that does not fit the steps of the run; none of them is an error.

    Args:
        train: section `train`.
        steps_per_epoch: global batches of an epoch.
    """
    steps, warmup = steps_of_run(train, steps_per_epoch), train.schedule.warmup_steps
    lines = []
    if warmup >= steps:
        peak = learning_rate_factor(train.schedule, steps - 1, steps)
        lines.append(
            f"train.schedule.warmup_steps is {warmup:,} and the run has {steps:,} steps: it ends while the "
            f"learning rate still rises, at {peak:.0%} of the one configured"
        )
    still = first_step_at_rate_0(train.schedule)
    if still is not None and still < steps:
        lines.append(
            f"the learning rate is 0 from step {still + 1:,} on, and the run has {steps:,} steps: the others "
            f"change nothing; give train.schedule.final_factor, or leave out train.schedule.decay_steps "
            f"({still - warmup:,})"
        )
    # At the end of each epoch where no interval is set, and always after the last step.
    evaluations = math.ceil(steps / (train.evaluate_every_steps or steps_per_epoch))
    stopping = train.early_stopping
    if stopping is not None and stopping.patience >= evaluations:
        lines.append(
            f"train.early_stopping.patience is {stopping.patience:,} and the run evaluates "
            f"{evaluations:,} time{'s' if evaluations != 1 else ''}: it never stops early, early stopping "
            f"only chooses the best checkpoint"
        )
    return lines


def first_step_at_rate_0(schedule: ScheduleConfig) -> int | None:
    """Return how many steps are done when the factor comes to 0 and stays there; None where it never does.

    Without `decay_steps` the way down ends with the run, whose last step is still above 0.
    """
    falls_to_0 = schedule.decay in ("linear", "polynomial", "cosine") and schedule.final_factor == 0
    if not falls_to_0 or schedule.decay_steps is None:
        return None
    return schedule.warmup_steps + schedule.decay_steps


def learning_rate_factor(schedule: ScheduleConfig, step: int, total_steps: int) -> float:
    """Return the factor on every learning rate at a step.

    Args:
        schedule: warm-up and decay.
        step: steps done before this one, from 0.
        total_steps: steps of the whole run; the decay ends there unless `decay_steps` says otherwise.

    Returns:
        `(step + 1) / warmup_steps` while warming up, then 1 falling to `final_factor`.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.decay == "constant":
        return 1.0
    if schedule.decay == "step":
        assert schedule.step_every_steps is not None
        falls = (step - schedule.warmup_steps) // schedule.step_every_steps
        return max(schedule.final_factor, schedule.step_factor**falls)
    span = schedule.decay_steps or max(1, total_steps - schedule.warmup_steps)
    done = min(1.0, (step - schedule.warmup_steps) / span)
    final = schedule.final_factor
    if schedule.decay == "linear":
        return 1.0 + (final - 1.0) * done
    if schedule.decay == "polynomial":
        return float(final + (1.0 - final) * (1.0 - done) ** schedule.power)
    if schedule.decay == "cosine":
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * done))
    return float((final or _LEAST_FACTOR) ** done)
