"""Wukong."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.modules.arches import OverArch, mlp
from trainer.modules.interactions import LinearInteraction
from trainer.modules.vector_model import VectorModel, VectorModelSection
from trainer.registry import ModelInputs, register_model


class WukongConfig(VectorModelSection):
    """Config keys of `wukong`."""

    num_layers: int = Field(default=2, ge=1)
    """Layers; l of them reach interactions of order 2^l."""
    num_fm_vectors: int = Field(default=8, ge=1)
    """Vectors that the factorization machine block of each layer gives (n_F)."""
    num_linear_vectors: int = Field(default=8, ge=1)
    """Vectors that the linear block of each layer gives (n_L)."""
    fm_rank: int = Field(default=8, ge=1)
    """Columns k of the projection in X X^T Y, in place of all n of X X^T."""
    fm_layer_sizes: list[PositiveInt] = Field(default=[128])
    """Hidden layers between a layer's products and its vectors."""
    over_arch_layer_sizes: list[PositiveInt] = Field(default=[64])
    """Hidden layers over the last layer's vectors; the logit follows by itself."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the over arch's hidden units dropped in training."""


@register_model(
    "wukong",
    config=WukongConfig,
    task="ctr",
    source="Zhang et al. 2024, arXiv:2403.02545",
    several_tasks=True,
)
class Wukong(VectorModel):
    """Stacked factorization machines: each layer doubles the order of the interactions.

    X_0 [B, n, d] holds the dense features' vectors and one vector for each feature. A layer is
    `X_(i+1) = LayerNorm([FMB(X_i), LCB(X_i)] + shortcut(X_i))`: the factorization machine block gives
    MLP(LayerNorm(X X^T Y)) as n_F vectors, the linear block n_L weighted sums. Chosen, where the paper is
    silent: the shortcut is a linear map where the number of vectors changes.

    Args:
        inputs: features and tables.
        config: the model's config section.

    Source: Zhang et al. 2024, arXiv:2403.02545, sections 3.2 to 3.5. Cost of a layer: B * n * k * d for the
    products, and the hidden layers.
    """

    def __init__(self, inputs: ModelInputs, config: WukongConfig) -> None:
        super().__init__(inputs, config)
        count, dim = self.num_vectors, self.dim
        layers = []
        for _ in range(config.num_layers):
            layers.append(WukongLayer(count, dim, config))
            count = config.num_fm_vectors + config.num_linear_vectors
        self.layers = nn.Sequential(*layers)
        self.over_arch = OverArch(
            count * dim, config.over_arch_layer_sizes, config.dropout, num_tasks=inputs.num_tasks
        )

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, T], float32."""
        logits_BT: Tensor = self.over_arch(self.layers(self.vectors(batch)).flatten(1))
        return logits_BT


class WukongLayer(nn.Module):
    """`LayerNorm([FMB(X), LCB(X)] + shortcut(X))`: [B, n, d] to [B, n_F + n_L, d].

    Args:
        num_inputs: n.
        dim: d.
        config: sizes of both blocks.

    Source: Zhang et al. 2024, arXiv:2403.02545, sections 3.3 to 3.5.
    """

    def __init__(self, num_inputs: int, dim: int, config: WukongConfig) -> None:
        super().__init__()
        outputs = config.num_fm_vectors + config.num_linear_vectors
        products = num_inputs * config.fm_rank
        self.projection = nn.Linear(num_inputs, config.fm_rank, bias=False)
        hidden = [products, *config.fm_layer_sizes][-1]
        self.fm = nn.Sequential(
            nn.LayerNorm(products),
            mlp(products, config.fm_layer_sizes),
            nn.Linear(hidden, config.num_fm_vectors * dim),
        )
        self.linear = LinearInteraction(num_inputs, config.num_linear_vectors)
        self.shortcut = nn.Identity() if num_inputs == outputs else LinearInteraction(num_inputs, outputs)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return [B, n_F + n_L, d]."""
        # X (X^T Y): k products for each vector, without the n x n matrix.
        projected_BDK = self.projection(x_BND.transpose(1, 2))
        products_BNK = torch.bmm(x_BND, projected_BDK)
        fm_BND = self.fm(products_BNK.flatten(1)).reshape(x_BND.shape[0], -1, x_BND.shape[2])
        joined_BND = torch.cat([fm_BND, self.linear(x_BND)], dim=1)
        y_BND: Tensor = self.norm(joined_BND + self.shortcut(x_BND))
        return y_BND
