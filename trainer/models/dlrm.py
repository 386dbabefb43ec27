"""DLRM."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torchrec.models.dlrm import DenseArch, InteractionArch

from trainer.batch import Batch
from trainer.modules.arches import ConstantDenseArch, OverArch
from trainer.modules.sparse_arch import SparseArch, SparseModelSection
from trainer.registry import ModelInputs, register_model


class DlrmConfig(SparseModelSection):
    """Config keys of `dlrm`."""

    dense_arch_layer_sizes: list[PositiveInt] = Field(default=[64, 32])
    """Hidden layers over the dense features; a last layer of `embedding_dim` follows by itself."""
    over_arch_layer_sizes: list[PositiveInt] = Field(default=[128, 64])
    """Hidden layers over the interactions; the logit follows by itself."""
    concat_embeddings: bool = False
    """Give the over arch the feature vectors too, not only their dot products; helps with few features."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the over arch's hidden units dropped in training."""


@register_model(
    "dlrm", config=DlrmConfig, task="ctr", source="Naumov et al. 2019, arXiv:1906.00091", several_tasks=True
)
class DLRM(nn.Module):
    """Dot products of every pair of feature vectors, the dense features as one of them.

    The dense features pass the dense arch to one vector of width D; the interaction arch joins it with the
    dot products of all pairs among it and the F feature vectors; the over arch maps that to the logit. A
    table of another width than `embedding_dim` gets a linear map to it; without dense features the dense
    vector is a learned constant. `concat_embeddings`, which the paper does not have, lets the over arch see
    the feature vectors as well. Interaction and dense arch are TorchRec's.

    Args:
        inputs: features and tables.
        config: the model's config section.

    Source: Naumov et al. 2019, arXiv:1906.00091, section 2. Cost of the interaction: B * (F + 1)^2 * D
    multiply-adds.
    """

    def __init__(self, inputs: ModelInputs, config: DlrmConfig) -> None:
        super().__init__()
        dim = config.embedding_dim
        self.sparse_arch = SparseArch(inputs, config.sequence_pooling, dim)
        self.dense_arch: nn.Module = (
            DenseArch(inputs.num_dense, [*config.dense_arch_layer_sizes, dim])
            if inputs.num_dense
            else ConstantDenseArch(dim)
        )
        count = self.sparse_arch.num_features
        self.interaction_arch = InteractionArch(count)
        self.concat_embeddings = config.concat_embeddings
        width = dim + count * (count + 1) // 2 + (count * dim if config.concat_embeddings else 0)
        self.over_arch = OverArch(
            width, config.over_arch_layer_sizes, config.dropout, num_tasks=inputs.num_tasks
        )

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, T], float32."""
        pooled_BFD = self.sparse_arch(batch.sparse)
        dense_BD = self.dense_arch(batch.dense_BF)
        joined_BN = self.interaction_arch(dense_BD, pooled_BFD)
        if self.concat_embeddings:
            joined_BN = torch.cat([joined_BN, pooled_BFD.flatten(1)], dim=1)
        logits_BT: Tensor = self.over_arch(joined_BN)
        return logits_BT
