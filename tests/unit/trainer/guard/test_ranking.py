"""Places of targets against those of a random order, drawn here."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.guard.ranking import ranking_findings
from trainer.metrics import Ranked
from trainer.metrics.ranking import ranking_metrics

ROWS, ITEMS, TARGETS = 2000, 400, 3


def metrics(gain: float) -> dict[str, float]:
    """Return the metrics of rows whose targets get scores that are higher by a gain."""
    rng = np.random.default_rng(0)
    scores_LN = rng.normal(size=(ROWS, ITEMS))
    scores_LN[:, :TARGETS] += gain
    ranks_LN = (-scores_LN).argsort(axis=1).argsort(axis=1) + 1
    lists = np.repeat(np.arange(ROWS), TARGETS)
    ranked = Ranked.from_ranks(lists, ranks_LN[:, :TARGETS].reshape(-1), np.full(ROWS, TARGETS))
    return {**ranking_metrics(ranked, [5, 10, 200]), "rows": ROWS}


def test_a_random_order_is_told_and_a_better_one_is_not() -> None:
    values = metrics(0.0)
    (found,) = ranking_findings(values, 500, ITEMS)
    assert (found.code, found.subjects) == ("ranking_at_chance", ("valid",))
    # Of the first 200 a random order has every second target: that says little.
    of = f"recall@10 is {values['recall@10']:.4f} of 2,000 validation rows: a random order of 400 items"
    assert found.what == f"{of} has 0.0250"
    assert values["recall@10"] == pytest.approx(10 / ITEMS, rel=0.15)
    assert ranking_findings(metrics(-1.0), 500, ITEMS) != []
    assert ranking_findings(metrics(1.0), 500, ITEMS) == []


def test_hr_of_lists_counts_where_there_is_no_recall() -> None:
    assert ranking_findings({"hr@10": 0.11, "rows": 10_100, "groups": 100}, 500, 100) != []
    assert ranking_findings({"hr@10": 0.16, "rows": 10_100, "groups": 100}, 500, 100) == []


def test_too_few_rows_and_other_metrics_tell_nothing() -> None:
    assert ranking_findings({"recall@10": 0.0, "rows": 199}, 500, 1000) == []
    assert ranking_findings({"recall@10": 0.0, "rows": 200}, 500, 1000) != []
    assert ranking_findings({"recall@10": float("nan"), "rows": 200}, 500, 1000) == []
    assert ranking_findings({"ndcg@10": 0.0, "mrr": 0.0, "rows": 200}, 500, 1000) == []
    assert ranking_findings({}, 500, 1000) == []
