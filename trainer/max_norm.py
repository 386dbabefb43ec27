"""Max-norm regularisation of the dense part: a bound on what each unit of a layer can magnify."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.tensor import DTensor

_LAYERS = (nn.Linear, nn.Conv2d)


class MaxNorm:
    """Scales the incoming weights of every unit of linear and convolution layers back to a norm.

    Without it a layer can undo the L2 of embeddings: it magnifies what short vectors say. Biases, norms and
    recurrent layers are left alone, and so are layers whose weights are frozen.

    Args:
        model: sharded or not. Where ranks share a matrix they hold whole rows, one a unit, so each scales its
            own.
        bound: of the Euclidean norm of a unit's weights.

    Source: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    section 5.1.
    """

    def __init__(self, model: nn.Module, bound: float) -> None:
        weights = {id(layer.weight): layer.weight for layer in model.modules() if isinstance(layer, _LAYERS)}
        self._weights, self._bound = list(weights.values()), bound

    @torch.no_grad()
    def apply(self) -> None:
        """Scale the weights that a step has made too long, in place."""
        for weight in self._weights:
            rows = weight.to_local() if isinstance(weight, DTensor) else weight
            if weight.requires_grad and rows.numel():
                rows.copy_(torch.renorm(rows, p=2, dim=0, maxnorm=self._bound))
