"""MMoE and PLE against their formulas in float64, and what every model of several tasks must do."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tests.unit.trainer.models.examples import example_model, full_inputs, pooled_inputs, random_batch
from trainer.errors import ConfigError
from trainer.losses.pointwise import TaskHead
from trainer.metrics import roc_auc
from trainer.modules.experts import Gate
from trainer.registry import models
from trainer.tasks import TrainingTask

Array = NDArray[np.float64]
TASKS = ("click", "like", "stars")
SEVERAL = [name for name, entry in models().items() if entry.several_tasks]
INPUTS = replace(pooled_inputs(dim=4), tasks=TASKS)
SMALL: dict[str, Any] = {"embedding_dim": 4, "expert_layer_sizes": [6, 5], "tower_layer_sizes": [3]}
ROWS = 7


def _built(name: str, **keys: Any) -> tuple[nn.Module, dict[str, Array]]:
    model = example_model(name, INPUTS, **SMALL, **keys)
    torch.manual_seed(3)
    for key, parameter in model.named_parameters():
        if "embedding_bag" not in key:
            nn.init.normal_(parameter, std=0.4)
    return model, {key: value.double().numpy() for key, value in model.state_dict().items()}


def _input(state: dict[str, Array], batch: Any) -> Array:
    bags = "input_arch.sparse_arch.embedding_bag_collection.embedding_bags"
    ids = batch.sparse.to_dict()
    vectors = [state[f"{bags}.{name}.weight"][ids[name].values().numpy()] for name in ("s0", "s1")]
    return np.concatenate([*vectors, batch.dense_BF.double().numpy()], axis=1)


def _network(state: dict[str, Array], name: str, x: Array) -> Array:
    for layer in range(2):
        weights = f"{name}._mlp.{layer}._linear"
        if f"{weights}.weight" in state:
            x = np.maximum(x @ state[f"{weights}.weight"].T + state[f"{weights}.bias"], 0)
    return x


def _experts(state: dict[str, Array], name: str, count: int, x: Array) -> list[Array]:
    return [_network(state, f"{name}.networks.{e}", x) for e in range(count)]


def _gated(state: dict[str, Array], name: str, x: Array, experts: list[Array]) -> Array:
    scores = np.exp(x @ state[f"{name}.linear.weight"].T)
    assert scores.shape == (ROWS, len(experts))
    shares = scores / scores.sum(axis=1, keepdims=True)
    return np.sum([shares[:, [e]] * expert for e, expert in enumerate(experts)], axis=0)


def _tower(state: dict[str, Array], task: int, x: Array) -> Array:
    tower = f"towers.towers.{task}"
    hidden = _network(state, f"{tower}.hidden", x)
    return hidden @ state[f"{tower}.logits.weight"].T + state[f"{tower}.logits.bias"]


def test_a_gate_mixes_experts_by_a_softmax_of_its_input() -> None:
    gate = Gate(2, 2)
    gate.linear.weight.data = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    experts_BED = torch.tensor([[[4.0, 0.0], [0.0, 8.0]]])
    # Shares 3/4 and 1/4 of the experts.
    assert gate(torch.tensor([[1.0, 5.0]]), experts_BED).tolist() == [pytest.approx([3.0, 2.0])]


def test_mmoe_gives_each_task_its_own_mixture_of_the_shared_experts() -> None:
    model, state = _built("mmoe", num_experts=3)
    batch = random_batch(INPUTS, ROWS)
    x = _input(state, batch)
    experts = _experts(state, "experts", 3, x)
    logits = [_tower(state, t, _gated(state, f"gates.{t}", x, experts)) for t in range(3)]
    assert np.allclose(model(batch).detach().numpy(), np.concatenate(logits, axis=1), atol=1e-5)


@pytest.mark.parametrize("num_levels", [1, 2, 3])
def test_ple_extracts_what_is_shared_and_what_is_a_task_s_own_level_by_level(num_levels: int) -> None:
    model, state = _built("ple", num_levels=num_levels, num_shared_experts=2, num_task_experts=1)
    batch = random_batch(INPUTS, ROWS)
    of_tasks, shared = [_input(state, batch)] * 3, _input(state, batch)
    for number in range(num_levels):
        level = f"levels.{number}"
        shared_experts = _experts(state, f"{level}.shared_experts", 2, shared)
        own = [_experts(state, f"{level}.task_experts.{t}", 1, x) for t, x in enumerate(of_tasks)]
        mixed = [
            _gated(state, f"{level}.task_gates.{t}", x, [*own[t], *shared_experts])
            for t, x in enumerate(of_tasks)
        ]
        if number < num_levels - 1:
            everything = [expert for experts in own for expert in experts] + shared_experts
            shared = _gated(state, f"{level}.shared_gate", shared, everything)
        else:
            assert f"{level}.shared_gate.linear.weight" not in state
        of_tasks = mixed
    logits = np.concatenate([_tower(state, t, x) for t, x in enumerate(of_tasks)], axis=1)
    assert np.allclose(model(batch).detach().numpy(), logits, atol=1e-5)


@pytest.mark.parametrize("name", SEVERAL)
def test_each_task_has_a_logit_of_its_own_and_teaches_what_it_uses(name: str) -> None:
    inputs = replace(full_inputs(), tasks=TASKS)
    model, batch = example_model(name, inputs), random_batch(inputs, 64)
    heads = [TaskHead(), TaskHead(weight=0.5), TaskHead(is_rating=True, mean=0.5, std=0.5)]
    task = TrainingTask(model, heads=heads)
    loss, (_, logits, _, _) = task(batch)
    assert logits.shape == (64, 3)
    assert logits.dtype == torch.float32
    loss.backward()
    without = [key for key, p in task.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    # A task without labels is not learnt: its own last layer gets no gradient.
    task.zero_grad()
    unknown = replace(batch, labels_BT=batch.labels_BT.clone())
    unknown.labels_BT[:, 1] = torch.nan
    loss, _ = task(unknown)
    loss.backward()
    assert torch.isfinite(loss)
    gradients = [p.grad for p in task.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    last = [p for key, p in task.named_parameters() if p.shape == (3,) and key.endswith("bias")]
    towers = [p for key, p in task.named_parameters() if key.endswith("logits.bias") and p.shape == (1,)]
    of_second = last[-1].grad[1] if last else towers[1].grad[0]
    assert of_second == 0


@pytest.mark.parametrize("name", ["dlrm", "mmoe", "ple"])
def test_two_tasks_that_want_the_opposite_are_both_learnt(name: str) -> None:
    """One label follows an id, the other one the id's opposite and a dense feature; best AUCs are near 1."""
    inputs = replace(full_inputs(), tasks=("up", "down"))
    truth = torch.randn(20, generator=torch.Generator().manual_seed(5)) * 6

    def planted(seed: int, rows: int) -> Any:
        batch = random_batch(inputs, rows, seed)
        signal_B = truth[batch.sparse["s0"].values()]
        logits_BT = torch.stack([signal_B, 6 * batch.dense_BF[:, 0] - signal_B], dim=1)
        draws = torch.rand(rows, 2, generator=torch.Generator().manual_seed(seed + 100))
        return replace(batch, labels_BT=(draws < logits_BT.sigmoid()).float()), logits_BT

    task = TrainingTask(example_model(name, inputs), heads=[TaskHead()] * 2)
    optimizer = torch.optim.Adam(task.parameters(), lr=0.01)
    for step in range(60):
        optimizer.zero_grad()
        task(planted(step, 512)[0])[0].backward()
        optimizer.step()
    held_out, truth_BT = planted(999, 4096)
    with torch.no_grad():
        logits_BT = task.eval()(held_out)[1][1]
    for t in range(2):
        labels = held_out.labels_BT[:, t].double().numpy()
        best = roc_auc(truth_BT[:, t].double().numpy(), labels)
        assert best - 0.03 < roc_auc(logits_BT[:, t].double().numpy(), labels) < best + 0.003


def test_a_model_of_one_task_names_those_of_several() -> None:
    with pytest.raises(ConfigError, match="`fm` learns one task") as error:
        example_model("fm", INPUTS, embedding_dim=4)
    assert "click, like, stars" in str(error.value)
    assert {"mmoe", "ple", "dlrm", "dhen"} <= set(SEVERAL)
    assert "fm" not in SEVERAL
