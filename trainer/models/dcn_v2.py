"""DCN-v2."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torchrec.modules.crossnet import CrossNet, LowRankCrossNet, LowRankMixtureCrossNet

from trainer.batch import Batch
from trainer.errors import ConfigError
from trainer.modules.arches import OverArch, mlp
from trainer.modules.sparse_arch import SparseArch, SparseModelSection
from trainer.registry import ModelInputs, register_model


class DcnV2Config(SparseModelSection):
    """Config keys of `dcn_v2`."""

    num_cross_layers: int = Field(default=3, ge=1)
    """Cross layers; l of them give feature crosses up to order l + 1."""
    low_rank_dim: int | None = Field(default=None, ge=1)
    """Rank r of each cross layer's matrix (W = U V, N x r and r x N); default: the full N x N matrix."""
    num_experts: int = Field(default=1, ge=1)
    """Low-rank matrices of each cross layer, mixed by a gate over its input; more than 1 needs
    `low_rank_dim`."""
    structure: Literal["stacked", "parallel"] = "stacked"
    """`stacked`: deep layers on top of the cross layers; `parallel`: both on the inputs, then joined."""
    deep_layer_sizes: list[PositiveInt] = Field(default=[128, 64])
    """Layers of the deep network; an empty list leaves the cross network alone."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the deep network's hidden units dropped in training."""

    @model_validator(mode="after")
    def _experts_of_low_rank(self) -> DcnV2Config:
        if self.num_experts > 1 and self.low_rank_dim is None:
            raise ConfigError(
                "a mixture of experts needs matrices of low rank",
                where="model.num_experts",
                got=self.num_experts,
                fixes=["set model.low_rank_dim: 32", "leave out `num_experts`"],
            )
        return self

    def cross_net(self, width: int) -> nn.Module:
        """Build the cross network over `width` numbers."""
        layers, rank, experts = self.num_cross_layers, self.low_rank_dim, self.num_experts
        net: nn.Module
        if rank is None:
            net = CrossNet(width, layers)
        elif experts == 1:
            net = LowRankCrossNet(width, layers, rank)
        else:
            net = LowRankMixtureCrossNet(width, layers, experts, rank, activation=torch.tanh)
        return net


@register_model(
    "dcn_v2", config=DcnV2Config, task="ctr", source="Wang et al. 2021, arXiv:2008.13535", several_tasks=True
)
class DCNv2(nn.Module):
    """Explicit crosses of all inputs, bit by bit, stacked with or parallel to a deep network.

    The input x_0 [B, N] holds the feature vectors, each as wide as its table, and the dense features as they
    are. Each cross layer is `x_(l+1) = x_0 * (W_l x_l + b_l) + x_l`, by TorchRec's CrossNet,
    LowRankCrossNet or LowRankMixtureCrossNet. Chosen: tanh between the matrices of the last.

    Args:
        inputs: features and tables.
        config: the model's config section.

    Source: Wang et al. 2021, arXiv:2008.13535, sections 3.2 (cross network), 3.4 (stacked and parallel) and
    3.5 (low rank and mixture). Cost of a cross layer: B * N^2 multiply-adds, or 2 * B * N * r.
    """

    def __init__(self, inputs: ModelInputs, config: DcnV2Config) -> None:
        super().__init__()
        self.sparse_arch = SparseArch(inputs, config.sequence_pooling)
        width = sum(self.sparse_arch.out_dims) + inputs.num_dense
        self.cross_net = config.cross_net(width)
        self.parallel = config.structure == "parallel" and bool(config.deep_layer_sizes)
        self.deep = mlp(width, config.deep_layer_sizes, config.dropout)
        deep_width = config.deep_layer_sizes[-1] if config.deep_layer_sizes else width
        self.over_arch = OverArch(
            deep_width + width if self.parallel else deep_width, [], num_tasks=inputs.num_tasks
        )

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, T], float32."""
        inputs_BN = torch.cat([self.sparse_arch(batch.sparse), batch.dense_BF], dim=1)
        crossed_BN = self.cross_net(inputs_BN)
        if self.parallel:
            top_BN = torch.cat([crossed_BN, self.deep(inputs_BN)], dim=1)
        else:
            top_BN = self.deep(crossed_BN)
        logits_BT: Tensor = self.over_arch(top_BN)
        return logits_BT
