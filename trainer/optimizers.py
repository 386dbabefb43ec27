"""Optimizers of the dense part and of the tables, under one learning-rate factor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper

from sharding.optimizers import TableOptimizer
from trainer.config import DenseOptimizerConfig
from trainer.lamb import Lamb
from trainer.max_norm import MaxNorm


class Optimizers:
    """All optimizers of a run.

    Fused table optimizers update inside the backward pass with the learning rate they hold then, and take a
    new rate from their param groups in `zero_grad`; data-parallel tables update in `step`.

    Attributes:
        steps: done so far; given where a run is taken up again.
    """

    def __init__(
        self,
        tables: KeyedOptimizer,
        dense: dict[str, nn.Parameter],
        config: DenseOptimizerConfig,
        max_norm: MaxNorm | None = None,
    ) -> None:
        self.steps = 0
        self._max_norm = max_norm
        self._tables = tables
        self._dense_parameters = list(dense.values())
        # All of matrix factorization may be tables.
        self._dense = (
            KeyedOptimizerWrapper(dense, lambda parameters: _dense_optimizer(parameters, config))
            if dense
            else None
        )
        self._combined = CombinedOptimizer([tables] if self._dense is None else [tables, self._dense])
        self._base = [float(group["lr"]) for group in self._combined.param_groups]

    def begin_step(self, factor: float, parts: int = 1) -> None:
        """Clear gradients and set every learning rate to its base times the factor.

        Args:
            factor: of the learning rates.
            parts: backward passes of a step.
        """
        for group, base in zip(self._combined.param_groups, self._base, strict=True):
            group["lr"] = base * factor
        self._combined.zero_grad()
        if isinstance(self._tables, TableOptimizer):
            self._tables.count(self.steps, parts)
        self.steps += 1

    def end_step(self, max_gradient_norm: float | None) -> None:
        """Clip the dense gradients, update the dense parameters and bound the norms of their units.

        The norm is that of all gradients of the dense part: each rank holds them whole, or as parts
        (DTensors) whose norm takes one all-reduce.
        """
        if max_gradient_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._dense_parameters, max_gradient_norm)
        self._combined.step()
        if self._max_norm is not None:
            self._max_norm.apply()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all optimizers, sharded as their parameters are.

        Parameters without state are left out. Where a rank has no shard of some table, torch reads a
        checkpoint by the rules of torch 2.3, under which an empty state is a key that the file lacks.
        """
        state = self._combined.state_dict()["state"]
        return {"state": {name: values for name, values in state.items() if values}}

    def make_state(self) -> None:
        """Make the dense state that otherwise appears at the first step: a load fills only what exists.

        This takes one step with zero gradients, so weights and state must be loaded right after.
        """
        if self._dense is not None:
            self._dense.init_state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that a checkpoint filled in."""
        names = self._combined.state_dict()["state"]
        self._combined.load_state_dict({"state": {name: state["state"].get(name, {}) for name in names}})


def _dense_optimizer(parameters: Iterable[Any], config: DenseOptimizerConfig) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    if config.name == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=config.momentum, weight_decay=decay)
    if config.name == "adagrad":
        return torch.optim.Adagrad(parameters, lr=rate, eps=config.eps, weight_decay=decay)
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "lamb": Lamb,
    }
    return kinds[config.name](parameters, lr=rate, betas=config.betas, eps=config.eps, weight_decay=decay)
