"""Dense arch and over arch: the multi-layer perceptrons before and after the interaction of features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec.modules.mlp import MLP

from trainer.modules.row_dropout import RowDropout


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
    """

    def __init__(
        self, in_features: int, layer_sizes: Sequence[int], dropout: float = 0.0, num_tasks: int = 1
    ) -> None:
        super().__init__()
        self.hidden = mlp(in_features, layer_sizes, dropout)
        self.logits = nn.Linear(layer_sizes[-1] if layer_sizes else in_features, num_tasks)

    def forward(self, features_BN: Tensor) -> Tensor:
        """Return logits [B, T], float32 under autocast as well."""
        logits_BT: Tensor = self.logits(self.hidden(features_BN))
        return logits_BT.float()


def mlp(in_features: int, layer_sizes: Sequence[int], dropout: float = 0.0) -> nn.Module:
    """Build linear layers, each followed by ReLU and dropout; without layers the identity."""
    if not layer_sizes:
        return nn.Identity()
    activation = "relu" if dropout == 0.0 else lambda: nn.Sequential(nn.ReLU(), RowDropout(dropout))
    layers: nn.Module = MLP(in_features, list(layer_sizes), activation=activation)
    return layers
