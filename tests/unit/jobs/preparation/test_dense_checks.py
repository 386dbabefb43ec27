"""What is wrong with the values of a dense feature does not depend on the values beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.preparation.dense_checks import dense_findings
from jobs.preparation.planned import PlannedFeature
from trainer.config import OpConfig
from trainer.features.chains import Read
from trainer.features.ops import resolve_ops
from trainer.features.registry import OPS

_VALUES = st.lists(
    st.one_of(
        st.floats(-10, 10), st.floats(allow_nan=True), st.sampled_from([np.nan, np.inf, -np.inf, -1.0, 1e39])
    ),
    max_size=12,
)
_STEPS: list[Any] = [
    {"fill": 0},
    {"fill": -5},
    {"fill": "mean"},
    {"clip": {"min": 0}},
    {"clip": {"max": 7}},
    "log1p",
    "standardise",
    "min_max",
    {"round": 1},
    {"bucketise": [0, 5]},
]


def feature_of(steps: list[Any]) -> PlannedFeature:
    ops = resolve_ops([OpConfig.model_validate(step) for step in steps], "dense", "here")
    return PlannedFeature("x", "dense", "x", ops, False, "x", "here")


def wrong_rows(feature: PlannedFeature, values: list[float]) -> dict[str, list[int]]:
    found = dense_findings(feature, Read(np.array(values, dtype=np.float64)))
    return {key: np.flatnonzero(bad).tolist() for key, bad, _ in found if bad.any()}


@given(st.lists(st.sampled_from(_STEPS), max_size=4), _VALUES)
def test_values_are_judged_together_as_each_alone(steps: list[Any], values: list[float]) -> None:
    feature = feature_of(steps)
    expected: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        for key in wrong_rows(feature, [value]):
            expected.setdefault(key, []).append(row)
    assert wrong_rows(feature, values) == expected


def test_one_bad_value_among_many_is_found() -> None:
    values = [3.0] * 1000
    for bad, key in [(-1.0, "0.refused"), (-np.inf, "0.refused"), (np.inf, "infinite"), (np.nan, "missing")]:
        assert wrong_rows(feature_of(["log1p"]), [*values, bad, *values])[key] == [1000]
    assert wrong_rows(feature_of(["log1p"]), values) == {}
    found = wrong_rows(feature_of([{"fill": -3}, "log1p"]), [*values, np.nan])
    assert found == {"1.refused": [1000], "missing": [1000]}


@pytest.mark.parametrize("name", sorted(name for takes, name in OPS if takes == "number"))
def test_every_op_that_calls_itself_rising_is_tested_here(name: str) -> None:
    tested = {step if isinstance(step, str) else next(iter(step)) for step in _STEPS}
    assert name in tested or not OPS["number", name].rising


@given(st.sampled_from(_STEPS), st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_rising_ops_keep_the_order(step: Any, values: list[float]) -> None:
    (op,) = feature_of([step]).ops
    entry = OPS["number", op.name]
    if not entry.rising or entry.needs_fit(op.params):
        return
    x = np.sort(values)
    taken = x if entry.refuses is None else x[~entry.refuses.of(x)]
    assert (np.diff(entry.function(taken, **op.params)) >= 0).all()
