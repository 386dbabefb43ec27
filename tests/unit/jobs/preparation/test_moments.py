"""Moments that are added up in any order, from any parts, are those of all values."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.preparation.moments import Moments


def test_rounded_moments_do_not_depend_on_how_the_rows_were_divided() -> None:
    values = np.random.default_rng(0).integers(1, 6, 10_000) / 3 + 1e3
    found = set()
    for parts in (1, 2, 7, 100):
        total = Moments()
        for part in np.array_split(np.random.default_rng(parts).permutation(values), parts):
            total.add(Moments.of(part))
        assert total.count == 10_000
        found.add(total.rounded())
    assert len(found) == 1
    mean, std = found.pop()
    assert mean == pytest.approx(values.mean(), abs=1e-6)
    assert std == pytest.approx(values.std(), abs=1e-6)


def test_one_value_alone_is_not_rounded_to_another() -> None:
    total = Moments.of(np.full(3, 1 / 3))
    assert total.rounded() == (1 / 3, 0.0)
