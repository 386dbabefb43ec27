"""The logged training loss against that of no model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.guard.findings import Finding
from trainer.guard.prior import Prior

# Logs in a row beyond so many times the loss of scores of 0, or without a prior the lowest loss so far.
_EXPLODED_LOGS, _EXPLODED, _EXPLODED_OVER_LOWEST = 2, 4.0, 10.0
# A run of fewer steps is not judged by its training loss, unless it has fewer to learn in.
_LEAST_STEPS = 50


@dataclass
class _Window:
    """Logged losses and labels, summed over steps."""

    first: int = 0
    steps: int = 0
    loss: float = 0.0
    labels_T: list[float] = field(default_factory=list)

    def add(self, steps: int, loss: float, labels_T: Sequence[float]) -> None:
        self.steps += steps
        self.loss += steps * loss
        before = self.labels_T or [0.0] * len(labels_T)
        self.labels_T = [old + steps * new for old, new in zip(before, labels_T, strict=True)]


class LossWatch:
    """Follows the losses that a run logs, which are the same on all ranks.

    The loss of a window of steps is compared with the least loss of any constant on the very rows of that
    window, so a model that gives every row the same score never passes, however the labels fall.

    Args:
        prior: of the task's loss.
        begin: step at the end of warm-up.
        learning_steps: that a run has from there.
        total_steps: of the run; shorter runs are judged at their end.
        state: what `state` returned before the run was taken up again.
        step: steps done; without a state nothing is known of them.
    """

    def __init__(
        self,
        prior: Prior | None,
        begin: int,
        learning_steps: int,
        total_steps: int,
        state: dict[str, Any] | None = None,
        step: int = 0,
    ) -> None:
        self._prior, self._length = prior, min(learning_steps, max(total_steps - begin, 1))
        self._least = min(learning_steps, _LEAST_STEPS)
        self._begin = begin
        state = state or {}
        self._last = int(state.get("last", step))
        # The first half is what the run needs to find its feet.
        first = _Window(first=max(step, begin + self._length // 2))
        self._window = _Window(**state["window"]) if "window" in state else first
        self._gap = _Window(**state.get("gap", {}))
        self._newest_gap = _Window()
        self._lowest, self._exploded = state.get("lowest"), int(state.get("exploded", 0))

    @property
    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on in the same way."""
        return {
            "last": self._last,
            "window": asdict(self._window),
            "gap": asdict(self._gap),
            "lowest": self._lowest,
            "exploded": self._exploded,
        }

    def logged(self, step: int, loss: float, mean_labels_T: Sequence[float]) -> list[Finding]:
        """Take the mean loss and the mean label of the steps since the last log.

        Args:
            step: steps done.
            loss: finite.
            mean_labels_T: of each task, weighted as the loss is.
        """
        steps, self._last = step - self._last, step
        if not steps:
            return []
        self._gap.add(steps, loss, mean_labels_T)
        found = self._explosion(step, loss, mean_labels_T)
        if step - steps >= self._window.first:
            self._window.add(steps, loss, mean_labels_T)
        judged = step >= self._begin + self._length and self._window.steps
        first = self._window.first < self._begin + self._length
        if judged and (first or self._window.steps >= self._length):
            found += self._above_prior(step, self._window)
            self._window = _Window(first=step)
        return found

    def since_evaluation(self) -> float | None:
        """Return the mean loss of the steps since the last call."""
        gap, self._gap = self._gap, _Window()
        self._newest_gap = gap
        return gap.loss / gap.steps if gap.steps else None

    def ended(self, step: int) -> list[Finding]:
        """Judge a run that ends before its last step, right after an evaluation.

        The window may not have begun, since its place follows from the steps that the run might have had:
        then the steps between the last two evaluations are judged.

        Args:
            step: steps done.
        """
        if self._window.first >= self._begin + self._length:
            return []
        return self._above_prior(step, max(self._window, self._newest_gap, key=lambda window: window.steps))

    def _explosion(self, step: int, loss: float, labels_T: Sequence[float]) -> list[Finding]:
        if self._prior is not None:
            usual, limit, of = self._prior.untrained(labels_T), _EXPLODED, "scores of 0 would have"
        elif self._lowest is not None:
            usual, limit, of = self._lowest, _EXPLODED_OVER_LOWEST, "the lowest so far was"
        else:
            usual, limit, of = math.inf, 1.0, ""
        exploded = loss > limit * usual
        self._lowest = loss if self._lowest is None else min(self._lowest, loss)
        self._exploded = self._exploded + 1 if exploded else 0
        if self._exploded < _EXPLODED_LOGS:
            return []
        what = (
            f"the training loss is {loss:.4g}, the second log in a row over {limit:g} times as high as usual"
        )
        return [Finding("loss_exploding", step, f"{what}: {of} {usual:.4g}")]

    def _above_prior(self, step: int, window: _Window) -> list[Finding]:
        if self._prior is None or step - self._begin < self._least or not window.steps:
            return []
        loss, labels_T = window.loss / window.steps, [label / window.steps for label in window.labels_T]
        constant = self._prior.best_constant(labels_T)
        if not loss >= constant * (1 - self._prior.least_gain):
            return []
        what = (
            f"nothing is learnt: the training loss of steps {step - window.steps + 1:,} to {step:,} is "
            f"{loss:.6g}, and {self._prior.told(labels_T)}"
        )
        return [Finding("loss_above_prior", step, what)]
