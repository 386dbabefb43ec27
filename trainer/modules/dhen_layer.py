"""One layer of DHEN: several interaction modules side by side, their ensemble, a shortcut and a norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from trainer.modules.interactions import LinearInteraction

EnsembleName = Literal["concat", "sum", "weighted_sum"]
LayerNormName = Literal["layer", "none"]


class Ensemble(nn.Module):
    """Joins the outputs u_1 .. u_k of a layer's modules.

    `concat` puts their vectors one after the other; `sum` and `weighted_sum` add them up, the latter with one
    learned number per module. Chosen, as the paper does not say: the numbers are free (no softmax) and start
    at 1, so that training starts from `sum`.

    Args:
        name: how to join.
        num_modules: k.
    """

    def __init__(self, name: EnsembleName, num_modules: int) -> None:
        super().__init__()
        self.name = name
        if name == "weighted_sum":
            self.weights_K = nn.Parameter(torch.ones(num_modules))

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Join k tensors [B, l_i, d] to [B, sum of l_i, d] under `concat`, else [B, l, d]."""
        if self.name == "concat":
            return torch.cat(list(outputs), dim=1)
        stacked_KBLD = torch.stack(list(outputs))
        if self.name == "weighted_sum":
            stacked_KBLD = stacked_KBLD * self.weights_K.reshape(-1, 1, 1, 1)
        return stacked_KBLD.sum(dim=0)


class DhenLayer(nn.Module):
    """`X_(n+1) = Norm(Ensemble_k(Interaction_k(X_n)) + ShortCut(X_n))`.

    The shortcut is X_n itself where the number of vectors stays the same, else `W_n X_n`; the norm is a layer
    norm over the d numbers of each vector.

    Args:
        interactions: modules, each [B, m, d] to [B, l_i, d].
        ensemble: how to join their outputs.
        num_inputs: m.
        num_outputs: vectors that the ensemble gives.
        dim: d.
        norm: `none` leaves it out.

    Source: Zhang et al. 2022, arXiv:2203.11014, section "Hierarchical Ensemble": the layer's equation and the
    one of ShortCut.
    """

    def __init__(
        self,
        interactions: Sequence[nn.Module],
        ensemble: EnsembleName,
        num_inputs: int,
        num_outputs: int,
        dim: int,
        norm: LayerNormName = "layer",
    ) -> None:
        super().__init__()
        self.interactions = nn.ModuleList(interactions)
        self.ensemble = Ensemble(ensemble, len(interactions))
        self.shortcut: nn.Module = (
            nn.Identity() if num_inputs == num_outputs else LinearInteraction(num_inputs, num_outputs)
        )
        self.norm: nn.Module = nn.LayerNorm(dim) if norm == "layer" else nn.Identity()

    def forward(self, x_BMD: Tensor) -> Tensor:
        """Map [B, m, d] to [B, num_outputs, d]."""
        joined = self.ensemble([interaction(x_BMD) for interaction in self.interactions])
        normed: Tensor = self.norm(joined + self.shortcut(x_BMD))
        return normed
