"""Feature interaction modules of DHEN: each maps m vectors [B, m, d] to l vectors [B, l, d].

The paper (Zhang et al. 2022, arXiv:2203.11014, "Feature Interaction Modules") writes X_n as a d x m matrix;
here the vectors are rows, [B, m, d]. Every module ends in `W`, the m x l matrix that sets the number of
output vectors; modules whose result is one flat tensor end in `W_m` of h x (l * d) instead. Where the paper
is silent, the class says what was chosen.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt, field_validator
from torch import Tensor, nn

from trainer.config.base import Section
from trainer.modules.arches import mlp
from trainer.modules.row_dropout import RowDropout

InteractionName = Literal["dot", "attention", "convolution", "linear", "cross"]


class DotConfig(Section):
    """Config keys of the `dot` module."""

    layer_sizes: list[PositiveInt] = Field(default=[64])
    """Hidden layers over the dot products; may be empty."""


class AttentionConfig(Section):
    """Config keys of the `attention` module."""

    num_heads: int = Field(default=1, ge=1)
    """Heads; must divide `embedding_dim`."""
    feedforward_dim: int | None = Field(default=None, ge=1)
    """Hidden width of the encoder layer's feed-forward part; default 4 times `embedding_dim`."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share dropped of both sublayers' outputs and of the hidden units between; attention weights stay."""


class ConvolutionConfig(Section):
    """Config keys of the `convolution` module."""

    kernel_size: int = Field(default=3, ge=1)
    """Side of the square kernel; odd, so that the picture keeps its size."""
    channels: int = Field(default=1, ge=1)
    """Kernels; the paper's formula has one."""

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("`kernel_size` must be odd")
        return value


class CrossConfig(Section):
    """Config keys of the `cross` module."""

    rank: int = Field(default=16, ge=1)
    """Rank of the crossing matrix over all m * d numbers."""


class InteractionsConfig(Section):
    """Settings of the interaction modules, the same in every layer."""

    dot: DotConfig = DotConfig()
    attention: AttentionConfig = AttentionConfig()
    convolution: ConvolutionConfig = ConvolutionConfig()
    cross: CrossConfig = CrossConfig()


class LinearInteraction(nn.Module):
    """`u = W X`: each output vector is a weighted sum of the input vectors (no bias, as in the formula).

    The other modules and the shortcut use it too, to come from m vectors to l.

    Args:
        num_inputs: m.
        num_outputs: l.
    """

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.mix = nn.Linear(num_inputs, num_outputs, bias=False)

    def forward(self, x_BMD: Tensor) -> Tensor:
        """Map [B, m, d] to [B, l, d]."""
        mixed_BDL: Tensor = self.mix(x_BMD.transpose(1, 2))
        return mixed_BDL.transpose(1, 2)


class DotProductInteraction(nn.Module):
    """`u = W_m MLP(x_i . x_j for all i <= j)`: the interaction of DLRM, brought back to vectors.

    The paper's AdvancedDLRM is not public. Chosen: products of all pairs, each vector with itself included
    (so that one vector alone has a product as well), hidden layers with ReLU, and W_m with a bias.

    Args:
        num_inputs: m.
        dim: d.
        num_outputs: l.
        config: hidden layers.

    Source: DHEN, "AdvancedDLRM"; Naumov et al. 2019, arXiv:1906.00091. Cost: B * m^2 * d multiply-adds.
    """

    pairs: Tensor

    def __init__(self, num_inputs: int, dim: int, num_outputs: int, config: DotConfig) -> None:
        super().__init__()
        self.register_buffer("pairs", torch.triu_indices(num_inputs, num_inputs), persistent=False)
        num_pairs = num_inputs * (num_inputs + 1) // 2
        self.hidden = mlp(num_pairs, config.layer_sizes)
        self.output = nn.Linear(([num_pairs, *config.layer_sizes])[-1], num_outputs * dim)
        self.dim = dim

    def forward(self, x_BMD: Tensor) -> Tensor:
        """Map [B, m, d] to [B, l, d]."""
        dots_BMM = torch.bmm(x_BMD, x_BMD.transpose(1, 2))
        dots_BP = dots_BMM[:, self.pairs[0], self.pairs[1]]
        flat: Tensor = self.output(self.hidden(dots_BP))
        return flat.reshape(x_BMD.shape[0], -1, self.dim)


