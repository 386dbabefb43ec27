"""Ops on numbers against numpy, pandas and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from trainer.config import OpConfig
from trainer.features.ops import resolve_ops
from trainer.features.registry import OPS, Statistics
from trainer.features.values import Floats

finite = st.floats(-1e6, 1e6).map(lambda x: round(x, 3))
some = st.lists(finite, min_size=1, max_size=30)
with_gaps = st.lists(st.one_of(finite, st.just(np.nan)), max_size=30)


def statistics(train: Floats) -> Statistics:
    there = np.sort(train[~np.isnan(train)])
    if len(there) == 0:
        return Statistics(0.0, 0.0, 0.0, 0.0, there)
    return Statistics(there.mean(), there.std(), there.min(), there.max(), there)


def apply(op: Any, x: Any, train: Any = None) -> Floats:
    """Fit one op on training values, by default its input, and apply it."""
    x = np.array(x, dtype=np.float64)
    (resolved,) = resolve_ops([OpConfig.model_validate(op)], "dense", "here")
    entry, params = OPS["number", resolved.name], resolved.params
    if entry.needs_fit(params):
        params = entry.fitted(params, statistics(x if train is None else np.array(train, dtype=np.float64)))
        assert not entry.needs_fit(params)
    made: Floats = entry.function(x, **params)
    assert made.dtype == np.float64
    return made


@given(with_gaps)
def test_fill(rows: list[float]) -> None:
    series = pd.Series(rows, dtype=float)
    np.testing.assert_array_equal(apply({"fill": -1}, rows), series.fillna(-1))
    empty = series.isna().all()
    np.testing.assert_allclose(apply({"fill": "mean"}, rows), series.fillna(0 if empty else series.mean()))
    np.testing.assert_allclose(
        apply({"fill": "median"}, rows), series.fillna(0 if empty else series.median())
    )
    np.testing.assert_array_equal(
        apply({"fill": "mode"}, rows), series.fillna(0 if empty else series.mode()[0])
    )


@given(with_gaps, st.tuples(finite, finite).filter(lambda both: both[0] < both[1]))
def test_clip(rows: list[float], bounds: tuple[float, float]) -> None:
    low, high = bounds
    series = pd.Series(rows, dtype=float)
    np.testing.assert_array_equal(apply({"clip": {"min": low, "max": high}}, rows), series.clip(low, high))
    np.testing.assert_array_equal(apply({"clip": {"min": low}}, rows), series.clip(low))
    np.testing.assert_array_equal(apply({"clip": {"max": high}}, rows), series.clip(None, high))


def test_log1p_refuses_what_has_no_logarithm() -> None:
    np.testing.assert_array_equal(apply("log1p", [0, 1, np.nan, -0.5]), np.log1p([0, 1, np.nan, -0.5]))
    refuses = OPS["number", "log1p"].refuses
    assert refuses is not None
    assert refuses.of(np.array([-1.0, -2.0, -0.999, np.nan, 0.0])).tolist() == [
        True,
        True,
        False,
        False,
        False,
    ]


@given(some, some)
def test_standardise_and_min_max_scale_as_scikit_learn_does(train: list[float], rows: list[float]) -> None:
    column, others = np.array(train)[:, None], np.array(rows)[:, None]
    for op, scaler in (("standardise", StandardScaler()), ("min_max", MinMaxScaler())):
        expected = scaler.fit(column).transform(others)[:, 0]
        np.testing.assert_allclose(apply(op, rows, train), expected, rtol=1e-6, atol=1e-6)


def test_scaled_columns_of_one_value_become_zero() -> None:
    for op in ("standardise", "min_max"):
        np.testing.assert_array_equal(apply(op, [7.5, np.nan, 7.5]), [0, np.nan, 0])
        np.testing.assert_array_equal(apply(op, [np.nan, np.nan]), [np.nan, np.nan])


@given(with_gaps, st.integers(-3, 3))
def test_round(rows: list[float], digits: int) -> None:
    made = apply({"round": digits}, rows)
    np.testing.assert_array_equal(made, pd.Series(rows, dtype=float).round(digits))
    assert not np.signbit(made[made == 0]).any()


@given(with_gaps, st.lists(finite, min_size=1, max_size=6, unique=True).map(sorted))
def test_buckets_of_given_edges_are_open_on_the_right(rows: list[float], edges: list[float]) -> None:
    intervals = pd.IntervalIndex.from_breaks([-np.inf, *edges, np.inf], closed="left")
    expected = [np.nan if np.isnan(x) else intervals.get_loc(x) + 1 for x in rows]
    np.testing.assert_array_equal(apply({"bucketise": edges}, rows), expected)
    np.testing.assert_array_equal(apply({"bucketise": edges}, edges), np.arange(len(edges)) + 2)


@given(some, st.integers(2, 12))
def test_quantile_buckets_are_filled_and_rise_with_the_value(train: list[float], quantiles: int) -> None:
    made = apply({"bucketise": {"quantiles": quantiles}}, train)
    assert made.min() == 1
    assert made.max() <= quantiles
    assert apply({"bucketise": {"quantiles": quantiles}}, [1e9, -1e9], train).tolist() == [made.max(), 1]
    order = np.argsort(train)
    assert (np.diff(made[order]) >= 0).all()


def test_quantile_buckets_have_equal_size_and_merge_equal_edges() -> None:
    random = np.random.default_rng(0)
    train = random.lognormal(size=1000)
    made = apply({"bucketise": {"quantiles": 8}}, train)
    assert np.bincount(made.astype(int)).tolist() == [0, *[125] * 8]
    expected = pd.qcut(train, 8, labels=False) + 1  # closed on the right, but no value is an edge
    np.testing.assert_array_equal(made, expected)
    mostly_zero = np.where(np.arange(1000) < 700, 0, train)
    assert apply({"bucketise": {"quantiles": 4}}, mostly_zero).max() == 2
    assert apply({"bucketise": {"quantiles": 4}}, [5.0], [np.nan]).tolist() == [1]
