"""Learning-rate factor by step."""

from __future__ import annotations

import math

from trainer.config import ScheduleConfig

# The share of the way down at which exponential decay towards zero stops: e^-5 is below 1 %.
_LEAST_FACTOR = math.exp(-5.0)


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
    span = schedule.decay_steps or max(1, total_steps - schedule.warmup_steps)
    done = min(1.0, (step - schedule.warmup_steps) / span)
    final = schedule.final_factor
    if schedule.decay == "linear":
        return 1.0 + (final - 1.0) * done
    if schedule.decay == "cosine":
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * done))
    return float(max(final, _LEAST_FACTOR) ** done)
