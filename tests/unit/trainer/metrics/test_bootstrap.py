"""The bootstrap: its draws are Poisson and reproducible, its intervals as wide as theory says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.metrics import interval, resample_counts


def test_draws_are_poisson_of_mean_1_and_independent() -> None:
    counts = resample_counts(np.arange(-5_000, 5_000), 50, seed=3)
    assert counts.shape == (10_000, 50)
    shares = np.bincount(counts.astype(int).ravel(), minlength=5)[:5] / counts.size
    expected = [math.exp(-1) / math.factorial(n) for n in range(5)]
    np.testing.assert_allclose(shares, expected, atol=0.003)
    between_resamples = np.corrcoef(counts.T) - np.eye(50)
    assert np.abs(between_resamples).max() < 0.06
    assert abs(np.corrcoef(counts[1:].ravel(), counts[:-1].ravel())[0, 1]) < 0.01


def test_a_unit_is_drawn_alike_wherever_it_is() -> None:
    units = np.array([7, -3, 2**62])
    whole = resample_counts(units, 9, seed=1)
    np.testing.assert_array_equal(resample_counts(units[1:2], 9, seed=1), whole[1:2])
    np.testing.assert_array_equal(resample_counts(units, 6, seed=1), whole[:, :6])
    assert (resample_counts(units, 9, seed=2) != whole).any()


def test_the_interval_of_a_mean_is_as_wide_as_its_standard_error_says() -> None:
    values = np.random.default_rng(0).normal(size=4_000)
    counts = resample_counts(np.arange(4_000), 1_000, seed=0)
    low, high = interval((counts * values[:, None]).sum(axis=0) / counts.sum(axis=0), 0.95)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(4_000), rel=0.1)


def test_resamples_without_a_value_do_not_count() -> None:
    assert interval(np.array([math.nan, 1.0, 1.0]), 0.9) == (1.0, 1.0)
    assert all(math.isnan(end) for end in interval(np.array([math.nan]), 0.9))
