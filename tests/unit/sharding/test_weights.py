from __future__ import annotations

import math

import pytest
import torch

from sharding.weights import fill_table, uniform_block

SHAPE = (1000, 24)


def splitmix64(value: int) -> int:
    """The published algorithm with Python's unbounded integers."""
    mask = (1 << 64) - 1
    value = value * 0x9E3779B97F4A7C15 & mask
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & mask
    value = (value ^ value >> 27) * 0x94D049BB133111EB & mask
    return value ^ value >> 31


def block(rows: range, columns: range, seed: int = 3, table: str = "user_id") -> torch.Tensor:
    return uniform_block(seed, table, rows, columns, table_shape=SHAPE)


def test_a_block_is_the_same_whatever_block_it_is_made_in() -> None:
    whole = block(range(1000), range(24))
    assert torch.equal(block(range(100, 300), range(24)), whole[100:300])
    assert torch.equal(block(range(999, 1000), range(8, 12)), whole[999:, 8:12])


def test_weights_follow_the_published_hash_of_their_place() -> None:
    whole = block(range(1000), range(24))
    # The first element's place is zero, so its hash gives the table's key back only through the others:
    # two tables with one seed differ, and so do two seeds.
    assert not torch.equal(whole, block(range(1000), range(24), table="item_id"))
    assert not torch.equal(whole, block(range(1000), range(24), seed=4))
    from sharding import weights

    key = weights._key(3, "user_id")
    for row, column in ((0, 0), (17, 5), (999, 23)):
        top = splitmix64((row * 24 + column + key) % (1 << 64)) >> 40
        signed = top - (1 << 24) if top >= 1 << 23 else top
        assert whole[row, column].item() == pytest.approx((signed + 0.5) / (1 << 23) / math.sqrt(1000))


def test_weights_are_uniform_around_zero() -> None:
    values = block(range(1000), range(24)) * math.sqrt(1000)
    assert values.abs().max() < 1
    assert values.mean().abs() < 0.02
    assert values.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.02)
    quarters = torch.histc(values, 4, -1, 1) / values.numel()
    assert torch.allclose(quarters, torch.full((4,), 0.25), atol=0.02)
    neighbours = torch.corrcoef(torch.stack([values[:-1].flatten(), values[1:].flatten()]))[0, 1]
    assert neighbours.abs() < 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_whole_table_is_filled_in_chunks(dtype: torch.dtype) -> None:
    shape = (5000, 16)  # Several chunks of 32768 elements.
    table = torch.empty(shape, dtype=dtype)
    fill_table(table, 3, "t")
    expected = uniform_block(3, "t", range(5000), range(16), table_shape=shape)
    assert torch.equal(table, expected.to(dtype))


def test_the_interval_is_that_of_the_table() -> None:
    shape = (400, 8)
    usual = uniform_block(3, "t", range(400), range(8), table_shape=shape)
    table = torch.empty(shape)
    fill_table(table, 3, "t", weight_init_max=0.5)
    torch.testing.assert_close(table, usual * math.sqrt(400) * 0.5)
