"""Dense arch and over arch: the multi-layer perceptrons before and after the interaction of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torchrec.modules.mlp import MLP

from trainer.config.base import Section
from trainer.modules.batch_norm import GlobalBatchNorm
from trainer.modules.row_dropout import RowDropout

Norm = Literal["none", "batch", "layer"]


class DeepSection(Section):
    """Config keys of models with a deep network."""

    deep_layer_sizes: list[PositiveInt] = Field(default=[128, 64])
    """Hidden layers of the deep network; the logit follows by itself."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the deep network's hidden units dropped in training."""
    norm: Norm = "none"
    """Normalisation of hidden units before their ReLU: over the global batch, over the layer, or none."""


class ConstantDenseArch(nn.Module):
    """The dense arch of a model without dense features: a learned vector, the same for every row.

    A multi-layer perceptron without inputs can give nothing but its bias; this is that bias. Its dot product
    with a feature's vector is then a first-order weight of each id, as in a factorization machine.

    Args:
        out_features: D.
    """

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.bias_D = nn.Parameter(torch.rand(out_features) / out_features**0.5)

    def forward(self, dense_BF: Tensor) -> Tensor:
        """Return [B, D].

        Args:
            dense_BF: [B, 0]; only B is read.
        """
        return self.bias_D.expand(dense_BF.shape[0], -1)


class OverArch(nn.Module):
    """Hidden layers with ReLU and dropout, then one linear layer to the logits, in float32.

    TorchRec's OverArch has neither dropout nor the case without hidden layers.

    Args:
        in_features: width of the input.
        layer_sizes: hidden layers; may be empty.
        dropout: share of hidden units dropped in training.
        num_tasks: T.
        norm: of the hidden units.
    """

    def __init__(
        self,
        in_features: int,
        layer_sizes: Sequence[int],
        dropout: float = 0.0,
        num_tasks: int = 1,
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        self.hidden = mlp(in_features, layer_sizes, dropout, norm)
        self.logits = nn.Linear(layer_sizes[-1] if layer_sizes else in_features, num_tasks)

    def forward(self, features_BN: Tensor) -> Tensor:
        """Return logits [B, T], float32 under autocast as well."""
        logits_BT: Tensor = self.logits(self.hidden(features_BN))
        return logits_BT.float()


def mlp(in_features: int, layer_sizes: Sequence[int], dropout: float = 0.0, norm: Norm = "none") -> nn.Module:
    """Build linear layers, each followed by a norm, ReLU and dropout; without layers the identity."""
    if not layer_sizes:
        return nn.Identity()
    if norm == "none":
        activation = "relu" if dropout == 0.0 else lambda: nn.Sequential(nn.ReLU(), RowDropout(dropout))
        layers: nn.Module = MLP(in_features, list(layer_sizes), activation=activation)
        return layers
    kind = GlobalBatchNorm if norm == "batch" else nn.LayerNorm
    widths = [in_features, *layer_sizes]
    return nn.Sequential(
        *(
            nn.Sequential(nn.Linear(before, after), kind(after), nn.ReLU(), RowDropout(dropout))
            for before, after in zip(widths, layer_sizes, strict=False)
        )
    )
