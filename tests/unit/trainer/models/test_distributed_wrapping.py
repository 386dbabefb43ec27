"""Every model on two gloo ranks: sharded by DistributedModelParallel, run by TrainPipelineSparseDist."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.support.ranks import run_distributed
from tests.unit.trainer.models.examples import (
    POINTWISE,
    example_model,
    example_section,
    full_inputs,
    random_batch,
)
from trainer.batch import Batch
from trainer.losses.pointwise import TaskHead
from trainer.registry import ModelInputs, build_model, models
from trainer.tasks import TrainingTask

ROWS = 12
STEPS = 3


def _inputs(name: str) -> ModelInputs:
    """Return the inputs, with two tasks where the model is made for several."""
    return replace(full_inputs(), tasks=("a", "b")) if models()[name].task == "multi_task" else full_inputs()


def _batch(inputs: ModelInputs, seed: int) -> Batch:
    """Return rows of which some do not count for the second task."""
    batch = random_batch(inputs, ROWS, seed)
    if inputs.num_tasks > 1:
        batch.labels_BT[1::3, 1] = torch.nan
    return batch


def _part(batch: Batch, rank: int, world_size: int) -> Batch:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    rows = slice(rank * ROWS // world_size, (rank + 1) * ROWS // world_size)
    parts = {key: jagged.to_dense()[rows] for key, jagged in batch.sparse.to_dict().items()}
    lengths = [torch.tensor([len(ids) for ids in lists]) for lists in parts.values()]
    values = [ids for lists in parts.values() for ids in lists]
    sparse = KeyedJaggedTensor.from_lengths_sync(list(parts), torch.cat(values), torch.cat(lengths))
    return replace(
        batch,
        dense_BF=batch.dense_BF[rows],
        sparse=sparse,
        labels_BT=batch.labels_BT[rows],
        weights_B=batch.weights_B[rows],
        rows_B=batch.rows_B[rows],
    )


def _sharded_run(rank: int, world_size: int, name: str) -> dict[str, Any]:
    import torch.distributed as dist
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
    from torchrec.distributed.planner.types import ParameterConstraints
    from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
    from torchrec.optim.keyed import KeyedOptimizerWrapper
    from torchrec.optim.optimizers import in_backward_optimizer_filter

    section = example_section(name)
    inputs = section.completed(_inputs(name))
    heads = [TaskHead()] * inputs.num_tasks
    reference = TrainingTask(example_model(name, _inputs(name))).state_dict()
    torch.manual_seed(0)
    task = TrainingTask(build_model(inputs, section), heads=heads)
    fused = {"learning_rate": 0.1}
    sharders: Any = [EmbeddingBagCollectionSharder(fused), EmbeddingCollectionSharder(fused)]
    constraints = {t.name: ParameterConstraints(sharding_types=["table_wise"]) for t in inputs.tables}
    topology = Topology(world_size=world_size, local_world_size=world_size, compute_device="cpu")
    plan = EmbeddingShardingPlanner(topology=topology, constraints=constraints).plan(task, sharders)
    model = DistributedModelParallel(task, device=torch.device("cpu"), plan=plan, sharders=sharders)
    for key, value in model.state_dict().items():
        for shard in value.local_shards() if hasattr(value, "local_shards") else []:
            shard.tensor.copy_(reference[key])
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(model.named_parameters())), lambda p: torch.optim.SGD(p, lr=0.1)
    )
    pipeline = TrainPipelineSparseDist(model, dense, torch.device("cpu"))
    batches = iter([_part(_batch(inputs, seed), rank, world_size) for seed in range(STEPS)])
    losses = []
    for _ in range(STEPS):
        loss = pipeline.progress(batches)[0].clone()
        dist.all_reduce(loss)
        losses.append(loss.item() / world_size)
    dense_sum = sum(
        p.double().sum().item() for _, p in in_backward_optimizer_filter(model.named_parameters())
    )
    return {"losses": losses, "dense_sum": dense_sum, "pipelined": len(pipeline._pipelined_modules)}


def _unsharded_losses(name: str) -> list[float]:
    inputs = _inputs(name)
    task = TrainingTask(example_model(name, inputs), heads=[TaskHead()] * inputs.num_tasks)
    losses = []
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
    for seed in range(STEPS):
        optimizer.zero_grad()
        loss, _ = task(_batch(inputs, seed))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _sharded_runs(rank: int, world_size: int) -> dict[str, dict[str, Any]]:
    return {name: _sharded_run(rank, world_size, name) for name in POINTWISE}


@pytest.fixture(scope="module")
def results() -> list[dict[str, dict[str, Any]]]:
    """Return what each rank measured for each model; one start of the ranks serves all models."""
    return run_distributed(_sharded_runs, 2, timeout=300.0)


@pytest.mark.parametrize("name", POINTWISE)
def test_pipelined_and_sharded_losses_equal_the_unsharded_model(name: str, results: list[Any]) -> None:
    expected = _unsharded_losses(name)
    for rank in results:
        assert rank[name]["losses"] == pytest.approx(expected, abs=1e-5)
        assert rank[name]["pipelined"] == 2  # both collections start their input exchange ahead of the step
    assert results[0][name]["dense_sum"] == results[1][name]["dense_sum"]
