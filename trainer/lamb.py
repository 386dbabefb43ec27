"""LAMB for the dense part, which torch lacks; parameters may be whole or parts of sharded ones (DTensors)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate

from sharding.dense import local_part


class Lamb(torch.optim.Optimizer):
    """Adam whose step of each parameter is scaled by the parameter's norm over the step's own.

    Where either norm is 0 the step stays as it is. Of a parameter that ranks share out, the norms are those
    of the whole.

    Args:
        params: dense parameters, or param groups.
        lr: learning rate.
        betas: share of the running means of gradient and square that a step keeps.
        eps: added to the denominator.
        weight_decay: share of the weights added to the step before it is scaled.

    Source: You et al. 2020, arXiv:1904.00962, algorithm 2, with the identity for phi.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters that have gradients; return the loss where a closure gives one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            steps = [self._adam_step(weight, group) for weight in weights]
            for weight, step, ratio in zip(weights, steps, _ratios(weights, steps), strict=True):
                local_part(weight).sub_(step * (group["lr"] * ratio))
        return loss

    def _adam_step(self, weight: Tensor, group: dict[str, Any]) -> Tensor:
        """Take the gradient into the moments and return the step, of the local part."""
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = torch.zeros_like(weight)
        assert weight.grad is not None
        gradient, (first, second) = local_part(weight.grad), group["betas"]
        state["step"] += 1
        taken = float(state["step"])
        mean, square = local_part(state["exp_avg"]), local_part(state["exp_avg_sq"])
        mean.lerp_(gradient, 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        root = (square / (1 - second**taken)).sqrt_().add_(group["eps"])
        step: Tensor = mean / root / (1 - first**taken)
        return step.add_(local_part(weight), alpha=group["weight_decay"])


def _ratios(weights: list[Tensor], steps: list[Tensor]) -> list[Tensor]:
    """Return the norm of each weight over that of its step, 1 where one of them is 0."""
    squares = [
        torch.stack([part.float().square().sum() for part in (local_part(weight), step)])
        for weight, step in zip(weights, steps, strict=True)
    ]
    shared: dict[Any, list[int]] = {}
    for number, weight in enumerate(weights):
        if isinstance(weight, DTensor):
            shared.setdefault((weight.device_mesh, weight.placements), []).append(number)
    for (mesh, placements), numbers in shared.items():
        parts = [Partial() if placement.is_shard() else Replicate() for placement in placements]
        local = DTensor.from_local(torch.stack([squares[n] for n in numbers]), mesh, parts)
        for number, whole in zip(numbers, local.full_tensor(), strict=True):
            squares[number] = whole
    return [torch.where((s_2 > 0).all(), (s_2[0] / s_2[1]).sqrt(), 1.0) for s_2 in squares]
