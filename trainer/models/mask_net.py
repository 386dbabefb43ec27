"""MaskNet."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.modules.arches import OverArch
from trainer.modules.row_dropout import RowDropout
from trainer.modules.sparse_arch import SparseArch, SparseModelSection
from trainer.registry import ModelInputs, register_model


class MaskNetConfig(SparseModelSection):
    """Config keys of `mask_net`."""

    structure: Literal["serial", "parallel"] = "serial"
    """`serial`: each block masks the one before; `parallel`: all mask the features, side by side."""
    num_blocks: int = Field(default=3, ge=1)
    """Mask blocks."""
    block_size: int = Field(default=64, ge=1)
    """Numbers that each block gives."""
    reduction_ratio: float = Field(default=2.0, gt=0)
    """Hidden units of a mask's network for each number of its input."""
    over_arch_layer_sizes: list[PositiveInt] = Field(default=[64])
    """Hidden layers over the blocks of `parallel`; `serial` has none."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the blocks' and the over arch's units dropped in training."""


@register_model(
    "mask_net",
    config=MaskNetConfig,
    task="ctr",
    source="Wang et al. 2021, arXiv:2102.07619",
    several_tasks=True,
)
class MaskNet(nn.Module):
    """Blocks whose input is multiplied by a mask that a network makes of the row's own features.

    The features are the vectors side by side, each after a layer norm of its own, and the dense features. A
    block is `relu(LayerNorm(W (mask * x)))`, its mask `W_2 relu(W_1 features)` of the features before the
    norm.

    Args:
        inputs: features and tables.
        config: the model's config section.

    Source: Wang et al. 2021, arXiv:2102.07619, sections 3.2 to 3.5.
    """

    def __init__(self, inputs: ModelInputs, config: MaskNetConfig) -> None:
        super().__init__()
        dim = config.embedding_dim
        self.sparse_arch = SparseArch(inputs, config.sequence_pooling, dim)
        self.norm = _FieldNorm(self.sparse_arch.num_features, dim)
        width = self.sparse_arch.num_features * dim + inputs.num_dense
        self.serial = config.structure == "serial"
        before = width
        self.blocks = nn.ModuleList()
        for _ in range(config.num_blocks):
            self.blocks.append(_MaskBlock(width, before, config))
            before = config.block_size if self.serial else width
        over = [] if self.serial else config.over_arch_layer_sizes
        outputs = config.block_size * (1 if self.serial else config.num_blocks)
        self.over_arch = OverArch(outputs, over, config.dropout, num_tasks=inputs.num_tasks)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, T], float32."""
        vectors_BFD = self.sparse_arch(batch.sparse)
        features_BN = torch.cat([vectors_BFD.flatten(1), batch.dense_BF], dim=1)
        normed_BN = torch.cat([self.norm(vectors_BFD).flatten(1), batch.dense_BF], dim=1)
        if self.serial:
            for block in self.blocks:
                normed_BN = block(features_BN, normed_BN)
        else:
            normed_BN = torch.cat([block(features_BN, normed_BN) for block in self.blocks], dim=1)
        logits_BT: Tensor = self.over_arch(normed_BN)
        return logits_BT


class _MaskBlock(nn.Module):
    """`relu(LayerNorm(W (mask(features) * x)))`."""

    def __init__(self, num_features: int, in_features: int, config: MaskNetConfig) -> None:
        super().__init__()
        hidden = max(1, round(num_features * config.reduction_ratio))
        self.mask = nn.Sequential(nn.Linear(num_features, hidden), nn.ReLU(), nn.Linear(hidden, in_features))
        self.output = nn.Sequential(
            nn.Linear(in_features, config.block_size),
            nn.LayerNorm(config.block_size),
            nn.ReLU(),
            RowDropout(config.dropout),
        )

    def forward(self, features_BN: Tensor, x_BN: Tensor) -> Tensor:
        y_BN: Tensor = self.output(self.mask(features_BN) * x_BN)
        return y_BN


class _FieldNorm(nn.Module):
    """A layer norm of each field's vector, with a scale and shift of its own: [B, F, D] to [B, F, D]."""

    def __init__(self, num_fields: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.scale_FD = nn.Parameter(torch.ones(num_fields, dim))
        self.shift_FD = nn.Parameter(torch.zeros(num_fields, dim))

    def forward(self, x_BFD: Tensor) -> Tensor:
        y_BFD: Tensor = self.norm(x_BFD)
        return y_BFD * self.scale_FD + self.shift_FD
