"""HSTU, hierarchical sequential transduction units."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.item_sampling import ItemNegatives
from trainer.losses.ranking import Objective
from trainer.modules.item_model import Examples
from trainer.modules.lookup import Found
from trainer.modules.row_dropout import RowDropout
from trainer.modules.sequence_model import SequenceModel, SequenceModelSection
from trainer.modules.transformer import check_heads, start_normal
from trainer.registry import ModelInputs, register_model


class HstuConfig(SequenceModelSection):
    """Config keys of `hstu`."""

    num_layers: PositiveInt = 2
    """Units, one upon the other."""
    num_heads: PositiveInt = 2
    """Of each unit's attention."""
    objective: Objective = "sampled_softmax"
    """As in other models of queries and items."""
    negatives: ItemNegatives = ItemNegatives(per_query=128)
    """Where the items come from that the next one is told from; `shared` ones are cheaper."""
    temperature: float = Field(default=0.05, gt=0)
    """What scores, cosines from -1 to 1, are divided by in the loss; under `pointwise` in predictions too."""

    def completed(self, inputs: ModelInputs) -> ModelInputs:
        """Return the inputs with what is looked up besides, once the heads fit."""
        table = inputs.table_of(self.item_feature(inputs))
        check_heads(self.num_heads, table.embedding_dim, table.name)
        return super().completed(inputs)


@register_model("hstu", config=HstuConfig, task="sequence", source="Zhai et al. 2024, arXiv:2402.17152")
class HSTU(SequenceModel):
    """The next item by pointwise aggregated attention over those before it, gated item by item.

    Scores are cosines. The bias of a pair of places depends on their distance; the paper's other one, on the
    time between them, is left out, since rows hold no times.

    Args:
        inputs: features and tables, completed by the config.
        config: the model's config section.

    Source: Zhai et al. 2024, arXiv:2402.17152, section 3.2.
    """

    def __init__(self, inputs: ModelInputs, config: HstuConfig) -> None:
        super().__init__(inputs, config)
        self.encoder = _Encoder(self.item_dim, config)

    def queries(self, found: Found, batch: Batch, examples: Examples | None) -> Tensor:
        """Return vectors of length 1; zeros where the history is empty."""
        return nn.functional.normalize(super().queries(found, batch, examples).float(), dim=1)

    def items(self, vectors_ND: Tensor) -> Tensor:
        """Return vectors of length 1."""
        return nn.functional.normalize(vectors_ND.float(), dim=1)


class _Encoder(nn.Module):
    def __init__(self, dim: int, config: HstuConfig) -> None:
        super().__init__()
        self.scale = dim**0.5
        self.position = nn.Embedding(config.max_length, dim)
        self.dropout = RowDropout(config.dropout)
        self.units = nn.ModuleList(
            Unit(dim, config.num_heads, config.max_length, config.dropout) for _ in range(config.num_layers)
        )
        start_normal(self)

    def forward(self, x_BLD: Tensor, lengths_B: Tensor) -> Tensor:  # noqa: ARG002
        """Return [B, L, D]; padding follows what it could disturb."""
        x_BLD = self.dropout(x_BLD * self.scale + self.position.weight[: x_BLD.shape[1]])
        for unit in self.units:
            x_BLD = unit(x_BLD)
        return x_BLD


class Unit(nn.Module):
    """One unit: projection, attention, gate and output, with a residual connection.

    Source: Zhai et al. 2024, arXiv:2402.17152, equations 1 to 3.
    """

    def __init__(self, dim: int, num_heads: int, max_length: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.max_length = num_heads, max_length
        self.norm, self.attended_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.into = nn.Linear(dim, 4 * dim, bias=False)
        self.distance = nn.Embedding(max_length, 1)
        self.dropout = RowDropout(dropout)
        self.out = nn.Linear(dim, dim)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Return [B, L, D]; each place sees itself and those before it."""
        rows, length, dim = x_BLD.shape
        parts = nn.functional.silu(self.into(self.norm(x_BLD)))
        gate_BLD, rest = parts[..., :dim], parts[..., dim:]
        heads = rest.reshape(rows, length, 3, self.num_heads, dim // self.num_heads)
        value, query, key = heads.permute(2, 0, 3, 1, 4)  # [B, H, L, D / H] each
        place_L = torch.arange(length, device=x_BLD.device)
        distance_LL = place_L.unsqueeze(1) - place_L
        bias_LL = self.distance(distance_LL.clamp(min=0)).squeeze(2)
        weights = nn.functional.silu(query @ key.transpose(2, 3) + bias_LL) / self.max_length
        attended = weights.masked_fill(distance_LL < 0, 0.0).to(value.dtype) @ value
        attended_BLD = self.attended_norm(attended.transpose(1, 2).reshape(rows, length, dim))
        out_BLD: Tensor = x_BLD + self.out(self.dropout(attended_BLD * gate_BLD))
        return out_BLD
