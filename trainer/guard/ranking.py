"""What the places of validation targets tell: whether a model ranks better than a random order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trainer.config.metrics import places_of
from trainer.guard.findings import Finding

CHANCE_RATIO = 1.5
"""Times the hits of a random order that a model has to exceed."""
# Where a random order finds more than this share, a model that has learnt something need not find 1.5 times
# as much; and hits fewer than these are too few to be told from those of a weak model.
_LARGEST_CHANCE, _LEAST_HITS = 0.2, 2.0


def ranking_findings(metrics: Mapping[str, Any], step: int, ranked: int) -> list[Finding]:
    """Return whether targets are found no more often than by chance.

    A random order of M items has each target among the first K with a chance of K / M: that is its recall@K,
    and with one target a row its HR@K. The largest K is taken for which this is at most 0.2.

    Args:
        metrics: of one evaluation: `recall@K` or `hr@K`, and `groups` or `rows`.
        step: steps done.
        ranked: M, a target and what it is ranked among.
    """
    rows = metrics.get("groups", metrics.get("rows", 0))
    for k in reversed(places_of(metrics)):
        chance = k / ranked
        if chance > _LARGEST_CHANCE or rows * chance < _LEAST_HITS:
            continue
        for name in (f"recall@{k}", f"hr@{k}"):
            value = metrics.get(name)
            if value is None or math.isnan(value):
                continue
            if value > CHANCE_RATIO * chance:
                return []
            what = (
                f"{name} is {value:.4f} of {rows:,.0f} validation rows: a random order of {ranked:,} items "
                f"has {chance:.4f}"
            )
            return [Finding("ranking_at_chance", step, what, ("valid",))]
    return []
