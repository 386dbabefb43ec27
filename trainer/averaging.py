"""The moving average of the dense part, which evaluation and scoring use in place of the last weights.

Tables have none: a step changes the rows of its ids alone, an average changes all rows at every step, so it
would take a second copy of the tables and a pass over both of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sharding.dense import let_go_of_whole_weights, local_part


class DenseAverage:
    """Averages of the weights and buffers outside all tables, of each rank's part where ranks share them.

    Args:
        model: sharded or not.
        weights: its floating-point weights and buffers by name, those that training changes in place.
        decay: share of the average that a step keeps once it is warm.

    Attributes:
        averages: by name, shaped and shared out as the weights are.

    Source: Polyak and Juditsky 1992, doi:10.1137/0330046, with the exponential weights of Kingma and Ba 2015,
    arXiv:1412.6980, section 7.2.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor], decay: float) -> None:
        self._model, self._weights, self._decay = model, dict(weights), decay
        self.averages = {name: weight.detach().clone() for name, weight in weights.items()}

    def update(self, step: int) -> None:
        """Take in the weights after a step.

        Args:
            step: steps done before it. The first ones keep `(1 + step) / (10 + step)` of the average at most,
                so that the initial weights are soon forgotten.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(_local(self.averages), _local(self._weights), step)

    def restart(self) -> None:
        """Begin again with the weights as they are."""
        self._copy(self._weights, self.averages)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model have the averages; afterwards it has its weights again."""
        own = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._set(self.averages)
        try:
            yield
        finally:
            self._set(own)

    def _set(self, weights: Mapping[str, Tensor]) -> None:
        self._copy(weights, self._weights)
        let_go_of_whole_weights(self._model)

    @torch.no_grad()
    def _copy(self, source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
        torch._foreach_copy_(_local(target), _local(source))


def _local(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    return [local_part(value) for value in tensors.values()]
