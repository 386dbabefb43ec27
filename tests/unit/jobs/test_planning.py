"""What the verb `plan` adds to the planner: the run's own config, data set and dense layers."""

from __future__ import annotations

import torch

from jobs import Cluster, Dataset, RunConfig, plan
from sharding.memory import dense_layers
from sharding.topology import Cluster as Shape
from trainer.assembly import build_task


def test_a_plan_for_ranks_that_training_refuses_says_so(run: RunConfig, data: Dataset) -> None:
    (warning,) = plan(run, data, Shape.parse("2x8xh100")).warnings
    assert "training on 16 ranks will be refused" in warning
    assert "data.num_lanes: 16" in warning


def test_a_plan_for_ranks_that_training_takes_has_no_such_warning(run: RunConfig, data: Dataset) -> None:
    assert not any("refused" in text for text in plan(run, data, Cluster.local(2, device="cpu")).warnings)


def test_planning_allocates_no_dense_layer_and_reckons_with_all_of_them(
    run: RunConfig, data: Dataset
) -> None:
    dense, _ = build_task(run, data.manifest)
    shapes, _ = build_task(run, data.manifest, "meta")
    assert all(parameter.device == torch.device("meta") for parameter in shapes.parameters())
    parameters = sum(parameter.numel() for parameter in dense_layers(dense))
    # Weights, gradients and the two moments of Adam in fp32.
    assert plan(run, data).memory[0].dense == 4 * 4 * parameters
