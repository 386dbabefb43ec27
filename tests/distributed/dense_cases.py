"""What the ranks of the tests of the dense part run, and the unsharded models beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharding.dense import DenseLayout, DenseParallel, dense_layout
from sharding.plan import Plan
from sharding.planner import make_plan
from sharding.topology import Cluster
from sharding.weights import uniform_block
from sharding.wrap import (
    FusedOptimizer,
    build_table_optimizer,
    dense_parameters,
    dense_tensors,
    initialise_tables,
    shard_model,
)
from tests.unit.trainer.models.examples import example_section, full_inputs, random_batch
from trainer.averaging import DenseAverage
from trainer.batch import Batch
from trainer.config import DenseOptimizerConfig
from trainer.lamb import Lamb
from trainer.max_norm import MaxNorm
from trainer.optimizers import Optimizers
from trainer.registry import ModelInputs, build_model
from trainer.tasks import TrainingTask

SEED, STEPS, ROWS, RANKS = 3, 6, 16, 4
CPU = torch.device("cpu")
RATE = {"sgd": 0.1, "adam": 0.003, "lamb": 0.01}
# Where it is tiny, Adam makes whole steps of gradients that are zero but for rounding.
EPS = 1e-3
DECAY = 0.5


@dataclass(frozen=True)
class Case:
    """A registered model, trained with its dense part laid out in one way."""

    model: str
    parallel: DenseParallel
    group: int | None = None
    optimizer: str = "sgd"
    gradient_norm: float | None = None
    unit_norm: float | None = None
    pipelined: bool = False
    precision: str = "fp32"
    l2: float = 0.0

    @property
    def layout(self) -> DenseLayout:
        return dense_layout(
            self.parallel, world_size=RANKS, local_world_size=RANKS, shard_group_size=self.group
        )

    @property
    def reference(self) -> Case:
        """The case without what must make no difference."""
        return replace(self, parallel="ddp", group=None, pipelined=False)

    def __str__(self) -> str:
        parts = [self.model, self.parallel, self.group, self.optimizer, self.precision]
        return "-".join(
            str(part)
            for part in (
                *parts,
                self.gradient_norm and "clipped",
                self.unit_norm and "bounded",
                self.pipelined and "pipelined",
                self.l2 and "l2",
            )
            if part
        )


@dataclass(frozen=True)
class Outcome:
    """Losses of all steps, without a penalty, the dense weights after them, and their averages."""

    losses: list[float]
    weights: dict[str, NDArray[np.float32]]
    averages: dict[str, NDArray[np.float32]]


def inputs(model: str = "dhen") -> ModelInputs:
    """Tables under table_wise, row_wise and data_parallel, as a model wants them."""
    given = full_inputs()
    types = (("table_wise",), ("data_parallel",), ("row_wise",))
    tables = zip(given.tables, types, strict=True)
    given = replace(given, tables=tuple(replace(table, sharding_types=kind) for table, kind in tables))
    return example_section(model).completed(given)


def new_task(model: str, l2: float = 0.0) -> TrainingTask:
    torch.manual_seed(SEED)
    return TrainingTask(build_model(inputs(model), example_section(model)), embedding_l2=l2)


def save_plan(model: str, folder: Path) -> None:
    cluster, tables = Cluster(ranks_per_node=RANKS), inputs(model).tables
    plan = make_plan(
        new_task(model), tables, cluster, batch_size_per_rank=ROWS // RANKS, embedding_optimizer="sgd"
    )
    plan.save(folder / f"{model}.json")


def dense_config(case: Case) -> DenseOptimizerConfig:
    return DenseOptimizerConfig(
        name=case.optimizer, learning_rate=RATE[case.optimizer], eps=EPS, max_norm=case.unit_norm
    )


def unsharded(case: Case) -> Outcome:
    """Train with torch's optimizers on the whole batch: no DMP, no plan, no process group."""
    task = new_task(case.model)
    for module in task.modules():
        if isinstance(module, (EmbeddingBagCollection, EmbeddingCollection)):
            module.to_empty(device="cpu")
            for name, weight in module.named_parameters():
                shape = (weight.shape[0], weight.shape[1])
                block = uniform_block(
                    SEED, name.split(".")[1], range(shape[0]), range(shape[1]), table_shape=shape
                )
                weight.data.copy_(block)
    dense = {name: p for name, p in task.named_parameters() if "embedding" not in name}
    rest = [p for name, p in task.named_parameters() if name not in dense]
    rate = RATE[case.optimizer]
    kinds: dict[str, Any] = {"adam": torch.optim.Adam, "lamb": Lamb}
    optimizers = (
        torch.optim.SGD(rest, lr=RATE["sgd"]),
        torch.optim.SGD(dense.values(), lr=rate)
        if case.optimizer == "sgd"
        else kinds[case.optimizer](dense.values(), lr=rate, eps=EPS),
    )
    losses = []
    averages = {name: p.detach().double().numpy().copy() for name, p in dense.items()}
    for step in range(STEPS):
        task.zero_grad()
        batch = random_batch(inputs(), ROWS, step % 2)
        loss, _ = task(batch)
        (loss + case.l2 / 2 * squares(task, batch) / ROWS).backward()
        if case.gradient_norm is not None:
            nn.utils.clip_grad_norm_(dense.values(), case.gradient_norm)
        for optimizer in optimizers:
            optimizer.step()
        if case.unit_norm is not None:
            bound_units(task, case.unit_norm)
        losses.append(loss.item())
        kept = min(DECAY, (1 + step) / (10 + step))
        for name, p in dense.items():
            averages[name] = kept * averages[name] + (1 - kept) * p.detach().numpy()
    return Outcome(losses, {name: p.detach().numpy() for name, p in dense.items()}, averages)


