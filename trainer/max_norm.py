"""Max-norm regularisation of the dense part: a bound on what each unit of a layer can magnify."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sharding.dense import local_part
from trainer.errors import ConfigError

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class MaxNorm:
    """Scales the incoming weights of every unit back to a norm where they are longer.

    Units are those of linear and convolution layers and of the projections of torch's attention. Biases,
    norms, learned vectors, recurrent layers and cross layers are left alone, and so is what is frozen.

    Without it layers can make up for the L2 of embeddings: they magnify what short vectors say.

    Args:
        model: sharded or not. Where ranks share a matrix they hold whole rows, one a unit, so each scales its
            own.
        bound: of the Euclidean norm of a unit's weights.

    Raises:
        ConfigError: the model has no such layer.

    Source: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    section 5.1.
    """

    def __init__(self, model: nn.Module, bound: float) -> None:
        self._weights, self._bound = list(_unit_weights(model)), bound
        if not self._weights:
            raise ConfigError(
                "the model has no layer whose weights could be bounded",
                where="train.dense_optimizer.max_norm",
                got=bound,
                fixes=["leave it out"],
            )

    @torch.no_grad()
    def apply(self) -> None:
        """Scale the weights that a step has made too long, in place."""
        for weight in self._weights:
            rows = local_part(weight)
            if weight.requires_grad and rows.numel():
                rows.renorm_(p=2, dim=0, maxnorm=self._bound)


def _unit_weights(model: nn.Module) -> Iterator[Tensor]:
    """Yield the matrices of a model with one unit a row."""
    for module in model.modules():
        if isinstance(module, _LAYERS):
            yield module.weight
        elif isinstance(module, nn.MultiheadAttention):
            # One matrix, or three where keys or values have another width; the output's is a linear layer.
            projections = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
            yield from (weight for name in projections if (weight := getattr(module, name)) is not None)
