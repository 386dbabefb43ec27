"""BERT4Rec, bidirectional self-attention trained on masked items."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from sharding.hashing import hashed_seed, splitmix64_, unit_interval
from trainer.batch import Batch
from trainer.losses.ranking import Objective
from trainer.modules.by_length import encoded
from trainer.modules.field_arch import WEIGHT_COLUMNS
from trainer.modules.item_lists import ages, chosen, newest, places, with_last
from trainer.modules.item_model import Examples
from trainer.modules.lookup import Found
from trainer.modules.row_dropout import RowDropout, row_numbers
from trainer.modules.sequence_model import SequenceModel, SequenceModelSection, at_places, ends
from trainer.modules.sequence_pooling import segment_rows
from trainer.modules.transformer import TransformerBlock, check_heads, start_normal
from trainer.registry import ModelInputs, register_model

_MASK_STEP = 0xA24BAED4963EE407  # Odd: its draws share no key with those of other layers.


class Bert4RecConfig(SequenceModelSection):
    """Config keys of `bert4rec`; an item's bias stands in 4 further columns of the items' table."""

    num_layers: PositiveInt = 2
    """Blocks of attention and point-wise network."""
    num_heads: PositiveInt = 2
    """Of each block's attention."""
    mask_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of a row's items that are masked in training and to be found; at least one is."""
    last_share: float = Field(default=0.1, ge=0, le=1)
    """Share of rows of which the newest item alone is masked, as in evaluation. `positions: last` masks it in
    all rows."""
    objective: Objective = "softmax"
    """As in other models of queries and items."""

    def queries_per_row(self, inputs: ModelInputs) -> float:
        """Return the mean number of masked items of a row."""
        return max(1.0, self.mask_share * super().queries_per_row(inputs))

    def item_columns(self, inputs: ModelInputs) -> int:
        """Return the columns of the items' table: a vector and a bias."""
        return super().item_columns(inputs) + WEIGHT_COLUMNS

    def completed(self, inputs: ModelInputs) -> ModelInputs:
        """Return the inputs with what is looked up besides, once the heads fit."""
        table = inputs.table_of(self.item_feature(inputs))
        check_heads(self.num_heads, table.embedding_dim, table.name)
        return super().completed(inputs)


@register_model(
    "bert4rec", config=Bert4RecConfig, task="sequence", source="Sun et al. 2019, arXiv:1904.06690"
)
class BERT4Rec(SequenceModel):
    """Masked items by bidirectional self-attention over all others; the next one is a mask at the end.

    Which items are masked is drawn anew in each epoch, alike at every world size. Items share their vectors
    with the history.

    Args:
        inputs: features and tables, completed by the config.
        config: the model's config section.

    Source: Sun et al. 2019, arXiv:1904.06690, section 3.
    """

    def __init__(self, inputs: ModelInputs, config: Bert4RecConfig) -> None:
        super().__init__(inputs, config)
        self.mask_share = config.mask_share
        self.last_share = 1.0 if config.positions == "last" else config.last_share
        self.encoder = Encoder(self.item_dim - WEIGHT_COLUMNS, config)

    def examples(self, batch: Batch) -> Examples:
        """Return each row's items, and those of them that are masked."""
        ids = self.sequences(batch, self.max_length)
        masked_N = self._masked(ids, batch.rows_B)
        target_N = masked_N & (ids.values() >= self.sampler.first)
        extra = (JaggedTensor(masked_N, lengths=ids.lengths()), places(ids)[target_N])
        return Examples(chosen(ids, target_N), {self.history: ids}, extra)

    def queries(self, found: Found, batch: Batch, examples: Examples | None) -> Tensor:  # noqa: ARG002
        """Return vector and 1 of each masked item, or of a mask behind each history."""
        vectors = found[self.history]
        assert isinstance(vectors, JaggedTensor)
        width = vectors.values().shape[1] - WEIGHT_COLUMNS
        vectors = JaggedTensor(vectors.values()[:, :width], lengths=vectors.lengths())
        if examples is None:
            vectors = newest(vectors, self.max_length - 1)
            vectors = with_last(vectors, vectors.values().new_zeros(len(vectors.lengths()), width))
            masked = JaggedTensor(ages(vectors) == 0, lengths=vectors.lengths())
        else:
            masked, _ = examples.extra
        hidden_ND = encoded(self.encoder, vectors, masked.values().unsqueeze(1))
        if examples is None:
            query_QD = ends(hidden_ND, vectors)
        else:
            query_QD = at_places(hidden_ND, vectors, segment_rows(examples.targets), examples.extra[1])
        return torch.cat([query_QD, torch.ones_like(query_QD[:, :1])], dim=1)

    def items(self, vectors_ND: Tensor) -> Tensor:
        """Return vector and bias of items."""
        return vectors_ND[:, : vectors_ND.shape[1] - WEIGHT_COLUMNS + 1]

    @torch.no_grad()
    def _masked(self, ids: JaggedTensor, rows_B: Tensor) -> Tensor:
        """Return which of the N items are masked: by a hash of the step's seed, the row and the place."""
        row_N, last_N = segment_rows(ids), ages(ids) == 0
        key_B = splitmix64_(row_numbers(rows_B) + hashed_seed(rows_B.device, _MASK_STEP))
        masked_N = unit_interval(splitmix64_(key_B[row_N] + places(ids) + 1)) < self.mask_share
        none_B = torch.ones_like(key_B, dtype=torch.bool)
        none_B[row_N[masked_N]] = False
        only_last_B = none_B | (unit_interval(splitmix64_(key_B.clone())) < self.last_share)
        return torch.where(only_last_B[row_N], last_N, masked_N)


class Encoder(nn.Module):
    """Masks, positions and the blocks.

    Args:
        dim: D.
        config: of the model.
    """

    def __init__(self, dim: int, config: Bert4RecConfig) -> None:
        super().__init__()
        self.position = nn.Embedding(config.max_length, dim)
        self.mask = nn.Embedding(1, dim)
        self.norm, self.dropout = nn.LayerNorm(dim), RowDropout(config.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, config.num_heads, 4 * dim, config.dropout, "gelu", "last")
            for _ in range(config.num_layers)
        )
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim))
        start_normal(self)

    def forward(self, x_BLD: Tensor, lengths_B: Tensor, masked_BL1: Tensor) -> Tensor:
        """Return [B, L, D].

        Args:
            x_BLD: vectors of the items.
            lengths_B: how many of a row are no padding.
            masked_BL1: where the mask's vector stands in place of an item's.
        """
        x_BLD = torch.where(masked_BL1, self.mask.weight[0], x_BLD)
        x_BLD = x_BLD + self.position.weight[: x_BLD.shape[1]]
        x_BLD = self.dropout(self.norm(x_BLD))
        for block in self.blocks:
            x_BLD = block(x_BLD, lengths_B)
        out_BLD: Tensor = self.out(x_BLD)
        return out_BLD
