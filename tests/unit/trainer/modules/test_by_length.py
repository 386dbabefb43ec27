from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from trainer.modules.by_length import encoded
from trainer.modules.row_dropout import RowDropout, row_dropouts


class Encoder(nn.Module):
    """Each element's sum of itself and those before it, a further number, dropout, and the row's length."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(3, 5).double(), RowDropout(0.4)
        self.padded: list[int] = []

    def forward(self, x_BLD: Tensor, lengths_B: Tensor, more_BL1: Tensor) -> Tensor:
        self.padded.append(x_BLD.shape[0] * x_BLD.shape[1])
        out_BLX = self.dropout(self.linear(x_BLD).cumsum(1)) * lengths_B[:, None, None]
        return out_BLX + more_BL1


@pytest.mark.parametrize("rows", [1, 15, 16, 40, 101])
def test_rows_in_groups_give_what_each_gives_alone(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    lengths_B = torch.randint(0, 30, (rows,), generator=generator) * (torch.arange(rows) % 5 > 0)
    count = int(lengths_B.sum())
    values_ND = torch.randn(count, 3, generator=generator, dtype=torch.double, requires_grad=True)
    more_N1 = torch.randn(count, 1, generator=generator, dtype=torch.double)
    numbers_B = torch.randperm(1000, generator=generator)[:rows]
    encoder = Encoder()
    (dropout,) = row_dropouts(encoder)
    dropout.rows_B = numbers_B
    torch.manual_seed(3)
    out_NX = encoded(encoder, JaggedTensor(values_ND, lengths=lengths_B), more_N1)
    weights_NX = torch.randn(count, 5, generator=generator, dtype=torch.double)
    gradients = torch.autograd.grad((out_NX * weights_NX).sum(), [values_ND, *encoder.parameters()])

    expected = []
    for row, (values, more) in enumerate(
        zip(values_ND.split(lengths_B.tolist()), more_N1.split(lengths_B.tolist()), strict=True)
    ):
        dropout.rows_B = numbers_B[row : row + 1]
        if len(values):
            expected.append(encoder(values[None], lengths_B[row : row + 1], more[None])[0])
    torch.testing.assert_close(out_NX, torch.cat([*expected, out_NX[:0]]))
    if expected:
        alone = torch.autograd.grad(
            (torch.cat(expected) * weights_NX).sum(), [values_ND, *encoder.parameters()]
        )
        for one, other in zip(gradients, alone, strict=True):
            torch.testing.assert_close(one, other)


def test_long_rows_cost_the_short_ones_no_padding() -> None:
    encoder, lengths_B = Encoder(), torch.tensor([200] * 8 + [2] * 56)
    values_ND = torch.zeros(int(lengths_B.sum()), 3, dtype=torch.double)
    encoded(encoder, JaggedTensor(values_ND, lengths=lengths_B), values_ND[:, :1])
    assert sum(encoder.padded) == int(lengths_B.sum())


def test_a_batch_without_any_element_still_uses_the_weights() -> None:
    encoder, lengths_B = Encoder(), torch.zeros(20, dtype=torch.int64)
    values_ND = torch.zeros(0, 3, dtype=torch.double)
    out_NX = encoded(encoder, JaggedTensor(values_ND, lengths=lengths_B), values_ND[:, :1])
    assert out_NX.shape == (0, 5)
    out_NX.sum().backward()
    assert encoder.linear.weight.grad is not None
