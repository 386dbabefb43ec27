"""FinalMLP."""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.config.base import Section
from trainer.errors import ConfigError
from trainer.modules.arches import Norm, mlp
from trainer.modules.sparse_arch import SparseArch, SparseModelSection
from trainer.registry import ModelInputs, register_model


class StreamConfig(Section):
    """One of the two networks."""

    layer_sizes: list[PositiveInt] = Field(default=[128, 64], min_length=1)
    """Its layers."""
    gate_features: list[str] | None = Field(default=None, min_length=1)
    """Features whose vectors decide how much of each number this network sees, such as those of the user;
    default a learned constant."""


class FinalMlpConfig(SparseModelSection):
    """Config keys of `final_mlp`."""

    first: StreamConfig = StreamConfig()
    """One network."""
    second: StreamConfig = StreamConfig()
    """The other one."""
    gate_layer_sizes: list[PositiveInt] = Field(default=[64])
    """Hidden layers of a gate over its features."""
    feature_gates: bool = True
    """Whether each network sees the input through a gate of its own."""
    num_heads: int = Field(default=1, ge=1)
    """Parts of the bilinear fusion; must divide the last layer of both networks."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the hidden units of both networks dropped in training."""
    norm: Norm = "none"
    """Normalisation of their hidden units before their ReLU."""


@register_model(
    "final_mlp",
    config=FinalMlpConfig,
    task="ctr",
    source="Mao et al. 2023, arXiv:2304.00902",
    several_tasks=True,
)
class FinalMLP(nn.Module):
    """Two networks that see the features through gates of their own, joined by a bilinear fusion.

    Stream s takes `x * 2 sigmoid(gate_s)`; with the outputs o_1 and o_2 cut into heads the logit is
    `b + w_1 . o_1 + w_2 . o_2 + sum_h o_1h^T W_h o_2h`.

    Args:
        inputs: features and tables.
        config: the model's config section.

    Source: Mao et al. 2023, arXiv:2304.00902, sections 3.2 (feature gates) and 3.3 (fusion).
    """

    def __init__(self, inputs: ModelInputs, config: FinalMlpConfig) -> None:
        super().__init__()
        self.sparse_arch = SparseArch(inputs, config.sequence_pooling)
        dims = dict(zip(inputs.features, self.sparse_arch.out_dims, strict=True))
        width = sum(dims.values()) + inputs.num_dense
        self.gates = nn.ModuleList(
            _Gate(dims, stream.gate_features, width, config, f"model.{name}.gate_features")
            for name, stream in (("first", config.first), ("second", config.second))
            if config.feature_gates
        )
        first, second = config.first.layer_sizes, config.second.layer_sizes
        self.first = mlp(width, first, config.dropout, config.norm)
        self.second = mlp(width, second, config.dropout, config.norm)
        self.fusion = BilinearFusion(first[-1], second[-1], config.num_heads, inputs.num_tasks)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, T], float32."""
        vectors_BN = self.sparse_arch(batch.sparse)
        inputs_BN = torch.cat([vectors_BN, batch.dense_BF], dim=1)
        seen = [inputs_BN * gate(vectors_BN) for gate in self.gates] or [inputs_BN, inputs_BN]
        logits_BT: Tensor = self.fusion(self.first(seen[0]), self.second(seen[1]))
        return logits_BT.float()


class _Gate(nn.Module):
    """Twice the sigmoid of a small network over some features, or of a learned constant: [B or 1, N]."""

    def __init__(
        self, dims: dict[str, int], features: list[str] | None, width: int, config: FinalMlpConfig, where: str
    ) -> None:
        super().__init__()
        if unknown := [name for name in features or () if name not in dims]:
            raise ConfigError("no sparse feature of this name", where=where, got=unknown, allowed=list(dims))
        ends = accumulate(dims.values(), initial=0)
        spans = dict(zip(dims, pairwise(ends), strict=True))
        self.columns = [slice(*spans[name]) for name in features or ()]
        if self.columns:
            seen = sum(dims[name] for name in features or ())
            hidden = config.gate_layer_sizes
            self.network = nn.Sequential(mlp(seen, hidden), nn.Linear([seen, *hidden][-1], width))
        else:
            self.constant_N = nn.Parameter(torch.zeros(width))

    def forward(self, vectors_BN: Tensor) -> Tensor:
        if not self.columns:
            return 2 * self.constant_N.sigmoid()
        chosen = torch.cat([vectors_BN[:, columns] for columns in self.columns], dim=1)
        gate_BN: Tensor = self.network(chosen)
        return 2 * gate_BN.sigmoid()


class BilinearFusion(nn.Module):
    """`b + w_1 . o_1 + w_2 . o_2 + sum_h o_1h^T W_h o_2h`, the outputs cut into heads.

    Args:
        first: numbers of o_1.
        second: numbers of o_2.
        num_heads: h.
        num_tasks: T, each with weights of its own.

    Raises:
        ConfigError: the heads do not divide both.

    Source: Mao et al. 2023, arXiv:2304.00902, equations 10 and 11.
    """

    def __init__(self, first: int, second: int, num_heads: int, num_tasks: int = 1) -> None:
        super().__init__()
        if first % num_heads or second % num_heads:
            raise ConfigError(
                "the heads must divide the last layer of both networks",
                where="model.num_heads",
                got=num_heads,
                allowed=f"common divisors of {first} and {second}",
            )
        self.num_heads = num_heads
        self.linear = nn.Linear(first + second, num_tasks)
        shape = (num_tasks * num_heads, first // num_heads, second // num_heads)
        self.products_HXY = nn.Parameter(nn.init.xavier_normal_(torch.empty(shape)))

    def forward(self, first_BX: Tensor, second_BY: Tensor) -> Tensor:
        """Return [B, T]."""
        first_BHX = first_BX.reshape(first_BX.shape[0], self.num_heads, -1)
        second_BHY = second_BY.reshape(second_BY.shape[0], self.num_heads, -1)
        products_THXY = self.products_HXY.reshape(-1, self.num_heads, *self.products_HXY.shape[1:])
        bilinear_BT = torch.einsum("bhx,thxy,bhy->bt", first_BHX, products_THXY, second_BHY)
        logits_BT: Tensor = self.linear(torch.cat([first_BX, second_BY], dim=1))
        return logits_BT + bilinear_BT
