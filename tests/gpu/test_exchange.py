"""What ranks send each other on GPUs: packed embeddings, and averages over groups with copies of tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torchrec.distributed.types import (
    CommOp,
    ModuleSharder,
    QuantizedCommCodec,
    ShardingEnv,
    ShardingPlan,
)

from jobs import Cluster, Dataset, RunConfig, train
from sharding.communication import TableCommunication
from sharding.grouped_model import GroupedModelParallel
from sharding.table_groups import TableGroups
from tests.support.run_folders import losses

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]

GPU: Literal["cuda"] = "cuda"
GPUS = torch.cuda.device_count()


@pytest.mark.parametrize(
    ("forward", "operation"),
    [
        ("fp16", CommOp.POOLED_EMBEDDINGS_ALL_TO_ALL),
        ("bf16", CommOp.SEQUENCE_EMBEDDINGS_ALL_TO_ALL),
        ("int8", CommOp.POOLED_EMBEDDINGS_ALL_TO_ALL),
        ("int8", CommOp.POOLED_EMBEDDINGS_REDUCE_SCATTER),
    ],
)
def test_vectors_are_packed_on_a_gpu_as_on_cpu(forward: str, operation: CommOp) -> None:
    codecs = TableCommunication(forward, "bf16").codecs()
    assert codecs is not None
    vectors = torch.randn(512, generator=torch.Generator().manual_seed(0))
    for codec in (codecs[operation.name].forward, codecs[operation.name].backward):
        here, there = (packed(codec, part) for part in (vectors, vectors.to(GPU)))
        assert not torch.equal(here, vectors)
        # A number between two steps of 8 bits may take either.
        step = (vectors.max() - vectors.min()).item() / 255 if forward == "int8" else 0.0
        torch.testing.assert_close(there, here, rtol=1e-3, atol=step)


def packed(codec: QuantizedCommCodec[Any], vectors: Tensor) -> Tensor:
    context = codec.create_context()
    unpacked: Tensor = codec.decode(codec.encode(vectors, context), context)
    return unpacked.cpu()


@pytest.mark.skipif(GPUS < 2, reason="needs 2 GPUs")
@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise"])
def test_packed_vectors_travel_over_nccl_as_over_gloo(
    run: RunConfig, data: Dataset, tmp_path: Path, kind: str
) -> None:
    run = run.override(
        "train.log_every_steps=1",
        "model.embedding_dim=32",
        f"tables={{'*': {{sharding_types: [{kind}]}}}}",
        "train.table_communication={forward: int8, backward: bf16}",
    )
    assert_same_losses(run, data, 2, tmp_path)


@pytest.mark.skipif(GPUS < 4, reason="needs 4 GPUs")
def test_groups_of_gpus_average_their_tables_as_groups_of_cpu_ranks(
    run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    groups = ("train.table_shard_group_size=2", "train.table_sync_every_steps=2")
    assert_same_losses(run.override("train.log_every_steps=1", *groups), data, 4, tmp_path)


def assert_same_losses(run: RunConfig, data: Dataset, ranks: int, place: Path) -> None:
    on_cpu, on_gpu = (
        train(run, data, Cluster.local(ranks, device=device), out=place / device, show_progress=False)
        for device in ("cpu", "cuda")
    )
    assert losses(on_gpu.path) == pytest.approx(losses(on_cpu.path), rel=1e-3)


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "data_parallel"])
def test_a_group_of_one_gpu_trains_as_on_cpu(
    run: RunConfig, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """One GPU has DMPCollection's process groups too, and the collective that averages the copies."""
    run = run.override("train.log_every_steps=1", f"tables={{'*': {{sharding_types: [{kind}]}}}}")
    on_cpu = train(run, data, Cluster.local(1, device="cpu"), out=tmp_path / "cpu", show_progress=False)
    syncs = []

    class OneGroup(GroupedModelParallel):
        def __init__(
            self,
            module: nn.Module,
            env: ShardingEnv,
            device: torch.device,
            plan: ShardingPlan,
            sharders: list[ModuleSharder],
            init_data_parallel: bool,
        ) -> None:
            groups = TableGroups(1, 1, 1)
            super().__init__(module, groups, device, plan, sharders, init_data_parallel=init_data_parallel)

        def sync(self, include_optimizer_state: bool = True) -> None:
            super().sync(include_optimizer_state)
            syncs.append(sum(len(group) for group in self._ctxs[0].weights_by_dtype.values()))

    monkeypatch.setattr("sharding.wrap.DistributedModelParallel", OneGroup)
    on_gpu = train(run, data, Cluster.local(1, device=GPU), out=tmp_path / "gpu", show_progress=False)
    assert losses(on_gpu.path) == pytest.approx(losses(on_cpu.path), rel=1e-3)
    assert syncs == [0 if kind == "data_parallel" else 3] * 12
