"""Train by a plan: the model wrapped in DistributedModelParallel, its tables filled, its parameters sorted.

```python
dmp = shard_model(model, Plan.load("plan.json"), tables, optimizer, device=device)
initialise_tables(dmp, tables, seed)
table_optimizer = build_table_optimizer(dmp, tables, optimizer)     # step it beside the dense optimizer
dense_optimizer = torch.optim.Adam(dict(dense_parameters(dmp)).values())
```
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.optim.apply_optimizer_in_backward import _apply_optimizer_in_backward
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.comm import get_local_size
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardingEnv
from torchrec.modules.embedding_configs import data_type_to_dtype

from sharding.dense import REPLICATED, DenseLayout, shard_dense
from sharding.errors import PlanError
from sharding.grouped_model import GroupedModelParallel
from sharding.locate import locate_tables
from sharding.optimizers import (
    FusedOptimizer,
    TableOptimizer,
    fused_arguments,
    optimizer_class,
    replicated_table_optimizer,
)
from sharding.plan import Plan
from sharding.quiet import quiet_torchrec
from sharding.sharders import Device, check_optimizer, sharders
from sharding.table_groups import TableGroups
from sharding.tables import TableSpec
from sharding.weights import fill_table

__all__ = [
    "FusedOptimizer",
    "build_table_optimizer",
    "data_parallel_table_parameters",
    "dense_parameters",
    "dense_tensors",
    "initialise_tables",
    "shard_model",
    "table_weights",
]


def shard_model(
    model: nn.Module,
    plan: Plan,
    tables: Sequence[TableSpec],
    optimizer: FusedOptimizer,
    *,
    device: torch.device,
    process_group: dist.ProcessGroup | None = None,
    dense: DenseLayout = REPLICATED,
    groups: TableGroups | None = None,
    host_ranks: Sequence[tuple[str, int]] = (),
) -> DistributedModelParallel:
    """Shard the model's tables by the plan and wrap its dense part in DDP, or share it out by FSDP2.

    Every rank passes the same plan; nothing is planned or broadcast here.

    Args:
        model: tables on the meta device; the wrapper takes it over.
        plan: made for this world size and kind of device.
        tables: the tables of the model.
        optimizer: of the tables.
        device: of this rank.
        process_group: default the world.
        dense: who holds the dense part; default a copy on every rank. A sharded one needs the world.
        groups: of ranks that hold a copy of the tables each; default one copy. They need the world.
        host_ranks: name and number of ranks of each host, for an error that names them.

    Returns:
        The wrapper. Table weights are arbitrary until `initialise_tables` or a checkpoint fills them. With
        more than one group it is a `GroupedModelParallel`, whose copies of the tables drift apart until its
        `sync`.

    Raises:
        PlanError: plan, model, optimizer and ranks do not belong together; each difference is named.
    """
    group = process_group or dist.group.WORLD
    if group is None:
        raise PlanError(
            "no process group: call torch.distributed.init_process_group first", where="shard_model"
        )
    kind: Device = "cuda" if device.type == "cuda" else "cpu"
    ranks = dist.get_world_size(group)
    size = ranks if groups is None else groups.shard_group_size
    plan.check(tables, world_size=ranks, device=kind, table_shard_group_size=size)
    check_optimizer(optimizer.name, kind, optimizer.weight_decay)
    plan.check_optimizer(optimizer.name)
    plan.check_trainable()
    _check_local_world_size(plan, host_ranks)
    paths = locate_tables(model, tables)
    _attach_optimizer(model, plan, tables, optimizer)
    # DDP cannot hold what FSDP2 has sharded: FSDP2 reduces those gradients, and comes first.
    if dense.is_sharded:
        shard_dense(model, dense, device)
    with quiet_torchrec():
        if groups is not None and groups.count > 1:
            own = plan.sharding_plan(kind, paths, first_rank=groups.first_rank(dist.get_rank()))
            dmp: DistributedModelParallel = GroupedModelParallel(
                model,
                groups,
                device,
                own,
                sharders(plan.communication),
                init_data_parallel=not dense.is_sharded,
            )
        else:
            dmp = DistributedModelParallel(
                module=model,
                env=ShardingEnv.from_process_group(group),
                device=device,
                plan=plan.sharding_plan(kind, paths),
                sharders=sharders(plan.communication),
                init_data_parallel=not dense.is_sharded,
            )
    if plan.communication.output_type is not None:
        _match_ranks_without_tables(dmp, data_type_to_dtype(plan.communication.output_type))
    return dmp


def _match_ranks_without_tables(dmp: DistributedModelParallel, dtype: torch.dtype) -> None:
    """Let ranks that look nothing up take part in the exchange with the data type of those that do.

    TorchRec gives them an empty fp32 tensor, by which they would read fp16 of the others as half the numbers.
    """
    for module in dmp.modules():
        for lookup in getattr(module, "_lookups", ()):
            while isinstance(lookup, DistributedDataParallel):
                lookup = lookup.module
            lookup._dummy_embs_tensor = lookup._dummy_embs_tensor.detach().to(dtype).requires_grad_()


def _check_local_world_size(plan: Plan, host_ranks: Sequence[tuple[str, int]]) -> None:
    """GPU numbers and the types inside a host need as many ranks on each host as planned."""
    inside = plan.inside_hosts()
    local = get_local_size(plan.cluster.world_size)
    uneven = len({count for _, count in host_ranks}) > 1
    on_gpu = plan.cluster.device == "cuda"
    otherwise = (inside or on_gpu) and local != plan.cluster.local_world_size
    if otherwise or (on_gpu and uneven):
        there = ", ".join(f"{host}: {count}" for host, count in host_ranks)
        raise PlanError(
            "the ranks are spread over hosts otherwise than in the plan",
            where=f"table {inside[0]}" if inside else f"plan for {plan.cluster}",
            got=there or f"{local} ranks on this host (LOCAL_WORLD_SIZE)",
            allowed=f"{plan.cluster.local_world_size} ranks on each of {plan.cluster.nodes} hosts",
            fixes=[
                "start the same number of ranks on each host"
                if uneven
                else f"on Spark say how many ranks share a host: --ranks-per-host {local}",
                "plan for this cluster",
                "allow only table_wise, row_wise and column_wise",
            ],
        )


def _attach_optimizer(
    model: nn.Module, plan: Plan, tables: Sequence[TableSpec], optimizer: FusedOptimizer
) -> None:
    specs = {table.name: table for table in tables}
    replicated = {table.name for table in plan.tables if table.sharding_type == "data_parallel"}
    for name, parameter in model.named_parameters():
        table = specs.get(name.split(".")[-2]) if _is_table_name(name) else None
        if table is not None and table.name not in replicated:
            arguments = fused_arguments(optimizer, table)
            _apply_optimizer_in_backward(optimizer_class(optimizer), [parameter], arguments)


def _is_table_name(name: str) -> bool:
    parts = name.split(".")
    return len(parts) >= 3 and parts[-1] == "weight" and parts[-3] in ("embedding_bags", "embeddings")


def initialise_tables(dmp: DistributedModelParallel, tables: Sequence[TableSpec], seed: int) -> None:
    """Fill every table with weights that depend on seed, table name, row and column alone.

    So they are the same at any number of ranks and under any sharding: uniform in (-m, m), m being
    `weight_init_max` of the table or 1 / sqrt(num_embeddings).
    """
    weights = table_weights(dmp)
    for table in tables:
        fill_table(weights[table.name], seed, table.name, table.weight_init_max)


def table_weights(dmp: DistributedModelParallel) -> dict[str, torch.Tensor | ShardedTensor]:
    """Return the weights of all tables by table name, in place: sharded, or whole on every rank."""
    return {name.split(".")[-2]: weight for name, weight in dmp.state_dict().items() if _is_table_name(name)}


def dense_parameters(dmp: DistributedModelParallel) -> list[tuple[str, nn.Parameter]]:
    """Return names and parameters outside all tables: what the dense optimizer updates."""
    types = _sharding_types_by_parameter(dmp)
    return [(name, parameter) for name, parameter in dmp.named_parameters() if name not in types]


def dense_tensors(dmp: DistributedModelParallel) -> dict[str, torch.Tensor]:
    """Return weights and floating-point buffers outside all tables, in place, by name."""
    return {
        name: value
        for name, value in dmp.state_dict().items()
        if not _is_table_name(name) and value.is_floating_point()
    }


def data_parallel_table_parameters(dmp: DistributedModelParallel) -> list[tuple[str, nn.Parameter]]:
    """Return names and weights of the data-parallel tables: dense gradients, averaged by DDP."""
    types = _sharding_types_by_parameter(dmp)
    return [pair for pair in dmp.named_parameters() if types.get(pair[0]) == "data_parallel"]


def _sharding_types_by_parameter(dmp: DistributedModelParallel) -> dict[str, str]:
    """Return the sharding type of each table by the name that `named_parameters` gives its weight."""
    return {
        f"{path}.{kind}.{table}.weight".lstrip("."): sharding.sharding_type
        for path, module in dmp.plan.plan.items()
        for table, sharding in module.items()
        for kind in ("embedding_bags", "embeddings")
    }


def build_table_optimizer(
    dmp: DistributedModelParallel, tables: Sequence[TableSpec], optimizer: FusedOptimizer
) -> TableOptimizer:
    """Return the optimizer of all tables: the fused ones, and that of the data-parallel tables.

    Call `zero_grad` and `count` before, and `step` after each backward pass: the fused kernels take their
    learning rate from the param groups there, the data-parallel tables their update.
    """
    parts = [dmp.fused_optimizer]
    replicated = dict(data_parallel_table_parameters(dmp))
    if replicated:
        parts.append(replicated_table_optimizer(replicated, {t.name: t for t in tables}, optimizer))
    # TorchRec keeps its lookups in plain lists, which `modules` does not enter.
    lookups = [lookup for module in dmp.modules() for lookup in getattr(module, "_lookups", ())]
    kernels = [
        one
        for lookup in lookups
        for one in lookup.modules()
        if isinstance(one, SplitTableBatchedEmbeddingBagsCodegen)
    ]
    return TableOptimizer(parts, kernels if optimizer.counts_steps else [])
