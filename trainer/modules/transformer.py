"""Self-attention over padded sequences, and the block of SASRec and BERT4Rec."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from trainer.errors import ConfigError
from trainer.modules.row_dropout import RowDropout

_WEIGHT_STD = 0.02
"""Of the normal distribution that weights start from, as in BERT."""


class SelfAttention(nn.Module):
    """Multi-head self-attention.

    Args:
        dim: D.
        num_heads: H, which divides D.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.into = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x_BLD: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Return [B, L, D].

        Args:
            x_BLD: padded at the end.
            lengths_B: every place sees all that are no padding; None: each sees itself and those before it,
                and so no padding.
        """
        rows, length, dim = x_BLD.shape
        heads = self.into(x_BLD).reshape(rows, length, 3, self.num_heads, dim // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # [B, H, L, D / H] each
        seen = None
        if lengths_B is not None:
            place_L = torch.arange(length, device=x_BLD.device)
            # An empty sequence sees its padding: a softmax over nothing would be no number.
            seen = (place_L < lengths_B.clamp(min=1).unsqueeze(1))[:, None, None, :]
        attended = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, is_causal=lengths_B is None
        )
        out_BLD: Tensor = self.out(attended.transpose(1, 2).reshape(rows, length, dim))
        return out_BLD


class TransformerBlock(nn.Module):
    """Self-attention and a point-wise network of two layers, each with a residual connection.

    Attention weights are not dropped out, only what attention and network give.

    Args:
        dim: D.
        num_heads: of the attention.
        hidden: width of the network's inner layer.
        dropout: share of the units dropped behind the attention, the inner and the outer layer.
        activation: of the inner layer.
        norm: layer normalisation `first`, of what attention and network take, or `last`, of the sums.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3; normalisation first as in Kang and McAuley
    2018, arXiv:1808.09781, section III.B.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden: int,
        dropout: float,
        activation: Literal["relu", "gelu"],
        norm: Literal["first", "last"],
    ) -> None:
        super().__init__()
        self.norm_first = norm == "first"
        self.attention = SelfAttention(dim, num_heads)
        self.attention_norm, self.network_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        inner = nn.ReLU() if activation == "relu" else nn.GELU()
        self.network = nn.Sequential(
            nn.Linear(dim, hidden), inner, RowDropout(dropout), nn.Linear(hidden, dim), RowDropout(dropout)
        )
        self.dropout = RowDropout(dropout)

    def forward(self, x_BLD: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Return [B, L, D]; the arguments are those of `SelfAttention`."""
        if self.norm_first:
            x_BLD = x_BLD + self.dropout(self.attention(self.attention_norm(x_BLD), lengths_B))
            out_BLD: Tensor = x_BLD + self.network(self.network_norm(x_BLD))
        else:
            x_BLD = self.attention_norm(x_BLD + self.dropout(self.attention(x_BLD, lengths_B)))
            out_BLD = self.network_norm(x_BLD + self.network(x_BLD))
        return out_BLD


def start_normal(module: nn.Module) -> None:
    """Draw the weights of linear layers and position vectors from a narrow normal distribution; biases are 0.

    Source: Devlin et al. 2019, arXiv:1810.04805, whose code has a standard deviation of 0.02.
    """
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=_WEIGHT_STD)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def check_heads(num_heads: int, dim: int, table: str) -> None:
    """Refuse heads that do not share the columns of the items' table evenly.

    Raises:
        ConfigError: naming the numbers that do.
    """
    if dim % num_heads:
        raise ConfigError(
            "each head takes the same number of the item vectors' columns",
            where="model.num_heads",
            got=f"{num_heads} heads, {dim} columns",
            allowed=[n for n in range(1, dim + 1) if dim % n == 0],
            fixes=[f"tables.{table}.embedding_dim: {-(-dim // (4 * num_heads)) * 4 * num_heads}"],
        )
