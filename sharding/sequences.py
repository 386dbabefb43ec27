"""Sequence tables as copies on every rank: TorchRec's data_parallel with a lookup that works on CPU too.

FBGEMM's dense kernel on CPU sums the vectors of a row even where it is asked for each of them. The lookup
here takes them from the same weights by torch's own; everything around it is TorchRec's.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.distributed.batched_embedding_kernel import BatchedDenseEmbedding
from torchrec.distributed.embedding import ShardedEmbeddingCollection
from torchrec.distributed.embedding_lookup import GroupedEmbeddingsLookup
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.sharding.dp_sequence_sharding import DpSequenceEmbeddingSharding
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


class _Rows(BatchedDenseEmbedding):
    """One vector for each id, by gathering rows."""

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        """Return [ids, D], feature after feature."""
        (columns,) = set(self._local_cols)  # Sequence tables share one width.
        starts = [0, *accumulate(self._local_rows)]
        starts_F = torch.tensor([starts[table] for table in self._feature_table_map])
        lengths_F = torch.tensor(features.length_per_key())
        rows = features.values().long() + starts_F.repeat_interleave(lengths_F)
        # The kernels too give fp32 whatever the weights are.
        return nn.functional.embedding(rows, self.emb_module.weights.view(-1, columns)).float()


class _Lookup(GroupedEmbeddingsLookup):
    def _create_embedding_kernel(self, config: Any, pg: Any, device: Any, *_: Any) -> Any:
        assert config.compute_kernel == EmbeddingComputeKernel.DENSE
        return _Rows(config=config, pg=pg, device=device)


class _Replicated(DpSequenceEmbeddingSharding):
    def create_lookup(self, device: Any = None, *_: Any, **__: Any) -> Any:
        """Return the lookup of the replicated tables."""
        return _Lookup(
            grouped_configs=self._grouped_embedding_configs,
            pg=self._env.process_group,
            device=device if device is not None else self._device,
            env=self._env,
        )


class ShardedSequences(ShardedEmbeddingCollection):
    """TorchRec's sharded EmbeddingCollection, with that lookup for data_parallel tables on CPU."""

    @classmethod
    def create_embedding_sharding(
        cls, sharding_type: str, sharding_infos: Any, env: Any, device: Any = None, **options: Any
    ) -> Any:
        """Return TorchRec's sharding, or ours for replicated tables on CPU."""
        on_cpu = device is None or torch.device(device).type == "cpu"
        if sharding_type == "data_parallel" and on_cpu:
            return _Replicated(sharding_infos=sharding_infos, env=env, device=device)
        return super().create_embedding_sharding(sharding_type, sharding_infos, env, device, **options)
