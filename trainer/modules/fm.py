"""The second-order term of a factorization machine."""

from __future__ import annotations

from torch import Tensor


def fm_pairs(fields_BFD: Tensor) -> Tensor:
    """Return the sum of the dot products of all pairs of fields, [B, 1].

    TorchRec's FactorizationMachine adds up all products of single numbers, also those of different
    dimensions, which is another function.

    Args:
        fields_BFD: v_i x_i, [B, F, D].

    Source: Rendle 2010, Factorization Machines, lemma 3.1:
    1/2 sum_d ((sum_i v_id x_i)^2 - sum_i (v_id x_i)^2). Cost: B * F * D.
    """
    square_of_sum_BD = fields_BFD.sum(dim=1).square()
    sum_of_squares_BD = fields_BFD.square().sum(dim=1)
    return 0.5 * (square_of_sum_BD - sum_of_squares_BD).sum(dim=1, keepdim=True)
