"""The compressed interaction network of xDeepFM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class CompressedInteraction(nn.Module):
    """Explicit interactions of whole vectors, of an order more with each layer.

    Layer k: `X^k_h = sum_ij W^k_hij (X^(k-1)_i * X^0_j)`, products number by number; the output holds the
    sum over D of each map of each layer.

    Args:
        num_fields: F.
        layer_sizes: H_k, feature maps of each layer.

    Attributes:
        out_features: sum of H_k.

    Source: Lian et al. 2018, arXiv:1803.05170, equations 6 to 8. Cost of a layer:
    B * D * F * H_(k-1) * H_k multiply-adds.
    """

    def __init__(self, num_fields: int, layer_sizes: Sequence[int]) -> None:
        super().__init__()
        before = [num_fields, *layer_sizes[:-1]]
        self.layers = nn.ModuleList(
            nn.Linear(count * num_fields, size, bias=False)
            for count, size in zip(before, layer_sizes, strict=True)
        )
        self.out_features = sum(layer_sizes)

    def forward(self, fields_BFD: Tensor) -> Tensor:
        """Return [B, out_features]."""
        first_BDF = fields_BFD.transpose(1, 2)
        maps_BDM, sums = first_BDF, []
        for layer in self.layers:
            maps_BDM = layer((maps_BDM.unsqueeze(3) * first_BDF.unsqueeze(2)).flatten(2))
            sums.append(maps_BDM.sum(dim=1))
        return torch.cat(sums, dim=1)
