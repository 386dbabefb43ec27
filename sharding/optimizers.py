"""The optimizer of the embedding tables: fused into the backward pass, and its equal for replicated tables.

Tables under `data_parallel` have dense gradients that DDP averages, so no kernel updates them. The
optimizer here updates them by the rule of the fused kernel, and keeps its state under the same names,
so that a checkpoint moves between sharding types.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode
from torch import Tensor
from torchrec.optim import keyed, optimizers, rowwise_adagrad

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


class ReplicatedTableOptimizer(torch.optim.Optimizer):
    """SGD, Adagrad or row-wise Adagrad on dense gradients, equal to the fused kernels.

    Rows whose gradient is zero everywhere stay as they are, as rows that no id touched do in the kernel.
    State exists from the start, so that a checkpoint can be loaded before the first step.

    Args:
        groups: one param group for each table: `params` (one parameter [rows, columns]), `name`, `lr`.
        optimizer: the rule and its numbers.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], optimizer: FusedOptimizer) -> None:
        super().__init__(groups, {"lr": optimizer.learning_rate})
        self._rule = optimizer
        for group in self.param_groups:
            (weight,) = group["params"]
            if optimizer.name != "sgd":
                shape = weight.shape[:1] if optimizer.name == "rowwise_adagrad" else weight.shape
                moment = torch.zeros(shape, dtype=torch.float32, device=weight.device)
                self.state[weight] = {f"{group['name']}.momentum1": moment}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Apply the averaged gradients; return the loss where a closure gives one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            (weight,) = group["params"]
            if weight.grad is not None:
                moments = list(self.state[weight].values()) if weight in self.state else []
                _update(weight, weight.grad, moments, group["lr"], self._rule)
        return loss


def _update(
    weight_ED: Tensor, gradient_ED: Tensor, moments: list[Tensor], rate: float, rule: FusedOptimizer
) -> None:
    """Update the touched rows in place: E rows, D columns."""
    touched_R = gradient_ED.ne(0).any(dim=1).nonzero().squeeze(1)
    gradient_RD = gradient_ED[touched_R].float()
    if rule.weight_decay:
        gradient_RD = gradient_RD + rule.weight_decay * weight_ED[touched_R].float()
    if rule.name == "sgd":
        step_RD = gradient_RD
    else:
        square_RD = gradient_RD.square()
        added = square_RD.mean(dim=1) if rule.name == "rowwise_adagrad" else square_RD
        moments[0].index_add_(0, touched_R, added)
        root = moments[0][touched_R].sqrt() + rule.eps
        step_RD = gradient_RD / (root[:, None] if rule.name == "rowwise_adagrad" else root)
    weight_ED.index_add_(0, touched_R, (-rate * step_RD).to(weight_ED.dtype))


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
