"""Factors from MLlib: what a history gives anew is what ALS found for the user itself."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import SparkSession

from jobs import als_factors
from jobs.als_factors import als_item_factors, fitted_als
from trainer.baselines.fitted import Factors
from trainer.baselines.histories import Histories, histories_of
from trainer.baselines.sections import AlsSection

USERS, ITEMS = 60, 30
SECTION = AlsSection(rank=5, iterations=4, regularisation=0.1, alpha=8.0)


def _histories(values: np.ndarray) -> Histories:
    users, items = np.nonzero(values)
    return histories_of([(users, items, values[users, items])], *values.shape)


def _events(implicit: bool) -> np.ndarray:
    """Return users by items: tastes of two kinds, item 29 in no event; ratings of 1 to 5 or ones."""
    rng = np.random.default_rng(0)
    liked = np.arange(USERS)[:, None] % 2 == np.arange(ITEMS) % 2
    met = rng.random((USERS, ITEMS)) < np.where(liked, 0.5, 0.15)
    met[:, -1] = False
    ratings = np.where(liked, 5.0, 2.0) - rng.integers(0, 2, (USERS, ITEMS))
    return np.where(met, 1.0 if implicit else ratings, 0.0)


@pytest.mark.parametrize("implicit", [True, False])
def test_a_users_history_gives_the_factors_that_als_found(spark: SparkSession, implicit: bool) -> None:
    values = _events(implicit)
    histories = _histories(values)
    theirs = np.zeros((USERS, 5))
    with fitted_als(histories, SECTION, implicit=implicit, seed=3, spark=spark) as model:
        for user, factors in model.userFactors.collect():
            theirs[user] = factors
    items = als_item_factors(histories, SECTION, implicit=implicit, seed=3, spark=spark)
    assert not items[-1].any()
    baseline = Factors(items, 0.1, SECTION.alpha if implicit else None, unknown=0.0)
    # The two fits are the same, seed for seed.
    assert baseline.users(histories) == pytest.approx(theirs, abs=1e-3)

    # Users like items of their own parity, which training tells.
    scores = baseline.of_all(histories)
    unseen = (values == 0) & (np.arange(ITEMS) < ITEMS - 1)
    liked = np.arange(USERS)[:, None] % 2 == np.arange(ITEMS) % 2
    assert scores[unseen & liked].mean() > scores[unseen & ~liked].mean() + (0.05 if implicit else 1.0)


def test_many_iterations_do_not_overflow_and_other_executors_get_the_same_events(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories = _histories(_events(True))
    section = AlsSection(rank=2, iterations=20, regularisation=0.1)
    found = als_item_factors(histories, section, implicit=True, seed=3, spark=spark)
    assert np.isfinite(found).all()

    items = als_item_factors(histories, SECTION, implicit=True, seed=3, spark=spark)
    monkeypatch.setattr(als_factors, "is_local", lambda _: False)
    sent = als_item_factors(histories, SECTION, implicit=True, seed=3, spark=spark)
    # Rows come in other partitions, and so in another order of sums.
    assert sent == pytest.approx(items, abs=1e-3)
