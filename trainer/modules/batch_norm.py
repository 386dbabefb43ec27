"""Batch normalisation over the rows of all ranks, so that a step is the same at every world size."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class GlobalBatchNorm(nn.Module):
    """Batch normalisation of [B, N] by mean and variance of the global batch.

    `nn.BatchNorm1d` sees the rows of its own rank only and `nn.SyncBatchNorm` is for GPUs. Ranks may have
    different numbers of rows, as with the ids of lists; padding rows count as the others do.

    Args:
        num_features: N.
        eps: added to the variance.
        momentum: share of a batch in the running statistics, which evaluation uses.
        affine: whether scale and shift are learned.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2.
    """

    mean_N: Tensor
    variance_N: Tensor

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.affine = affine
        if affine:
            self.scale_N = nn.Parameter(torch.ones(num_features))
            self.shift_N = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("mean_N", torch.zeros(num_features))
        self.register_buffer("variance_N", torch.ones(num_features))

    def forward(self, x_BN: Tensor) -> Tensor:
        """Return [B, N], float32."""
        x_BN = x_BN.float()
        mean_N, variance_N = self._statistics(x_BN) if self.training else (self.mean_N, self.variance_N)
        y_BN = (x_BN - mean_N) * torch.rsqrt(variance_N + self.eps)
        return y_BN * self.scale_N + self.shift_N if self.affine else y_BN

    def _statistics(self, x_BN: Tensor) -> tuple[Tensor, Tensor]:
        count_1 = _sum_over_ranks(x_BN.new_tensor([float(x_BN.shape[0])])).clamp(min=1.0)
        mean_N = _sum_over_ranks(x_BN.sum(dim=0)) / count_1
        # In a second pass: the difference of two sums of squares would lose all digits of a small variance.
        variance_N = _sum_over_ranks((x_BN - mean_N).square().sum(dim=0)) / count_1
        with torch.no_grad():
            unbiased_N = variance_N * count_1 / (count_1 - 1).clamp(min=1.0)
            self.mean_N.lerp_(mean_N, self.momentum)
            self.variance_N.lerp_(unbiased_N, self.momentum)
        return mean_N, variance_N


def _sum_over_ranks(sum_N: Tensor) -> Tensor:
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return sum_N
    total_N: Tensor = all_reduce(sum_N)  # type: ignore[no-untyped-call]
    return total_N
