"""DCN."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torchrec.modules.crossnet import VectorCrossNet

from trainer.batch import Batch
from trainer.modules.arches import DeepSection, OverArch, mlp
from trainer.modules.sparse_arch import SparseArch, SparseModelSection
from trainer.registry import ModelInputs, register_model


class DcnConfig(SparseModelSection, DeepSection):
    """Config keys of `dcn`."""

    num_cross_layers: int = Field(default=3, ge=1)
    """Cross layers; l of them give feature crosses up to order l + 1."""


@register_model(
    "dcn", config=DcnConfig, task="ctr", source="Wang et al. 2017, arXiv:1708.05123", several_tasks=True
)
class DCN(nn.Module):
    """Explicit crosses of all inputs with one vector of weights for each layer, beside a deep network.

    The input x_0 [B, N] holds the feature vectors, each as wide as its table, and the dense features as they
    are. Each cross layer is `x_(l+1) = x_0 (x_l . w_l) + b_l + x_l`, by TorchRec's VectorCrossNet.

    Args:
        inputs: features and tables.
        config: the model's config section.

    Source: Wang et al. 2017, arXiv:1708.05123, section 2. Cost of a cross layer: 2 * B * N multiply-adds.
    """

    def __init__(self, inputs: ModelInputs, config: DcnConfig) -> None:
        super().__init__()
        self.sparse_arch = SparseArch(inputs, config.sequence_pooling)
        width = sum(self.sparse_arch.out_dims) + inputs.num_dense
        self.cross_net = VectorCrossNet(width, config.num_cross_layers)
        self.deep = mlp(width, config.deep_layer_sizes, config.dropout, config.norm)
        self.has_deep = bool(config.deep_layer_sizes)
        self.over_arch = OverArch(
            width + config.deep_layer_sizes[-1] if self.has_deep else width, [], num_tasks=inputs.num_tasks
        )

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, T], float32."""
        inputs_BN = torch.cat([self.sparse_arch(batch.sparse), batch.dense_BF], dim=1)
        top_BN = self.cross_net(inputs_BN)
        if self.has_deep:
            top_BN = torch.cat([top_BN, self.deep(inputs_BN)], dim=1)
        logits_BT: Tensor = self.over_arch(top_BN)
        return logits_BT
