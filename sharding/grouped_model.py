"""TorchRec's DMPCollection on any device and optimizer, with checkpoints like those of one copy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from itertools import chain

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel, DMPCollection
from torchrec.distributed.types import DMPCollectionContext, ModuleSharder, ShardingEnv2D, ShardingPlan

from sharding.mesh import replica_mesh
from sharding.table_groups import TableGroups


class GroupedModelParallel(DMPCollection):
    """A model whose tables have a copy in each group of ranks; `sync` averages the copies.

    It stands in for DMPCollection's own constructor, which refuses the CPU, makes process groups that wait
    half an hour for a lost rank, and writes table state as DTensors, which the checkpoints of one copy do not
    have. DMPCollection also syncs no optimizer state but Adagrad's.

    Args:
        module: tables on the meta device.
        groups: more than one.
        device: of this rank.
        plan: of this rank's group: its ranks are numbers among all ranks.
        sharders: of the tables.
        init_data_parallel: whether DDP wraps the dense part, over all ranks.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: TableGroups,
        device: torch.device,
        plan: ShardingPlan,
        sharders: list[ModuleSharder],
        *,
        init_data_parallel: bool,
    ) -> None:
        world = dist.group.WORLD
        assert world is not None
        ranks = torch.arange(groups.world_size).reshape(groups.count, groups.shard_group_size)
        mesh = replica_mesh(ranks, device.type, timedelta(seconds=groups.timeout_seconds))
        context = DMPCollectionContext(
            module=None,
            plan=plan,
            sharding_group_size=groups.shard_group_size,
            node_group_size=groups.ranks_on_a_host,
            use_inter_host_allreduce=True,  # TorchRec's name for groups of neighbours.
            device_mesh=mesh,
            sharding_pg=mesh.get_group("shard"),
            replica_pg=mesh.get_group("replicate"),
        )
        self._default_ctx, self._ctxs = context, [context]
        self._submodule_ctxs: list[DMPCollectionContext] = []
        self._device, self._pg, self._global_rank = device, world, dist.get_rank()
        self._sharder_map = {sharder.module_type: sharder for sharder in sharders}
        # Gloo has no average.
        self._custom_all_reduce = partial(average, group=context.replica_pg) if device.type == "cpu" else None
        self._use_sharded_relay, self._sharded_relay_state = False, None
        env = ShardingEnv2D(
            global_pg=world,
            sharding_pg=context.sharding_pg,
            replica_pg=context.replica_pg,
            device_mesh=mesh,
            node_group_size=context.node_group_size,
            use_inter_host_allreduce=True,
        )
        env.output_dtensor = False
        DistributedModelParallel.__init__(
            self, module, env, device, plan, sharders, init_data_parallel=init_data_parallel
        )
        self._group_sharded_modules(self._ctxs)
        self._cache_sync_tensors(self._ctxs)

    def _cache_sync_tensors(self, contexts: list[DMPCollectionContext]) -> None:
        """Collect what a sync averages: weights and all optimizer states of the fused kernels."""
        for context in contexts:
            weights: dict[torch.dtype, list[Tensor]] = defaultdict(list)
            states: dict[torch.dtype, list[Tensor]] = defaultdict(list)
            kernels = dict.fromkeys(kernel for kernel, _ in context.modules_to_sync)
            for kernel in kernels:
                assert isinstance(kernel, SplitTableBatchedEmbeddingBagsCodegen)
                for weight in kernel.split_embedding_weights():
                    if weight.numel():
                        weights[weight.dtype].append(weight)
                for state in chain.from_iterable(kernel.split_optimizer_states()):
                    if state.numel():
                        states[state.dtype].append(state)
            context.weights_by_dtype = dict(weights)
            context.optimizer_tensors_by_dtype = dict(states)


def average(tensors: Sequence[Tensor], group: dist.ProcessGroup) -> None:
    """Average tensors over the ranks of a group, in place."""
    for tensor in tensors:
        dist.all_reduce(tensor, group=group)
        tensor.div_(group.size())
