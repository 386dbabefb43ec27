"""SASRec, self-attentive sequential recommendation."""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from trainer.item_sampling import ItemNegatives
from trainer.losses.ranking import Objective
from trainer.modules.row_dropout import RowDropout
from trainer.modules.sequence_model import SequenceModel, SequenceModelSection
from trainer.modules.transformer import TransformerBlock, check_heads, start_normal
from trainer.registry import ModelInputs, register_model


class SasRecConfig(SequenceModelSection):
    """Config keys of `sasrec`."""

    num_layers: PositiveInt = 2
    """Blocks of attention and point-wise network."""
    num_heads: PositiveInt = 1
    """Of each block's attention."""
    objective: Objective = "pointwise"
    """As in other models of queries and items. `softmax`, or `sampled_softmax` with some hundred negatives,
    learns in fewer epochs and ranks better (arXiv:2309.07602)."""
    negatives: ItemNegatives = ItemNegatives(per_query=1)
    """Where the items come from that the next one is told from."""

    def completed(self, inputs: ModelInputs) -> ModelInputs:
        """Return the inputs with what is looked up besides, once the heads fit."""
        table = inputs.table_of(self.item_feature(inputs))
        check_heads(self.num_heads, table.embedding_dim, table.name)
        return super().completed(inputs)


@register_model(
    "sasrec", config=SasRecConfig, task="sequence", source="Kang and McAuley 2018, arXiv:1808.09781"
)
class SASRec(SequenceModel):
    """The next item by causal self-attention over those before it.

    Positions count from the newest item back, and items share their vectors with the history. As in the paper
    but for dropout, which takes what attention gives instead of its weights.

    Args:
        inputs: features and tables, completed by the config.
        config: the model's config section.

    Source: Kang and McAuley 2018, arXiv:1808.09781, section III; `objective: softmax` as in Klenitskiy and
    Vasilev 2023, arXiv:2309.07602.
    """

    def __init__(self, inputs: ModelInputs, config: SasRecConfig) -> None:
        super().__init__(inputs, config)
        self.encoder = _Encoder(self.item_dim, config)


class _Encoder(nn.Module):
    def __init__(self, dim: int, config: SasRecConfig) -> None:
        super().__init__()
        self.scale = dim**0.5
        self.position = nn.Embedding(config.max_length, dim)
        self.dropout = RowDropout(config.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, config.num_heads, dim, config.dropout, "relu", "first")
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        start_normal(self)

    def forward(self, x_BLD: Tensor, lengths_B: Tensor) -> Tensor:
        """Return [B, L, D]."""
        place_L = torch.arange(x_BLD.shape[1], device=x_BLD.device)
        age_BL = (lengths_B.unsqueeze(1) - 1 - place_L).clamp(min=0)
        x_BLD = self.dropout(x_BLD * self.scale + self.position(age_BL))
        for block in self.blocks:
            x_BLD = block(x_BLD, None)
        normed_BLD: Tensor = self.norm(x_BLD)
        return normed_BLD
