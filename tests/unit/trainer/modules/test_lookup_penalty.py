"""The L2 of what is looked up, on an unsharded model; sharded ones are in tests/distributed."""

from __future__ import annotations

from dataclasses import replace

import torch

from tests.unit.trainer.models.examples import example_model, full_inputs, random_batch
from trainer.registry import ModelInputs
from trainer.tasks import TrainingTask

ROWS, L2 = 6, 0.3


def with_mean() -> ModelInputs:
    inputs = full_inputs()
    tables = (replace(table, pooling="mean") if table.name == "m0" else table for table in inputs.tables)
    return replace(inputs, tables=tuple(tables))


def watched(inputs: ModelInputs) -> TrainingTask:
    task = TrainingTask(example_model("dlrm", inputs), embedding_l2=L2)
    task.penalty.watch(task, inputs.tables)
    return task


def test_the_penalty_is_that_of_pooled_vectors_and_kept_ids_of_rows_with_a_weight() -> None:
    inputs = with_mean()
    task, batch = watched(inputs), random_batch(inputs, ROWS)
    batch.weights_B[0], batch.weights_B[1] = 0.0, 2.5
    weights = {name.split(".")[-2]: p for name, p in task.named_parameters() if "embedding" in name}
    squares = 0.0
    for table in inputs.tables:
        for feature in table.features:
            for ids in batch.sparse[feature].to_dense()[1:]:
                rows = weights[table.name][ids]
                vectors = rows.mean(dim=0, keepdim=True) if table.pooling == "mean" and len(ids) else rows
                squares += vectors.square().sum().item()
    loss, (told, *_) = task(batch)
    torch.testing.assert_close(loss - told, torch.tensor(L2 / 2 * squares / ROWS))


def test_gradients_reach_what_was_looked_up_and_a_step_forgets_the_one_before() -> None:
    inputs = full_inputs()
    batch, losses, gradients = random_batch(inputs, ROWS), [], []
    plain, task = TrainingTask(example_model("dlrm", inputs)), watched(inputs)
    for each in (plain, task, task):
        weight = each.model.sparse_arch.embedding_bag_collection.embedding_bags.s0.weight
        loss, _ = each(batch)
        losses.append(loss.item())
        gradients += torch.autograd.grad(loss, weight)
    counts = torch.bincount(batch.sparse["s0"].values(), minlength=len(weight))
    expected = L2 / ROWS * counts[:, None] * weight.detach()
    torch.testing.assert_close(gradients[1] - gradients[0], expected)
    assert losses[1] == losses[2]


def test_evaluation_has_no_penalty() -> None:
    inputs = full_inputs()
    task = watched(inputs).eval()
    loss, (told, *_) = task(random_batch(inputs, ROWS))
    assert loss.item() == told.item()
