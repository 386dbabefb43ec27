"""What the manifest tells about labels before the first step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.guard.findings import Finding
from trainer.records import TaskLabel
from trainer.schema import Manifest, Split

# Ratio of the odds of two splits, and how many standard errors their logarithms must lie apart.
ODDS_RATIO = 1.5
_ERRORS = 4.0
# Standard deviation of ratings below which they are all the same but for rounding.
_LEAST_STD = 1e-6


@dataclass(frozen=True)
class _Counts:
    """The label of one task in one split.

    Attributes:
        rows: that count for the task.
        mean: of the label.
        constant: whether all these rows have one.
        kept: share of the rows with label 0 that is left; NaN where it is not known of this task.
    """

    rows: int
    mean: float
    constant: bool
    kept: float = 1.0

    @property
    def positives(self) -> float:
        return self.rows * self.mean


def label_findings(
    manifest: Manifest,
    step: int,
    same_labels: bool = True,
    tasks: Sequence[TaskLabel] | None = None,
    only_positives: bool = False,
) -> list[Finding]:
    """Return what is odd about the labels of the training and the validation split.

    Args:
        manifest: of the data set.
        step: steps done.
        same_labels: whether the splits should have the same share of label 1.
        tasks: that are learnt; default all. With several the name of one stands before the split.
        only_positives: whether the model learns from rows with label 1 alone, so that all may have it.
    """
    others = ("test", *manifest.user_row_splits)
    splits = {name: split for name, split in manifest.splits.items() if name not in others and split.rows}
    found = []
    for task in manifest.spec.tasks if tasks is None else tasks:
        counts = {name: _counts(manifest, split, task) for name, split in splits.items()}
        known = {name: one for name, one in counts.items() if one is not None}
        named = task.name if manifest.spec.labels else None
        told = [
            finding
            for name, one in known.items()
            for finding in _constant(one, name, named, step)
            if not (only_positives and one.positives)
        ]
        found += told
        comparable = same_labels and not (task.is_rating or only_positives)
        if comparable and not told and known.keys() >= {"train", "valid"}:
            found += _shift(known["train"], known["valid"], named, step)
    return found


def _counts(manifest: Manifest, split: Split, task: TaskLabel) -> _Counts | None:
    """Return what is known; None where the data set was written without counts of the task."""
    if task == manifest.spec.tasks[0] and not task.is_rating:
        rows, positives = split.labelled, split.positives
        share = positives / rows if rows else 0.0
        return _Counts(rows, share, rows > 0 and positives in (0, rows), split.negatives_kept)
    counted = split.labels.get(task.name)
    if counted is None:
        return None
    constant = counted.rows > 0 and counted.std <= _LEAST_STD * (1 + abs(counted.mean))
    # Rows are dropped by the label of the first task.
    return _Counts(counted.rows, counted.mean, constant, 1.0 if split.negatives_kept == 1 else math.nan)


def _constant(counts: _Counts, split: str, task: str | None, step: int) -> list[Finding]:
    counting = "" if task is None else f" that counts for task {task!r}"
    if not counts.rows and split == "train":
        what = f"no row of split {split!r} counts for task {task!r}"
    elif counts.constant:
        what = f"every row of split {split!r}{counting} has label {counts.mean:g} ({counts.rows:,} rows)"
    else:
        return []
    return [Finding("label_constant", step, what, (_subject(split, task),))]


def _shift(train: _Counts, valid: _Counts, task: str | None, step: int) -> list[Finding]:
    """Compare the odds of label 1, with the negatives that `prepare` has dropped put back."""
    both = (train, valid)
    if not all(counts.rows for counts in both):
        return []
    logs = [math.log(one.positives / (one.rows - one.positives) * one.kept) for one in both]
    error = math.sqrt(sum(1 / one.positives + 1 / (one.rows - one.positives) for one in both))
    apart = abs(logs[1] - logs[0])
    if not apart >= max(math.log(ODDS_RATIO), _ERRORS * error):
        return []
    shares = [1 / (1 + math.exp(-log)) for log in logs]
    of = "" if task is None else f" of task {task!r}"
    what = (
        f"{shares[1]:.3%} of the validation rows{of} have label 1, and {shares[0]:.3%} of the training rows"
    )
    if train.kept != 1 or valid.kept != 1:
        what += ", down-sampled negatives put back"
    return [Finding("label_shift", step, what, (_subject("valid", task),))]


def _subject(split: str, task: str | None) -> str:
    return split if task is None else f"{task}/{split}"
