"""From a sequence of embeddings to one vector, without padding it first."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

SequencePooling = Literal["attention", "mean"]


class MeanSequencePooling(nn.Module):
    """Mean over the items; an empty sequence gives zeros."""

    def forward(self, jagged: JaggedTensor) -> Tensor:
        """Return [B, D], float32.

        Args:
            jagged: embeddings [N, D] of B sequences with N items in all.
        """
        lengths_B = jagged.lengths()
        summed_BD = segment_sum(jagged.values().float(), segment_rows(jagged), lengths_B)
        mean_BD: Tensor = summed_BD / lengths_B.clamp(min=1).unsqueeze(1)
        return mean_BD


class AttentionSequencePooling(nn.Module):
    """Softmax-weighted mean over the items, the weights from a small network; an empty sequence gives zeros.

    `a_i = softmax_i(q . tanh(W x_i + b))`, output `sum_i a_i x_i`. A sequence of one item gives that item.

    Args:
        embedding_dim: D.

    Source: Yang et al. 2016, Hierarchical Attention Networks, equations 5 to 7.
    """

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(embedding_dim, embedding_dim)
        # A bias would shift all scores of a sequence alike, which the softmax takes out again.
        self.query = nn.Linear(embedding_dim, 1, bias=False)

    def forward(self, jagged: JaggedTensor) -> Tensor:
        """Return [B, D], float32.

        Args:
            jagged: embeddings [N, D] of B sequences with N items in all.
        """
        values_ND, lengths_B, rows_N = jagged.values().float(), jagged.lengths(), segment_rows(jagged)
        scores_N = self.query(torch.tanh(self.hidden(values_ND))).squeeze(1).float()
        # The softmax is taken per sequence; subtracting the sequence's largest score keeps exp finite.
        top_B = scores_N.new_full(lengths_B.shape, -torch.inf)
        top_B = top_B.scatter_reduce(0, rows_N, scores_N.detach(), "amax")
        weights_N1 = torch.exp(scores_N - top_B[rows_N]).unsqueeze(1)
        total_B1 = segment_sum(weights_N1, rows_N, lengths_B)
        return segment_sum(weights_N1 / total_B1[rows_N] * values_ND, rows_N, lengths_B)


def sequence_pooling(kind: SequencePooling, embedding_dim: int) -> nn.Module:
    """Build the pooling of one sequence feature."""
    return AttentionSequencePooling(embedding_dim) if kind == "attention" else MeanSequencePooling()


def segment_rows(jagged: JaggedTensor) -> Tensor:
    """Return for each of the N items the row of the batch that it belongs to."""
    lengths_B = jagged.lengths()
    rows_B = torch.arange(lengths_B.shape[0], device=lengths_B.device)
    # `output_size` is known: without it the GPU would have to tell the host first.
    return torch.repeat_interleave(rows_B, lengths_B, output_size=jagged.values().shape[0])


def segment_sum(values_ND: Tensor, rows_N: Tensor, lengths_B: Tensor) -> Tensor:
    """Return [B, D], the sums of the N vectors by row of the batch."""
    zeros_BD = values_ND.new_zeros(lengths_B.shape[0], values_ND.shape[1])
    return zeros_BD.index_add(0, rows_N, values_ND)
