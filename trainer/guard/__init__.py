"""The training guard: tells early, with numbers and likely causes, that a run does not learn."""

from trainer.guard.findings import KINDS, Finding
from trainer.guard.watch import Guard

__all__ = ["KINDS", "Finding", "Guard"]
