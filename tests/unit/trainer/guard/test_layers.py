"""Gradients of linear layers: they arrive everywhere in fresh models, nowhere behind ReLUs that are off."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.unit.trainer.models.examples import example_model, full_inputs, random_batch
from trainer.guard.layers import LayerWatch
from trainer.losses.pointwise import TaskHead
from trainer.registry import models
from trainer.tasks import TrainingTask

MODELS = [name for name, entry in models().items() if entry.task == "ctr"]


@pytest.mark.parametrize("name", MODELS)
def test_no_layer_of_a_fresh_model_is_dead(name: str) -> None:
    inputs = full_inputs()
    task = TrainingTask(example_model(name, inputs))
    watch = LayerWatch(task)
    task(random_batch(inputs, 256))[0].backward()
    assert watch.findings(watch.figures(), 256, 1) == []
    assert watch.not_finite() == []


@pytest.mark.parametrize("name", [name for name, entry in models().items() if entry.task == "multi_task"])
def test_what_a_task_of_no_weight_alone_uses_is_not_dead(name: str) -> None:
    inputs = replace(full_inputs(), tasks=("click", "like"))
    task = TrainingTask(example_model(name, inputs), None, [TaskHead(), TaskHead(weight=0.0)])
    watch = LayerWatch(task)
    task(random_batch(inputs, 256))[0].backward()
    (dead,) = watch.findings(watch.figures(), 256, 1)
    assert dead.code == "layer_dead"
    assert all(".1." in layer for layer in dead.subjects)  # gates, experts and towers of the second
    watch.leave_out_unreached()
    assert watch.findings(watch.figures(), 256, 1) == []
    # What dies later is told still.
    for module in task.modules():
        if isinstance(module, nn.Linear):
            module.weight.grad = torch.zeros_like(module.weight)
    (dead,) = watch.findings(watch.figures(), 256, 1)
    assert "towers.towers.0.logits" in dead.subjects


def stack(off: int) -> nn.Sequential:
    """Twenty hidden units, so many of which are off for every row."""
    model = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 1))
    with torch.no_grad():
        model[0].bias[:off] = -1e6
    return model


def found(model: nn.Module, rows: int = 100) -> list[tuple[str, tuple[str, ...]]]:
    torch.manual_seed(0)
    watch = LayerWatch(model)
    model(torch.randn(rows, 4)).square().sum().backward()
    return [(finding.code, finding.subjects) for finding in watch.findings(watch.figures(), rows, 1)]


def test_units_that_are_off_for_every_row_are_told() -> None:
    assert found(stack(off=17)) == []
    assert found(stack(off=19)) == [("units_dead", ("0",))]
    # Nothing comes through, so the layer behind has no gradient either.
    assert found(stack(off=20)) == [("layer_dead", ("0", "2"))]


def test_frozen_layers_and_few_rows_are_not_judged() -> None:
    frozen = stack(off=20)
    frozen[0].weight.requires_grad_(False)
    assert found(frozen) == [("layer_dead", ("2",))]
    assert found(stack(off=20), rows=10) == []


def test_gradients_that_are_not_finite_are_named_and_not_called_dead() -> None:
    model = stack(off=0)
    watch = LayerWatch(model)
    (model(torch.randn(100, 4)).sum() * torch.nan).backward()
    assert watch.not_finite() == ["0", "2"]
    assert watch.findings(watch.figures(), 100, 1) == []
