"""Logarithms against those of torch."""

from __future__ import annotations

import torch

from sharding.exact_log import log2


def test_logarithms_are_right_to_the_last_digits() -> None:
    numbers = [
        torch.arange(1, 3000),
        torch.arange(2**16 - 9, 2**16 + 9),
        torch.tensor([2**40 + 1, 2**52 + 1]),
    ]
    found = torch.cat(numbers)
    assert torch.allclose(log2(found), torch.log2(found.double()), rtol=1e-15, atol=4e-15)
    assert torch.equal(log2(found), torch.cat([log2(number[None]) for number in found]))
