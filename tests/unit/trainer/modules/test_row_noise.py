"""Numbers that follow the row: uniform or normal, each step its own."""

from __future__ import annotations

import torch

from trainer.modules.row_noise import row_normal, row_uniform

ROWS = torch.arange(2_000)


def test_numbers_follow_the_row_wherever_it_stands() -> None:
    torch.manual_seed(3)
    whole, order = row_uniform(ROWS, 4, 1), torch.randperm(len(ROWS))
    torch.manual_seed(3)
    assert torch.equal(row_uniform(ROWS[order], 4, 1), whole[order])


def test_moments_are_those_of_the_distributions() -> None:
    torch.manual_seed(3)
    uniform, normal = row_uniform(ROWS, 50, 1), row_normal(ROWS, 50, 1).double()
    # Five standard deviations of the means of 100,000 numbers.
    assert abs(uniform.mean() - 0.5) < 5 * (1 / 12 / 1e5) ** 0.5
    assert abs(normal.mean()) < 5 * (1 / 1e5) ** 0.5
    assert abs(normal.var() - 1) < 5 * (2 / 1e5) ** 0.5
    assert uniform.min() >= 0
    assert uniform.max() < 1


def test_no_step_draws_the_numbers_of_the_last_one_for_other_rows() -> None:
    found = []
    for step in range(3):
        torch.manual_seed(step)
        found.append(set(row_uniform(ROWS, 1, 1).flatten().tolist()))
    torch.manual_seed(0)
    found.append(set(row_uniform(ROWS, 1, 2).flatten().tolist()))
    assert len(set().union(*found)) == 4 * len(ROWS)