class SelfAttentionInteraction(nn.Module):
    """`u = W TransformerEncoderLayer(X)`: every vector looks at every other.

    Chosen: torch's encoder layer with its defaults (norm last, ReLU), no position encoding, since features
    have no order; each feature's own table already tells it apart.

    Args:
        num_inputs: m.
        dim: d.
        num_outputs: l.
        config: heads, feed-forward width, dropout.

    Source: DHEN, "Self-attention"; Vaswani et al. 2017. Cost: B * m^2 * d multiply-adds and the feed-forward.
    """

    def __init__(self, num_inputs: int, dim: int, num_outputs: int, config: AttentionConfig) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(
            d_model=dim,
            nhead=config.num_heads,
            dim_feedforward=config.feedforward_dim or 4 * dim,
            dropout=0.0,
            batch_first=True,
        )
        for place in ("dropout", "dropout1", "dropout2"):
            setattr(self.encoder, place, RowDropout(config.dropout))
        self.output = LinearInteraction(num_inputs, num_outputs)

    def forward(self, x_BMD: Tensor) -> Tensor:
        """Map [B, m, d] to [B, l, d]."""
        mixed: Tensor = self.output(self.encoder(x_BMD))
        return mixed


class ConvolutionInteraction(nn.Module):
    """`u = W Conv2d(X)`: the m x d matrix as a picture of one channel.

    Chosen: a square kernel with zero padding that keeps the size; with several kernels, W mixes the rows of
    all of them.

    Args:
        num_inputs: m.
        dim: d.
        num_outputs: l.
        config: kernel size and number of kernels.

    Source: DHEN, "Convolution". Cost: B * m * d * channels * kernel_size^2 multiply-adds.
    """

    def __init__(self, num_inputs: int, dim: int, num_outputs: int, config: ConvolutionConfig) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, config.channels, config.kernel_size, padding=config.kernel_size // 2)
        self.output = LinearInteraction(config.channels * num_inputs, num_outputs)
        self.dim = dim

    def forward(self, x_BMD: Tensor) -> Tensor:
        """Map [B, m, d] to [B, l, d]."""
        picture_BCMD = self.convolution(x_BMD.unsqueeze(1))
        mixed: Tensor = self.output(picture_BCMD.reshape(x_BMD.shape[0], -1, self.dim))
        return mixed


class CrossInteraction(nn.Module):
    """`u = W (x * (U V x) + b)`, x all m * d numbers in one vector: crosses every bit with every other.

    The paper takes the main step of the Deep Cross Net, the product of X with itself under a weight and a
    bias, and leaves out its skip connection, as the layer has a shortcut of its own. Chosen: the weight is
    DCN-v2's matrix at low rank (U V), of which the first DCN's vector is a special case (rank 1, U all ones).

    Args:
        num_inputs: m.
        dim: d.
        num_outputs: l.
        config: rank r.

    Source: DHEN, "Deep Cross Net"; Wang et al. 2017 and 2021, arXiv:1708.05123, arXiv:2008.13535. Cost:
    2 * B * m * d * r multiply-adds.
    """

    def __init__(self, num_inputs: int, dim: int, num_outputs: int, config: CrossConfig) -> None:
        super().__init__()
        width = num_inputs * dim
        self.v = nn.Linear(width, config.rank, bias=False)
        self.u = nn.Linear(config.rank, width, bias=False)
        self.bias_N = nn.Parameter(torch.zeros(width))
        self.output = LinearInteraction(num_inputs, num_outputs)

    def forward(self, x_BMD: Tensor) -> Tensor:
        """Map [B, m, d] to [B, l, d]."""
        x_BN = x_BMD.flatten(1)
        crossed_BN = x_BN * self.u(self.v(x_BN)) + self.bias_N
        mixed: Tensor = self.output(crossed_BN.reshape(x_BMD.shape))
        return mixed


def build_interaction(
    name: InteractionName, num_inputs: int, dim: int, num_outputs: int, config: InteractionsConfig
) -> nn.Module:
    """Build one module that maps [B, num_inputs, dim] to [B, num_outputs, dim]."""
    if name == "linear":
        return LinearInteraction(num_inputs, num_outputs)
    if name == "dot":
        return DotProductInteraction(num_inputs, dim, num_outputs, config.dot)
    if name == "attention":
        return SelfAttentionInteraction(num_inputs, dim, num_outputs, config.attention)
    if name == "convolution":
        return ConvolutionInteraction(num_inputs, dim, num_outputs, config.convolution)
    return CrossInteraction(num_inputs, dim, num_outputs, config.cross)