def bound_units(task: nn.Module, bound: float) -> None:
    """Bound every matrix outside the tables, as `dhen` has no others."""
    for name, weight in task.named_parameters():
        if weight.ndim > 1 and "embedding" not in name:
            for unit in weight.data:
                unit.mul_(min(1.0, bound / float(unit.norm())))


def squares(task: nn.Module, batch: Batch) -> Tensor:
    """Return the sum of squares of all that a batch looks up: of sums where lists are pooled."""
    weights = {name.split(".")[-2]: p for name, p in task.named_parameters() if "embedding" in name}
    total = torch.zeros(())
    for table in inputs().tables:
        for feature in table.features:
            rows = [weights[table.name][ids] for ids in batch.sparse[feature].to_dense()]
            vectors = rows if table.pooling == "none" else [row.sum(dim=0) for row in rows]
            total = total + sum(vector.square().sum() for vector in vectors)
    return total


def start(case: Case, folder: str) -> tuple[DistributedModelParallel, Optimizers]:
    plan, tables = Plan.load(Path(folder) / f"{case.model}.json"), inputs(case.model).tables
    fused = FusedOptimizer("sgd", learning_rate=RATE["sgd"])
    task = new_task(case.model, case.l2)
    dmp = shard_model(task, plan, tables, fused, device=CPU, dense=case.layout)
    task.penalty.watch(dmp, tables)
    initialise_tables(dmp, tables, SEED)
    table_optimizer = build_table_optimizer(dmp, tables, fused)
    max_norm = None if case.unit_norm is None else MaxNorm(dmp, case.unit_norm)
    return dmp, Optimizers(table_optimizer, dict(dense_parameters(dmp)), dense_config(case), max_norm)


def train(case: Case, rank: int, folder: str) -> Outcome:
    dmp, optimizers = start(case, folder)
    share = slice(rank * ROWS // RANKS, (rank + 1) * ROWS // RANKS)
    batches = [rows_of(random_batch(inputs(), ROWS, step % 2), share) for step in range(STEPS)]
    run = _pipelined if case.pipelined else _steps
    losses, average = [], DenseAverage(dmp, dense_tensors(dmp), DECAY)
    for step, loss in enumerate(run(dmp, optimizers, batches, case)):
        dist.all_reduce(loss)
        losses.append(loss.item() / RANKS)
        average.update(step)
        if step == STEPS // 2 and not case.pipelined:
            evaluate(dmp, average, batches[0])
    with average.in_place():
        averages = weights_of(dmp)
    return Outcome(losses, weights_of(dmp), averages)


@torch.no_grad()
def evaluate(dmp: DistributedModelParallel, average: DenseAverage, batch: Batch) -> None:
    """Look at a batch with the averages, which training must not notice."""
    dmp.eval()
    with average.in_place():
        dmp(batch)
    dmp.train()


def weights_of(dmp: DistributedModelParallel) -> dict[str, NDArray[np.float32]]:
    return {name: whole(p).numpy().copy() for name, p in dense_parameters(dmp)}


def _steps(dmp: nn.Module, optimizers: Optimizers, batches: list[Batch], case: Case) -> Iterator[Tensor]:
    for batch in batches:
        optimizers.begin_step(1.0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case.precision == "bf16"):
            loss, (told, *_) = dmp(batch)
        loss.backward()
        optimizers.end_step(case.gradient_norm)
        yield told.clone()


def _pipelined(dmp: nn.Module, optimizers: Optimizers, batches: list[Batch], case: Case) -> Iterator[Tensor]:
    from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

    assert case.gradient_norm is case.unit_norm is None
    pipeline = TrainPipelineSparseDist(dmp, optimizers._combined, CPU)
    remaining = iter(batches)
    for _ in batches:
        yield pipeline.progress(remaining)[0].clone()
    assert len(pipeline._pipelined_modules) == 2


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Return a rank's rows of a batch."""
    lists = {key: jagged.to_dense()[rows] for key, jagged in batch.sparse.to_dict().items()}
    lengths = torch.tensor([len(ids) for column in lists.values() for ids in column])
    values = torch.cat([ids for column in lists.values() for ids in column])
    return replace(
        batch,
        dense_BF=batch.dense_BF[rows],
        sparse=KeyedJaggedTensor.from_lengths_sync(list(lists), values, lengths),
        labels_BT=batch.labels_BT[rows],
        weights_B=batch.weights_B[rows],
        rows_B=batch.rows_B[rows],
    )


def whole(value: Tensor) -> Tensor:
    """Return a weight as one tensor; every rank calls it."""
    full: Tensor = value.full_tensor() if isinstance(value, DTensor) else value
    return full.detach()


def held_bytes(tensors: Any) -> int:
    """Return the bytes of the memory behind tensors or their local parts, shared memory once."""
    local = [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in local}
    return sum(storages.values())
