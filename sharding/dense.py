"""The dense part beside the tables: a copy on every rank (DDP), or shared out among ranks (FSDP2, HSDP).

```python
layout = dense_layout("hsdp", world_size=16, local_world_size=8)  # two copies, each on the ranks of a host
dmp = shard_model(model, plan, tables, optimizer, device=device, dense=layout)
```

`sharding.dense_part` reckons what that takes.

Source: Zhang et al. 2022, arXiv:2203.11014, section on training with hybrid sharded data parallel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from sharding.errors import PlanError
from sharding.mesh import replica_mesh

DenseParallel = Literal["ddp", "fsdp", "hsdp"]


@dataclass(frozen=True)
class DenseLayout:
    """Which ranks hold the dense part.

    Attributes:
        world_size: ranks in all.
        shard_group_size: neighbouring ranks that hold one copy together; 1: every rank holds its own.
        timeout_seconds: how long a rank waits for the others of its groups.
    """

    world_size: int = 1
    shard_group_size: int = 1
    timeout_seconds: float = 120

    @property
    def is_sharded(self) -> bool:
        """Return whether ranks hold parts instead of copies."""
        return self.shard_group_size > 1

    @property
    def replicas(self) -> int:
        """Return the copies over all ranks."""
        return self.world_size // self.shard_group_size


REPLICATED = DenseLayout()
"""A copy on every rank."""


def dense_layout(
    parallel: DenseParallel,
    *,
    world_size: int,
    local_world_size: int,
    shard_group_size: int | None = None,
    timeout_seconds: float = 120,
) -> DenseLayout:
    """Return who holds what under a mode. One rank alone holds everything under every mode.

    Args:
        parallel: `ddp`: every rank a copy; `fsdp`: all ranks one copy; `hsdp`: each group of ranks one copy.
        world_size: ranks in all.
        local_world_size: ranks of a host.
        shard_group_size: ranks of a group under `hsdp`; default those of a host.
        timeout_seconds: how long a rank waits for the others of its groups.

    Raises:
        PlanError: groups of this size do not make up the ranks, or have one rank each.
    """
    if parallel == "ddp" or world_size == 1:
        return DenseLayout(world_size, 1, timeout_seconds)
    if parallel == "fsdp":
        return DenseLayout(world_size, world_size, timeout_seconds)
    size = local_world_size if shard_group_size is None else shard_group_size
    if size < 2 or world_size % size:
        raise _no_groups(world_size, size, chosen=shard_group_size is not None)
    return DenseLayout(world_size, size, timeout_seconds)


def _no_groups(world_size: int, size: int, *, chosen: bool) -> PlanError:
    allowed = [number for number in range(2, world_size + 1) if world_size % number == 0]
    what = "has one rank, which would hold a whole copy" if size == 1 else "does not divide the ranks evenly"
    return PlanError(
        f"a group that shares one copy of the dense part {what}",
        where="train.dense_shard_group_size",
        got=f"{size}{'' if chosen else ' (the ranks of one host)'}, {world_size} ranks",
        allowed=allowed,
        fixes=[
            f"train.dense_shard_group_size: {min(allowed, key=lambda number: abs(number - size))}",
            "train.dense_parallel: fsdp (one copy over all ranks)",
            "train.dense_parallel: ddp (a copy on every rank)",
        ],
    )


def shard_dense(model: nn.Module, layout: DenseLayout, device: torch.device) -> None:
    """Turn every parameter outside the tables into this rank's part of it, in place.

    Every rank of the default process group calls it, with the same weights, before the tables are sharded.

    Args:
        model: tables on the meta device, dense part anywhere; it comes to `device`.
        layout: that splits.
        device: of this rank.

    Raises:
        PlanError: a parameter is a scalar.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 0:
            raise PlanError(
                "a scalar parameter cannot be shared out among ranks",
                where=f"parameter {name}",
                got="shape []",
                fixes=["give it shape [1] in the model", "train.dense_parallel: ddp"],
            )
    mesh = _mesh(layout, device)
    tables = {p for module in model.modules() if is_collection(module) for p in module.parameters()}
    # The model itself comes last: it takes the parameters that no unit has, and its forward is the root.
    for unit in (*dense_units(model), model):
        fully_shard(unit, mesh=mesh, ignored_params=tables)


def let_go_of_whole_weights(model: nn.Module) -> None:
    """Let go of weights that FSDP2 holds whole until the next backward pass, so that it gathers them anew.

    A forward pass without a backward one leaves those of the outermost module whole.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local_part(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor that ranks may share: a view of it, or the whole tensor."""
    if not isinstance(tensor, DTensor):
        return tensor
    local: Tensor = tensor.to_local()
    return local


def _mesh(layout: DenseLayout, device: torch.device) -> DeviceMesh:
    world = dist.group.WORLD
    assert world is not None
    assert world.size() == layout.world_size
    if layout.replicas == 1:
        return DeviceMesh.from_group(world, device.type)
    ranks = torch.arange(layout.world_size).reshape(layout.replicas, layout.shard_group_size)
    return replica_mesh(ranks, device.type, timedelta(seconds=layout.timeout_seconds))


def dense_units(model: nn.Module) -> Iterator[nn.Module]:
    """Yield what is gathered, computed and let go as one: the largest modules without tables.

    Of a `Sequential` or `ModuleList` each member is a unit of its own, such as each layer of DHEN.
    """
    for child in model.children():
        if next(child.parameters(), None) is None or is_collection(child):
            continue
        if isinstance(child, (nn.Sequential, nn.ModuleList)) or any(map(is_collection, child.modules())):
            yield from dense_units(child)
        elif type(child).forward is not nn.Module.forward:  # Else nothing tells when to gather it.
            yield child


def is_collection(module: nn.Module) -> bool:
    """Return whether a module is the tables' own, which TorchRec shards."""
    return isinstance(module, (EmbeddingBagCollection, EmbeddingCollection))
