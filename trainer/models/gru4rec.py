"""GRU4Rec, a recurrent network over sessions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from pydantic import PositiveInt
from torch import Tensor, nn

from trainer.item_sampling import ItemNegatives
from trainer.losses.ranking import Objective
from trainer.modules.row_dropout import RowDropout
from trainer.modules.sequence_model import SequenceModel, SequenceModelSection
from trainer.registry import ModelInputs, register_model


class Gru4RecConfig(SequenceModelSection):
    """Config keys of `gru4rec`."""

    hidden_dim: PositiveInt = 128
    """Width of the recurrent layers."""
    num_layers: PositiveInt = 1
    """Recurrent layers."""
    objective: Objective = "sampled_softmax"
    """As in other models of queries and items; the papers have `bpr` and the cross-entropy of
    `sampled_softmax`, over the items of the batch and further ones."""
    negatives: ItemNegatives = ItemNegatives(shared=512)
    """Where the items come from that the next one is told from."""


@register_model(
    "gru4rec",
    config=Gru4RecConfig,
    task="sequence",
    source="Hidasi et al. 2016, arXiv:1511.06939; Hidasi and Karatzoglou 2018, arXiv:1706.03847",
)
class GRU4Rec(SequenceModel):
    """The next item by gated recurrent layers over those before it.

    A sequence is learnt from its start on, where the papers carry the state of a session over batches. What
    the last layer gives is brought to the width of the items' vectors, which it shares with the history.

    Args:
        inputs: features and tables, completed by the config.
        config: the model's config section.

    Source: Hidasi et al. 2016, arXiv:1511.06939, section 3; losses of Hidasi and Karatzoglou 2018,
    arXiv:1706.03847, section 3.
    """

    def __init__(self, inputs: ModelInputs, config: Gru4RecConfig) -> None:
        super().__init__(inputs, config)
        self.encoder = _Encoder(self.item_dim, config)


class _Encoder(nn.Module):
    def __init__(self, dim: int, config: Gru4RecConfig) -> None:
        super().__init__()
        widths = [dim] + [config.hidden_dim] * config.num_layers
        self.layers = nn.ModuleList(
            Gru(before, after, batch_first=True) for before, after in pairwise(widths)
        )
        self.dropouts = nn.ModuleList(RowDropout(config.dropout) for _ in self.layers)
        self.out = nn.Linear(config.hidden_dim, dim)

    def forward(self, x_BLD: Tensor, lengths_B: Tensor) -> Tensor:  # noqa: ARG002
        """Return [B, L, D]; padding follows what it could disturb."""
        hidden_BLX = x_BLD
        for dropout, layer in zip(self.dropouts, self.layers, strict=True):
            hidden_BLX, _ = layer(dropout(hidden_BLX))
        out_BLD: Tensor = self.out(hidden_BLX)
        return out_BLD


class Gru(nn.GRU):
    """A GRU that sees when its weights have been put in anew, as FSDP does before each forward pass."""

    def forward(self, *inputs: Any) -> Any:
        """Return what `nn.GRU` returns."""
        self._flat_weights = [getattr(self, name) for name in self._flat_weights_names]
        return super().forward(*inputs)
