from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trainer.modules.row_dropout import RowDropout, of_rows, row_dropouts, row_numbers


def mask(
    rows: Tensor | None, shape: tuple[int, ...], *, seed: int = 5, layer: int = 0, p: float = 0.3
) -> Tensor:
    torch.manual_seed(seed)
    dropout = RowDropout(p)
    dropout.layer, dropout.rows_B = layer, rows
    return dropout(torch.ones(shape)) > 0


def test_the_mask_of_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    rows = torch.tensor([7, 3, 100, 12, 0, 55])
    whole = mask(rows, (6, 4, 8))
    order = torch.tensor([5, 0, 3])
    assert torch.equal(mask(rows[order], (3, 4, 8)), whole[order])


def test_the_share_dropped_is_p_in_rows_units_and_steps() -> None:
    for p in (0.1, 0.5, 0.9):
        kept = mask(torch.arange(4000), (4000, 64), p=p).double()
        # 256,000 draws: the standard deviation of the share is below 0.001.
        assert kept.mean() == pytest.approx(1 - p, abs=0.005)
        assert kept.mean(0).sub(1 - p).abs().max() < 0.04
        assert kept.mean(1).std() == pytest.approx((p * (1 - p) / 64) ** 0.5, rel=0.1)
    first, next_step = mask(torch.arange(500), (500, 64)), mask(torch.arange(500), (500, 64), seed=6)
    other_layer = mask(torch.arange(500), (500, 64), layer=1)
    for other in (next_step, other_layer):
        # Independent masks of share 0.7 agree on 0.7^2 + 0.3^2 = 0.58.
        assert (first == other).double().mean() == pytest.approx(0.58, abs=0.02)


def test_outputs_and_gradients_are_scaled_by_what_is_kept() -> None:
    dropout, x = RowDropout(0.75), torch.ones(1000, 20, requires_grad=True)
    y = dropout(x)
    assert set(y.detach().unique().tolist()) == {0.0, 4.0}
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_rows_without_a_number_get_masks_of_their_own() -> None:
    kept = mask(row_numbers(torch.tensor([-1, -1, -1, 4])), (4, 256))
    assert len({tuple(row.tolist()) for row in kept}) == 4


def test_a_row_of_one_step_has_not_the_mask_of_the_next_row_of_the_last_one() -> None:
    first, second = mask(torch.arange(50), (50, 64)), mask(torch.arange(50), (50, 64), seed=6)
    assert (first[1:] == second[:-1]).double().mean() == pytest.approx(0.58, abs=0.03)


@pytest.mark.parametrize("rows", [None, torch.tensor([7, 3, 100, 12])])
def test_some_rows_of_a_batch_keep_their_masks(rows: Tensor | None) -> None:
    whole, dropout = mask(rows, (4, 30)), RowDropout(0.3)
    dropout.rows_B = rows
    with of_rows(dropout, torch.tensor([2, 0])):
        some = dropout(torch.ones(2, 30)) > 0
    assert torch.equal(some, whole[[2, 0]])
    assert torch.equal(dropout(torch.ones(4, 30)) > 0, whole)


def test_nothing_is_dropped_in_evaluation_and_without_rows() -> None:
    dropout, x = RowDropout(0.5), torch.randn(3, 4)
    assert torch.equal(dropout.eval()(x), x)
    assert RowDropout(0.5)(torch.zeros(0, 4)).shape == (0, 4)


def test_each_dropout_of_a_model_is_a_layer_of_its_own() -> None:
    model = nn.Sequential(RowDropout(0.5), nn.ReLU(), nn.Sequential(RowDropout(0.5)))
    assert [dropout.layer for dropout in row_dropouts(model)] == [0, 1]
