"""Models of queries and items trained on gloo ranks, and what they rank afterwards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from trainer.registry import ModelInputs

ROWS, STEPS, TARGETS = 40, 4, 3
Case = tuple[str, ModelInputs, dict[str, Any]]
"""Name of the model, its inputs, and its config keys."""


@dataclass(frozen=True)
class ItemRun:
    """Losses by step, averaged over ranks, and ranks of targets: among all items, and among drawn ones.

    `best` has the best unseen items of this rank's rows, by row: of all items, and of drawn ones.
    `figures` are those of the lists of best items.
    """

    losses: list[float]
    ranks: list[list[int]]
    figures: dict[str, list[float]]
    best: list[dict[int, list[int]]]


def train_items(rank: int, world_size: int, cases: dict[str, Case]) -> dict[str, ItemRun]:
    """Train each model on this rank's rows, its tables cut by rows, and rank targets.

    The last word of a name says more: `fsdp` shares out the dense part, `smoothed` smooths labels, `l2` adds
    an L2 of what is looked up.
    """
    return {name: _trained(rank, world_size, *case, how=name.split()[-1]) for name, case in cases.items()}


def genres_of(items: int) -> tuple[Any, Any]:
    """Return how many genres each item has, 0 to 2, and those of one item after another."""
    import torch

    lengths = torch.arange(items) % 3
    return lengths, 2 + torch.arange(int(lengths.sum())) % 7


def _trained(
    rank: int, world_size: int, name: str, inputs: ModelInputs, keys: dict[str, Any], how: str
) -> ItemRun:
    import torch
    import torch.distributed as dist

    from sharding.dense import dense_layout
    from sharding.planner import make_plan
    from sharding.topology import Cluster
    from sharding.wrap import (
        FusedOptimizer,
        build_table_optimizer,
        dense_parameters,
        initialise_tables,
        shard_model,
    )
    from tests.unit.trainer.models.examples import example_section
    from tests.unit.trainer.models.item_examples import item_batch, rows_of
    from trainer.best_items import best_items
    from trainer.config import LossConfig
    from trainer.item_ranking import rank_targets
    from trainer.list_figures import ListFigures
    from trainer.modules.item_catalogue import ItemCatalogue
    from trainer.modules.item_model import ItemModel
    from trainer.registry import build_model
    from trainer.tasks import TrainingTask

    section = example_section(name, **keys)
    completed = section.completed(inputs)
    tables = tuple(replace(table, sharding_types=("row_wise",)) for table in completed.tables)
    completed = replace(completed, tables=tables)
    torch.manual_seed(0)
    loss_config = LossConfig(label_smoothing=0.2 if how == "smoothed" else 0.0)
    task = TrainingTask(
        build_model(completed, section), loss_config, embedding_l2=0.3 if how == "l2" else 0.0
    )
    cluster = Cluster(ranks_per_node=world_size)
    plan = make_plan(
        task, tables, cluster, batch_size_per_rank=ROWS // world_size, embedding_optimizer="adagrad"
    )
    fused = FusedOptimizer("adagrad", learning_rate=0.2)
    layout = dense_layout(
        "fsdp" if how == "fsdp" else "ddp", world_size=world_size, local_world_size=world_size
    )
    sharded = shard_model(task, plan, tables, fused, device=torch.device("cpu"), dense=layout)
    task.penalty.watch(sharded, tables)
    initialise_tables(sharded, tables, 1)
    table_optimizer = build_table_optimizer(sharded, tables, fused)
    dense = [parameter for _, parameter in dense_parameters(sharded)]
    dense_optimizer = torch.optim.SGD(dense, lr=0.05) if dense else None
    for module in task.modules():
        if isinstance(module, ItemModel):
            module.sampler.set_counts(torch.arange(1, module.sampler.num_items + 1))
        if isinstance(module, ItemCatalogue):
            module.fill({name: genres_of(module.num_items) for name in module.features})
    mine = slice(rank * ROWS // world_size, (rank + 1) * ROWS // world_size)
    losses = []
    for step in range(STEPS):
        torch.manual_seed(step)
        table_optimizer.zero_grad()
        batch = rows_of(item_batch(inputs, ROWS, seed=step % 2), mine)
        loss, _ = sharded(batch)
        loss.backward()
        table_optimizer.step()
        if dense_optimizer is not None:
            dense_optimizer.step()
            dense_optimizer.zero_grad()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses.append(mean.item() / world_size)
    batches = [rows_of(item_batch(inputs, ROWS, seed, targets=TARGETS), mine) for seed in (3, 4)]
    cpu = torch.device("cpu")
    found = [
        rank_targets(sharded, batches, cpu, "targets", candidates=count, top=2).rank_P.tolist()
        for count in (None, 5)
    ]
    model = next(module for module in task.modules() if isinstance(module, ItemModel))
    counts_E = torch.zeros(model.sampler.first + model.sampler.num_items, dtype=torch.int64)
    counts_E[model.sampler.first :] = torch.arange(model.sampler.num_items) % 5
    figures = ListFigures(counts_E, ("history_popularity", "serendipity", "diversity"))
    listed = rank_targets(sharded, batches, cpu, "targets", top=4, figures=figures).figures
    best = [
        {
            row: ids
            for one in best_items(sharded, batches, cpu, 4, left_out=model.holders, candidates=count)
            for row, ids in zip(one.rows_R.tolist(), one.ids_RK.tolist(), strict=True)
        }
        for count in (None, 6)
    ]
    told = {name: values_L.tolist() for name, values_L in listed.items()}
    return ItemRun(losses, found, told, best)
