"""Ids follow the power law that the docstring states, and hashes are what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.synthesis.draws import BLOCK_ROWS, effects, power_law_ranks, salt, scrambled, signs, uniforms


def share_up_to(rank: int, cardinality: int, alpha: float) -> float:
    """Return the probability of a rank up to this one, by integrating x^-alpha."""
    steps = np.geomspace(1.0, cardinality + 1.0, 200_001)
    weight = np.concatenate([[0.0], np.cumsum(np.diff(steps) * ((steps[1:] + steps[:-1]) / 2) ** -alpha)])
    return float(np.interp(rank + 1.0, steps, weight) / weight[-1])


def lowbias32(value: int, key: int) -> int:
    """The hash in plain integers."""
    x = value ^ key
    x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
    x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
    return x ^ (x >> 16)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.05, 2.0])
@pytest.mark.parametrize("cardinality", [3, 1_000_000])
def test_top_ranks_have_the_share_of_a_power_law(alpha: float, cardinality: int) -> None:
    blocks = [uniforms(7, "C1", block) for block in range(20)]
    ranks = power_law_ranks(np.concatenate(blocks), cardinality, alpha)
    assert ranks.min() >= 1
    assert ranks.max() <= cardinality
    for top in (1, 2, 100, 10_000):
        expected = share_up_to(min(top, cardinality), cardinality, alpha)
        deviation = np.sqrt(max(expected * (1 - expected), 1e-9) / len(ranks))
        assert abs(np.mean(ranks <= top) - expected) < 5 * deviation + 1e-6, top


def test_blocks_and_columns_and_seeds_draw_different_numbers() -> None:
    drawn = [uniforms(1, "C1", 0), uniforms(1, "C1", 1), uniforms(1, "C2", 0), uniforms(2, "C1", 0)]
    for number, one in enumerate(drawn):
        assert len(one) == BLOCK_ROWS
        for other in drawn[number + 1 :]:
            assert len(np.intersect1d(one, other)) == 0
            assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(BLOCK_ROWS)
    assert np.array_equal(uniforms(1, "C1", 0, 10), drawn[0][:10])


def test_scrambling_is_the_published_hash_and_keeps_values_apart() -> None:
    values = np.arange(1, 300_001, dtype=np.uint32)
    hidden = scrambled(values, 0xDEADBEEF)
    assert len(np.unique(hidden)) == len(values)
    assert [int(x) for x in hidden[:50]] == [lowbias32(int(v), 0xDEADBEEF) for v in values[:50]]


def test_effects_have_mean_0_and_variance_1_and_signs_are_fair() -> None:
    ids = np.arange(1_000_000, dtype=np.uint32)
    key = salt(1, "C1", "effect")
    assert abs(effects(ids, key).mean()) < 0.005
    assert effects(ids, key).var() == pytest.approx(1.0, abs=0.005)
    assert set(np.unique(signs(ids, key))) == {-1.0, 1.0}
    assert abs(signs(ids, key).mean()) < 0.005
