"""What the manifest tells about binary labels before the first step."""

from __future__ import annotations

import math

from trainer.guard.findings import Finding
from trainer.schema import Manifest, Split

# Ratio of the odds of two splits, and how many standard errors their logarithms must lie apart.
ODDS_RATIO = 1.5
_ERRORS = 4.0


def label_findings(manifest: Manifest, step: int, same_labels: bool = True) -> list[Finding]:
    """Return what is odd about the labels of the training and the validation split.

    Args:
        manifest: of the data set.
        step: steps done.
        same_labels: whether the splits should have the same share of label 1.
    """
    others = ("test", *manifest.user_row_splits)
    splits = {name: split for name, split in manifest.splits.items() if name not in others and split.rows}
    found = [
        Finding(
            "label_constant",
            step,
            f"every row of split {name!r} has label {int(split.positives > 0)} ({split.rows:,} rows)",
            (name,),
        )
        for name, split in splits.items()
        if split.positives in (0, split.rows)
    ]
    if found or not same_labels or not splits.keys() >= {"train", "valid"}:
        return found
    return _shift(splits["train"], splits["valid"], step)


def _shift(train: Split, valid: Split, step: int) -> list[Finding]:
    """Compare the odds of label 1, with the negatives that `prepare` has dropped put back."""
    logs = [
        math.log(split.positives / (split.rows - split.positives) * split.negatives_kept)
        for split in (train, valid)
    ]
    error = math.sqrt(
        sum(1 / split.positives + 1 / (split.rows - split.positives) for split in (train, valid))
    )
    apart = abs(logs[1] - logs[0])
    if apart < max(math.log(ODDS_RATIO), _ERRORS * error):
        return []
    shares = [1 / (1 + math.exp(-log)) for log in logs]
    what = f"{shares[1]:.3%} of the validation rows have label 1, and {shares[0]:.3%} of the training rows"
    if train.negatives_kept != 1 or valid.negatives_kept != 1:
        what += ", down-sampled negatives put back"
    return [Finding("label_shift", step, what, ("valid",))]
