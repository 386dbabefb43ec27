"""Experts and gates: what multi-task models share, and what each task takes of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.modules.arches import Norm, OverArch, mlp
from trainer.modules.sparse_arch import SparseArch, SparseModelSection
from trainer.registry import ModelInputs


class ExpertSection(SparseModelSection):
    """Config keys of models of experts."""

    expert_layer_sizes: list[PositiveInt] = Field(default=[128, 64], min_length=1)
    """Layers of each expert."""
    tower_layer_sizes: list[PositiveInt] = Field(default=[32])
    """Hidden layers of each task's tower; its logit follows by itself."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the hidden units of experts and towers dropped in training."""
    norm: Norm = "none"
    """Normalisation of their hidden units before their ReLU."""


class Experts(nn.Module):
    """Some networks of one shape over the same input.

    Args:
        in_features: N.
        count: E.
        config: their layers.
    """

    def __init__(self, in_features: int, count: int, config: ExpertSection) -> None:
        super().__init__()
        self.networks = nn.ModuleList(
            mlp(in_features, config.expert_layer_sizes, config.dropout, config.norm) for _ in range(count)
        )

    def forward(self, x_BN: Tensor) -> Tensor:
        """Return [B, E, D], D being the last layer's width."""
        return torch.stack([network(x_BN) for network in self.networks], dim=1)


class Gate(nn.Module):
    """The mean of experts, weighted by a softmax over a linear map of the input.

    Args:
        in_features: N.
        num_experts: E.

    Source: Ma et al. 2018, Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts, KDD, equations 6 and 7.
    """

    def __init__(self, in_features: int, num_experts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, num_experts, bias=False)

    def forward(self, x_BN: Tensor, experts_BED: Tensor) -> Tensor:
        """Return [B, D]."""
        shares_BE = self.linear(x_BN).softmax(dim=1)
        mixed_BD: Tensor = (shares_BE.unsqueeze(2) * experts_BED).sum(dim=1)
        return mixed_BD


class Towers(nn.Module):
    """A network for each task, over what the task's gate gives.

    Args:
        config: layers.
        num_tasks: T.
    """

    def __init__(self, config: ExpertSection, num_tasks: int) -> None:
        super().__init__()
        width, sizes = config.expert_layer_sizes[-1], config.tower_layer_sizes
        self.towers = nn.ModuleList(
            OverArch(width, sizes, config.dropout, norm=config.norm) for _ in range(num_tasks)
        )

    def forward(self, inputs_BD: Sequence[Tensor]) -> Tensor:
        """Return logits [B, T] of T inputs [B, D], float32."""
        return torch.cat([tower(x_BD) for tower, x_BD in zip(self.towers, inputs_BD, strict=True)], dim=1)


class InputArch(nn.Module):
    """All feature vectors and dense features side by side.

    Args:
        inputs: features and tables.
        config: how sequences are pooled.

    Attributes:
        width: N.
    """

    def __init__(self, inputs: ModelInputs, config: SparseModelSection) -> None:
        super().__init__()
        self.sparse_arch = SparseArch(inputs, config.sequence_pooling)
        self.width = sum(self.sparse_arch.out_dims) + inputs.num_dense

    def forward(self, batch: Batch) -> Tensor:
        """Return [B, N]."""
        return torch.cat([self.sparse_arch(batch.sparse), batch.dense_BF], dim=1)
