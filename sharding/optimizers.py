"""The optimizer of the embedding tables: fused into the backward pass, and its equal for replicated tables.

Tables under `data_parallel` have dense gradients that DDP averages, so no kernel updates them. The
optimizer here updates them by the rule of the fused kernel, and keeps its state under the same names,
so that a checkpoint moves between sharding types.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
    WeightDecayMode,
)
from torch import Tensor
from torchrec.optim import keyed, optimizers, rowwise_adagrad
from torchrec.optim.keyed import CombinedOptimizer

from sharding.tables import TableSpec

_CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": optimizers.SGD,
    "adagrad": optimizers.Adagrad,
    "rowwise_adagrad": rowwise_adagrad.RowWiseAdagrad,
    "adam": optimizers.Adam,
    "adamw": optimizers.Adam,  # FBGEMM's decays weights apart from the gradient.
    "partial_rowwise_adam": optimizers.PartialRowWiseAdam,
    "lamb": optimizers.LAMB,
}
ADAM_FAMILY = ("adam", "adamw", "partial_rowwise_adam")


@dataclass(frozen=True)
class FusedOptimizer:
    """Optimizer of the embedding tables; the fields are those of `train.embedding_optimizer`.

    Attributes:
        name: `rowwise_adagrad`, `adagrad`, `sgd`, `adam`, `adamw`, `partial_rowwise_adam` or `lamb`.
        learning_rate: for tables without a learning rate of their own.
        eps: added to the denominator.
        weight_decay: on the rows that the batch touches: L2 of `rowwise_adagrad`, else apart from the
            gradient.
        betas: only for the Adam family and LAMB.
    """

    name: str = "rowwise_adagrad"
    learning_rate: float = 0.02
    eps: float = 1e-8
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)

    def learning_rate_of(self, table: TableSpec) -> float:
        """Return the learning rate of a table: its own, else the optimizer's."""
        return self.learning_rate if table.learning_rate is None else table.learning_rate

    @property
    def counts_steps(self) -> bool:
        """Return whether its steps depend on how many were done."""
        return self.name in (*ADAM_FAMILY, "lamb")


def optimizer_class(optimizer: FusedOptimizer) -> type[torch.optim.Optimizer]:
    """Return the class by which TorchRec knows the fused optimizer."""
    return _CLASSES[optimizer.name]


def fused_arguments(optimizer: FusedOptimizer, table: TableSpec) -> dict[str, Any]:
    """Return the arguments of FBGEMM's fused optimizer for one table."""
    arguments: dict[str, Any] = {"lr": optimizer.learning_rate_of(table), "eps": optimizer.eps}
    if optimizer.name in ("adam", "adamw", "partial_rowwise_adam", "lamb"):
        arguments.update(beta1=optimizer.betas[0], beta2=optimizer.betas[1])
    if table.lookup_group is not None:
        # TorchRec looks up together what has equal arguments; the kernel never sees this one.
        arguments["_batch_key"] = table.lookup_group
    if optimizer.weight_decay:
        arguments["weight_decay"] = optimizer.weight_decay
        if optimizer.name == "rowwise_adagrad":
            # Without a mode this kernel ignores the decay.
            arguments["weight_decay_mode"] = WeightDecayMode.L2
    return arguments


class TableOptimizer(CombinedOptimizer):  # type: ignore[misc]
    """The optimizers of all tables.

    The correction of Adam's moments needs the number of steps done. FBGEMM counts the forward passes of a
    process instead: evaluations would count, and a run that was taken up again would begin at 0.

    Args:
        parts: the fused optimizer, and that of the data-parallel tables if there are any.
        kernels: whose optimizers count.
    """

    def __init__(
        self,
        parts: list[keyed.KeyedOptimizer],
        kernels: Sequence[SplitTableBatchedEmbeddingBagsCodegen] = (),
    ) -> None:
        super().__init__(parts)
        self._kernels = kernels
        wrapped = [part._optimizer for part in parts if isinstance(part, keyed.KeyedOptimizerWrapper)]
        self._replicated = [part for part in wrapped if isinstance(part, ReplicatedTableOptimizer)]

    def count(self, steps: int, parts: int = 1) -> None:
        """Take the number of steps done before the next one.

        Args:
            steps: that number.
            parts: backward passes of a step; at each the fused kernels update.
        """
        for part in self._replicated:
            part.steps = steps
        for kernel in self._kernels:
            kernel.iter.fill_(steps * parts)
            kernel.iter_cpu.fill_(steps * parts)


_ROW_MOMENTS = {"rowwise_adagrad": "momentum1", "partial_rowwise_adam": "exp_avg_sq"}
"""The moment that has one number a row, and not one for each element."""


