"""Attention of a target over a history, as in DIN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from trainer.modules.batch_norm import GlobalBatchNorm
from trainer.modules.sequence_pooling import segment_rows, segment_sum

Activation = Literal["dice", "prelu", "relu"]


class Dice(nn.Module):
    """`p(x) x + (1 - p(x)) alpha x` with p the sigmoid of the batch-normalised x, and alpha learned.

    Args:
        num_features: N.

    Source: Zhou et al. 2018, arXiv:1706.06978, equation 10; its epsilon is 1e-8.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.norm = GlobalBatchNorm(num_features, eps=1e-8, affine=False)
        self.alpha_N = nn.Parameter(torch.zeros(num_features))

    def forward(self, x_BN: Tensor) -> Tensor:
        """Return [B, N]."""
        share_BN = self.norm(x_BN).sigmoid()
        y_BN: Tensor = x_BN * (share_BN + (1 - share_BN) * self.alpha_N)
        return y_BN


def activation(name: Activation, num_features: int) -> nn.Module:
    """Build an activation of [B, num_features]."""
    if name == "dice":
        return Dice(num_features)
    return nn.PReLU(num_features) if name == "prelu" else nn.ReLU()


class TargetAttention(nn.Module):
    """Sum of a history's vectors, each weighted by a network that sees it beside the target.

    The weights of a history need not add up to 1: their sum tells how much of it the target has met. The
    network takes `[t, h, t - h, t * h]`. Nothing is padded: its rows are the ids of all histories.

    Args:
        embedding_dim: D.
        layer_sizes: hidden layers of the network.
        kind: its activation.

    Source: Zhou et al. 2018, arXiv:1706.06978, section 4.3, equation 3. Cost: the network, once for each id.
    """

    def __init__(self, embedding_dim: int, layer_sizes: Sequence[int], kind: Activation) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 4 * embedding_dim
        for size in layer_sizes:
            layers += [nn.Linear(before, size), activation(kind, size)]
            before = size
        self.weight = nn.Sequential(*layers, nn.Linear(before, 1))

    def forward(self, history: JaggedTensor, target_BD: Tensor) -> Tensor:
        """Return [B, D], float32; zeros for an empty history.

        Args:
            history: vectors [N, D] of B histories with N ids in all.
            target_BD: vector of each row's target.
        """
        rows_N = segment_rows(history)
        history_ND = history.values().float()
        target_ND = target_BD[rows_N]
        seen_N4 = [target_ND, history_ND, target_ND - history_ND, target_ND * history_ND]
        weights_N1 = self.weight(torch.cat(seen_N4, dim=1)).float()
        return segment_sum(weights_N1 * history_ND, rows_N, history.lengths())
