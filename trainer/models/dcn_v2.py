"""DCN-v2."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torchrec.modules.crossnet import CrossNet, LowRankCrossNet

from trainer.batch import Batch
from trainer.modules.arches import OverArch, mlp
from trainer.modules.sparse_arch import SparseArch, SparseModelSection
from trainer.registry import ModelInputs, register_model


class DcnV2Config(SparseModelSection):
    """Config keys of `dcn_v2`."""

    num_cross_layers: int = Field(default=3, ge=1)
    """Cross layers; l of them give feature crosses up to order l + 1."""
    low_rank_dim: int | None = Field(default=None, ge=1)
    """Rank r of each cross layer's matrix (W = U V, N x r and r x N); default: the full N x N matrix."""
    structure: Literal["stacked", "parallel"] = "stacked"
    """`stacked`: deep layers on top of the cross layers; `parallel`: both on the inputs, then joined."""
    deep_layer_sizes: list[PositiveInt] = Field(default=[128, 64])
    """Layers of the deep network; an empty list leaves the cross network alone."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the deep network's hidden units dropped in training."""


@register_model("dcn_v2", config=DcnV2Config, task="ctr", source="Wang et al. 2021, arXiv:2008.13535")
class DCNv2(nn.Module):
    """Explicit crosses of all inputs, bit by bit, stacked with or parallel to a deep network.

    The input x_0 [B, N] holds the feature vectors, each as wide as its table, and the dense features as they
    are. Each cross layer is `x_(l+1) = x_0 * (W_l x_l + b_l) + x_l`, by TorchRec's CrossNet or
    LowRankCrossNet.

    Args:
        inputs: features and tables.
        config: the model's config section.

    Source: Wang et al. 2021, arXiv:2008.13535, sections 3.2 (cross network), 3.4 (stacked and parallel) and
    3.5 (low rank; one expert). Cost of a cross layer: B * N^2 multiply-adds, or 2 * B * N * r.
    """

    def __init__(self, inputs: ModelInputs, config: DcnV2Config) -> None:
        super().__init__()
        self.sparse_arch = SparseArch(inputs, config.sequence_pooling)
        width = sum(self.sparse_arch.out_dims) + inputs.num_dense
        self.cross_net: nn.Module = (
            CrossNet(width, config.num_cross_layers)
            if config.low_rank_dim is None
            else LowRankCrossNet(width, config.num_cross_layers, config.low_rank_dim)
        )
        self.parallel = config.structure == "parallel" and bool(config.deep_layer_sizes)
        self.deep = mlp(width, config.deep_layer_sizes, config.dropout)
        deep_width = config.deep_layer_sizes[-1] if config.deep_layer_sizes else width
        self.over_arch = OverArch(deep_width + width if self.parallel else deep_width, [])

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, 1], float32."""
        inputs_BN = torch.cat([self.sparse_arch(batch.sparse), batch.dense_BF], dim=1)
        crossed_BN = self.cross_net(inputs_BN)
        if self.parallel:
            top_BN = torch.cat([crossed_BN, self.deep(inputs_BN)], dim=1)
        else:
            top_BN = self.deep(crossed_BN)
        logits_BT: Tensor = self.over_arch(top_BN)
        return logits_BT