class ReplicatedTableOptimizer(torch.optim.Optimizer):
    """SGD, Adagrad and Adam, element-wise or row-wise, on dense gradients, by the rules of the fused kernels.

    Rows whose gradient is zero everywhere stay as they are, moments too, as rows that no id touched do in the
    kernel; under Adam the kernel moves a row that was looked up by its moments, though its gradient be zero.
    State exists from the start, so that a checkpoint can be loaded before the first step.

    Args:
        groups: one param group for each table: `params` (one parameter [rows, columns]), `name`, `lr`.
        optimizer: the rule and its numbers.

    Attributes:
        steps: done before the next one; Adam's correction of its moments needs it.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], optimizer: FusedOptimizer) -> None:
        super().__init__(groups, {"lr": optimizer.learning_rate})
        self._rule, self.steps = optimizer, 0
        moments = [] if optimizer.name == "sgd" else ["momentum1"]
        if optimizer.name in ADAM_FAMILY:
            moments.append("exp_avg_sq")
        by_row = _ROW_MOMENTS.get(optimizer.name)
        for group in self.param_groups if moments else ():
            (weight,) = group["params"]
            self.state[weight] = {
                f"{group['name']}.{moment}": torch.zeros(
                    weight.shape[:1] if moment == by_row else weight.shape,
                    dtype=torch.float32,
                    device=weight.device,
                )
                for moment in moments
            }

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Apply the averaged gradients; return the loss where a closure gives one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.steps += 1
        for group in self.param_groups:
            (weight,) = group["params"]
            if weight.grad is not None:
                moments = list(self.state[weight].values()) if weight in self.state else []
                _update(weight, weight.grad, moments, group["lr"], self._rule, self.steps)
        return loss


def _update(
    weight_ED: Tensor,
    gradient_ED: Tensor,
    moments: list[Tensor],
    rate: float,
    rule: FusedOptimizer,
    step: int,
) -> None:
    """Update the touched rows in place: E rows, D columns."""
    touched_R = gradient_ED.ne(0).any(dim=1).nonzero().squeeze(1)
    gradient_RD = gradient_ED[touched_R].float()
    if rule.name in ADAM_FAMILY:
        first_RD, second = (
            _averaged(moment, touched_R, added, beta) / (1 - beta**step)
            for moment, added, beta in zip(
                moments, (gradient_RD, _squared(gradient_RD, rule)), rule.betas, strict=True
            )
        )
        step_RD = first_RD / (second.sqrt() + rule.eps)
        if rule.weight_decay:
            step_RD = step_RD + rule.weight_decay * weight_ED[touched_R].float()
    else:
        if rule.weight_decay:
            gradient_RD = gradient_RD + rule.weight_decay * weight_ED[touched_R].float()
        step_RD = gradient_RD
        if rule.name != "sgd":
            squared = _squared(gradient_RD, rule)
            moments[0].index_add_(0, touched_R, squared.reshape(-1, *moments[0].shape[1:]))
            root = moments[0][touched_R].sqrt() + rule.eps
            step_RD = gradient_RD / root.reshape(squared.shape)
    weight_ED.index_add_(0, touched_R, (-rate * step_RD).to(weight_ED.dtype))


def _squared(gradient_RD: Tensor, rule: FusedOptimizer) -> Tensor:
    """Return [R, D], or the mean of each row, [R, 1]."""
    square_RD = gradient_RD.square()
    return square_RD.mean(dim=1, keepdim=True) if rule.name in _ROW_MOMENTS else square_RD


def _averaged(moment: Tensor, touched_R: Tensor, added: Tensor, beta: float) -> Tensor:
    """Move the touched rows of a moment on, and return them in the shape of what was added."""
    rows = moment[touched_R].reshape(added.shape).lerp_(added, 1 - beta)
    moment[touched_R] = rows.reshape(-1, *moment.shape[1:])
    return rows


def replicated_table_optimizer(
    parameters: Mapping[str, torch.nn.Parameter], tables: Mapping[str, TableSpec], optimizer: FusedOptimizer
) -> keyed.KeyedOptimizer:
    """Build the optimizer of the data-parallel tables.

    Args:
        parameters: by their full name, `<module>.<table>.weight`.
        tables: by table name.
        optimizer: the rule and its numbers.
    """
    groups = []
    for name, parameter in parameters.items():
        table = tables[name.split(".")[-2]]
        rate = optimizer.learning_rate_of(table)
        groups.append({"params": [parameter], "name": table.name, "lr": rate})
    return keyed.KeyedOptimizerWrapper(parameters, lambda _: ReplicatedTableOptimizer(groups, optimizer))
