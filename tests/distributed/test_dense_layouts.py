"""Every layout of the dense part trains every model like the unsharded one, and ranks hold parts of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sharding.dense import dense_layout, shard_dense
from sharding.dense_part import DenseBytes, dense_bytes
from sharding.errors import PlanError
from sharding.weights import local_parts
from sharding.wrap import dense_parameters
from tests.distributed.dense_cases import (
    CPU,
    RANKS,
    ROWS,
    STEPS,
    Case,
    Outcome,
    held_bytes,
    inputs,
    new_task,
    rows_of,
    save_plan,
    start,
    train,
    unsharded,
)
from tests.support.ranks import run_distributed
from tests.unit.trainer.models.examples import random_batch
from trainer.registry import models

LAYOUTS: dict[str, dict[str, Any]] = {
    "ddp": {"parallel": "ddp"},
    "fsdp": {"parallel": "fsdp"},
    "hsdp": {"parallel": "hsdp", "group": 2},
}
# Those of queries and items are in tests/unit/trainer/models/test_item_models.py.
MODELS = [name for name, entry in models().items() if entry.task in ("ctr", "multi_task")]
CASES = [Case(model, **LAYOUTS["fsdp"]) for model in MODELS]
CASES += [Case(model, **LAYOUTS["hsdp"]) for model in ("dcn_v2", "dhen", "din", "dlrm")]
CASES += [Case("dhen", **layout, optimizer="adam") for layout in LAYOUTS.values()]
# LAMB makes whole steps of gradients that are zero but for rounding, as DHEN's attention has them.
CASES += [Case("dlrm", **LAYOUTS[name], optimizer="lamb") for name in ("fsdp", "hsdp")]
CASES += [Case("dhen", **LAYOUTS["fsdp"], l2=1.0), Case("dhen", **LAYOUTS["hsdp"], pipelined=True, l2=1.0)]
CASES += [Case("dhen", **layout, gradient_norm=0.1) for layout in LAYOUTS.values()]
CASES += [Case("dhen", **layout, unit_norm=0.5) for layout in LAYOUTS.values()]
CASES += [Case("dhen", **LAYOUTS["hsdp"], pipelined=True)]
BF16 = [Case("dhen", **layout, precision="bf16") for layout in LAYOUTS.values()]


def everything_on_rank(rank: int, world_size: int, folder: str) -> dict[str, Any]:
    """Collect, in one launch, what the tests below look at."""
    held = {
        name: holding(Case("dhen", **layout, optimizer="adam"), folder) for name, layout in LAYOUTS.items()
    }
    return {
        "outcomes": {str(case): train(case, rank, folder) for case in CASES + BF16},
        "held": held,
        "scalar": refused_scalar(),
        "timeouts": group_timeouts(),
    }


def holding(case: Case, folder: str) -> dict[str, Any]:
    """Measure the dense part on this rank after a step."""
    dmp, optimizers = start(case, folder)
    optimizers.begin_step(1.0)
    dmp(rows_of(random_batch(inputs(), ROWS), slice(0, 4)))[0].backward()
    parameters = dict(dense_parameters(dmp))
    gradients = [p.grad for p in parameters.values()]
    optimizers.end_step(None)
    states = optimizers.state_dict()["state"]
    moments = [s for name in parameters for key, s in states[name].items() if key != "step"]
    rows = {}
    for name, value in dmp.state_dict().items():
        if name in parameters:
            ((part, first, _),) = local_parts(value)
            rows[name] = (first, first + len(part))
    measured = DenseBytes(held_bytes(parameters.values()), held_bytes(gradients), held_bytes(moments))
    return {"bytes": measured, "elements": sum(_local_elements(p) for p in parameters.values()), "rows": rows}


def _local_elements(parameter: Any) -> int:
    return sum(part.numel() for part, _, _ in local_parts(parameter))


def refused_scalar() -> str:
    model = nn.Module()
    model.temperature = nn.Parameter(torch.ones(()))
    layout = dense_layout("fsdp", world_size=RANKS, local_world_size=RANKS)
    with pytest.raises(PlanError) as error:
        shard_dense(model, layout, CPU)
    return str(error.value)


def group_timeouts() -> list[float]:
    """Return how long the groups of a 2 x 2 mesh wait."""
    model = nn.Sequential(nn.Linear(4, 4))
    layout = dense_layout(
        "hsdp", world_size=RANKS, local_world_size=RANKS, shard_group_size=2, timeout_seconds=77
    )
    shard_dense(model, layout, CPU)
    mesh = next(model.parameters()).device_mesh
    return [
        mesh.get_group(dim)._get_backend(CPU).options._timeout.total_seconds() for dim in range(mesh.ndim)
    ]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("plans")
    for model in MODELS:
        save_plan(model, folder)
    return run_distributed(everything_on_rank, RANKS, str(folder), timeout=300)


@pytest.fixture(scope="module")
def references() -> dict[Case, Outcome]:
    return {case: unsharded(case) for case in {case.reference for case in CASES}}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_model_trains_like_the_unsharded_one(
    case: Case, ranks: list[dict[str, Any]], references: dict[Case, Outcome]
) -> None:
    expected = references[case.reference]
    assert expected.losses[-1] < expected.losses[0] - 0.001, "the reference must learn"
    assert len(expected.losses) == STEPS
    # Adam divides by the size of a gradient, and so enlarges rounding.
    weight_gap = 1e-6 if case.optimizer == "sgd" else 1e-5
    for rank in ranks:
        assert_equal(rank["outcomes"][str(case)], expected, 1e-6, weight_gap)


@pytest.mark.parametrize("case", BF16[1:], ids=str)
def test_bf16_gives_the_weights_of_ddp(case: Case, ranks: list[dict[str, Any]]) -> None:
    # The unsharded model rounds other sums: of the whole batch.
    for rank in ranks:
        assert_equal(rank["outcomes"][str(case)], rank["outcomes"][str(BF16[0])], 1e-5, 1e-5)


def assert_equal(outcome: Outcome, expected: Outcome, loss_gap: float, weight_gap: float) -> None:
    assert outcome.losses == pytest.approx(expected.losses, abs=loss_gap)
    pairs = ((outcome.weights, expected.weights), (outcome.averages, expected.averages))
    for found, wanted in pairs:
        assert found.keys() == wanted.keys()
        for name, weight in wanted.items():
            np.testing.assert_allclose(found[name], weight, atol=weight_gap, rtol=0, err_msg=name)


@pytest.mark.parametrize("changes", [{"gradient_norm": 0.1}, {"unit_norm": 0.5}, {"l2": 1.0}], ids=str)
def test_bounds_and_the_penalty_make_a_difference(
    changes: dict[str, float], references: dict[Case, Outcome]
) -> None:
    changed, plain = references[Case("dhen", "ddp", **changes)], references[Case("dhen", "ddp")]
    assert abs(changed.losses[-1] - plain.losses[-1]) > 1e-3


def test_averages_are_not_the_last_weights(references: dict[Case, Outcome]) -> None:
    outcome = references[Case("dhen", "ddp")]
    assert max(abs(outcome.averages[n] - w).max() for n, w in outcome.weights.items()) > 1e-3


@pytest.mark.parametrize("name", LAYOUTS)
def test_ranks_hold_the_bytes_that_dense_bytes_says(name: str, ranks: list[dict[str, Any]]) -> None:
    task = new_task("dhen")
    parameters = [p for name, p in task.named_parameters() if "embedding" not in name]
    layout = Case("dhen", **LAYOUTS[name]).layout
    expected = dense_bytes(parameters, layout, "adam")
    held = [rank["held"][name] for rank in ranks]
    assert {(h["bytes"].weights, h["bytes"].gradients) for h in held} == {
        (expected.weights, expected.gradients)
    }
    assert max(h["bytes"].optimizer for h in held) <= expected.optimizer
    total = sum(p.numel() for p in parameters)
    assert sum(h["elements"] for h in held) == layout.replicas * total


def test_a_rank_of_four_holds_about_a_quarter_and_a_rank_of_two_times_two_half(
    ranks: list[dict[str, Any]],
) -> None:
    weights = {name: ranks[0]["held"][name]["bytes"].weights for name in LAYOUTS}
    assert weights["fsdp"] < 0.35 * weights["ddp"]
    assert 0.5 * weights["ddp"] <= weights["hsdp"] < 0.6 * weights["ddp"]


def test_groups_of_neighbours_hold_the_same_rows(ranks: list[dict[str, Any]]) -> None:
    rows = [rank["held"]["hsdp"]["rows"] for rank in ranks]
    assert rows[0] == rows[2]
    assert rows[1] == rows[3]
    shapes = {name: len(p) for name, p in new_task("dhen").named_parameters() if "embedding" not in name}
    for name, length in shapes.items():
        (first, middle), (start_of_second, end) = rows[0][name], rows[1][name]
        assert (first, end) == (0, length), name
        assert middle == start_of_second == -(-length // 2), name


def test_a_scalar_parameter_is_named(ranks: list[dict[str, Any]]) -> None:
    assert "parameter temperature" in ranks[0]["scalar"]
    assert "give it shape [1]" in ranks[0]["scalar"]


def test_groups_wait_as_long_as_the_run_says(ranks: list[dict[str, Any]]) -> None:
    assert [rank["timeouts"] for rank in ranks] == [[77.0, 77.0]] * RANKS
