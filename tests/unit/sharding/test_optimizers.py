from __future__ import annotations

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torchrec.distributed.utils import optimizer_type_to_emb_opt_type

from sharding.optimizers import (
    FusedOptimizer,
    ReplicatedTableOptimizer,
    fused_arguments,
    optimizer_class,
    replicated_table_optimizer,
)
from sharding.tables import TableSpec

ROWS, DIM = 6, 4


def train(name: str, weight_decay: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two steps on rows 1 and 4, and the same by the textbook."""
    rule = FusedOptimizer(name, learning_rate=0.3, eps=1e-4, weight_decay=weight_decay)
    start = torch.linspace(-1, 1, ROWS * DIM).view(ROWS, DIM)
    weight = torch.nn.Parameter(start.clone())
    expected, moment = start.clone(), torch.zeros(ROWS, DIM)
    optimizer = ReplicatedTableOptimizer([{"params": [weight], "name": "t", "lr": 0.3}], rule)
    for step in (1.0, 2.0):
        gradient = torch.zeros(ROWS, DIM)
        gradient[1], gradient[4] = step * torch.tensor([1.0, -2, 0, 3]), torch.tensor([0.5, 0, 0, step])
        weight.grad = gradient.clone()
        optimizer.step()
        for row in (1, 4):
            g = gradient[row] + weight_decay * expected[row]
            if name == "sgd":
                expected[row] -= 0.3 * g
                continue
            moment[row] += (g * g).mean() if name == "rowwise_adagrad" else g * g
            expected[row] -= 0.3 * g / (moment[row].sqrt() + 1e-4)
    return weight.detach(), expected


@pytest.mark.parametrize("name", ["sgd", "adagrad", "rowwise_adagrad"])
def test_replicated_tables_follow_the_textbook_rule(name: str) -> None:
    weight, expected = train(name)
    assert torch.allclose(weight, expected, atol=1e-6)


def test_weight_decay_reaches_touched_rows_only() -> None:
    weight, expected = train("rowwise_adagrad", weight_decay=0.1)
    assert torch.allclose(weight, expected, atol=1e-6)
    untouched = torch.linspace(-1, 1, ROWS * DIM).view(ROWS, DIM)[[0, 2, 3, 5]]
    assert torch.equal(weight[[0, 2, 3, 5]], untouched)


@pytest.mark.parametrize("name", ["adam", "adamw", "partial_rowwise_adam"])
def test_replicated_tables_follow_adam(name: str) -> None:
    """Row 1 is touched at all steps, row 4 at the last alone; counted from 10 steps done on."""
    decay = 0.1 if name == "adamw" else 0.0
    rule = FusedOptimizer(name, learning_rate=0.3, eps=1e-4, weight_decay=decay, betas=(0.8, 0.9))
    start = torch.linspace(-1, 1, ROWS * DIM, dtype=torch.float64).view(ROWS, DIM)
    weight = torch.nn.Parameter(start.float())
    optimizer = ReplicatedTableOptimizer([{"params": [weight], "name": "t", "lr": 0.3}], rule)
    optimizer.steps = 10
    expected, first, second = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for step, rows in ((11, (1,)), (12, (1,)), (13, (1, 4))):
        gradient = torch.zeros(ROWS, DIM)
        for row in rows:
            gradient[row] = torch.tensor([1.0, -2, 0, 3]) * (step - 9)
        weight.grad = gradient.clone()
        optimizer.step()
        for row in rows:
            g = gradient[row].double()
            first[row] = 0.8 * first[row] + 0.2 * g
            square = (g * g).mean() if name == "partial_rowwise_adam" else g * g
            second[row] = 0.9 * second[row] + 0.1 * square
            hat, root = first[row] / (1 - 0.8**step), (second[row] / (1 - 0.9**step)).sqrt()
            expected[row] -= 0.3 * (hat / (root + 1e-4) + decay * expected[row])
    assert torch.allclose(weight.detach().double(), expected, atol=1e-5)
    shapes = {key: tuple(moment.shape) for key, moment in optimizer.state[weight].items()}
    rowwise = name == "partial_rowwise_adam"
    assert shapes == {"t.momentum1": (ROWS, DIM), "t.exp_avg_sq": (ROWS,) if rowwise else (ROWS, DIM)}


def test_replicated_adam_is_torchs_where_every_row_has_a_gradient() -> None:
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(ROWS, DIM, generator=generator)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    rule = FusedOptimizer("adam", learning_rate=0.1, eps=1e-6, betas=(0.7, 0.95))
    optimizer = ReplicatedTableOptimizer([{"params": [ours], "name": "t", "lr": 0.1}], rule)
    reference = torch.optim.Adam([theirs], lr=0.1, eps=1e-6, betas=(0.7, 0.95))
    for _ in range(7):
        ours.grad = torch.randn(ROWS, DIM, generator=generator)
        theirs.grad = ours.grad.clone()
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours, theirs)


def test_half_precision_tables_keep_their_state_in_full_precision() -> None:
    weight = torch.nn.Parameter(torch.ones(ROWS, DIM, dtype=torch.float16))
    optimizer = ReplicatedTableOptimizer(
        [{"params": [weight], "name": "t", "lr": 1.0}], FusedOptimizer("adagrad")
    )
    weight.grad = torch.full((ROWS, DIM), 1e-4, dtype=torch.float16)  # Its square underflows in fp16.
    optimizer.step()
    (moment,) = optimizer.state[weight].values()
    assert moment.dtype == torch.float32
    assert (moment > 0).all()
    assert torch.allclose(weight.float(), torch.zeros(ROWS, DIM), atol=2e-2)


def test_state_exists_before_the_first_step_under_the_fused_kernels_names() -> None:
    weight = torch.nn.Parameter(torch.ones(ROWS, DIM))
    tables = {"t": TableSpec("t", ROWS, DIM, ("f",), learning_rate=0.7)}
    optimizer = replicated_table_optimizer({"e.embedding_bags.t.weight": weight}, tables, FusedOptimizer())
    state = optimizer.state_dict()["state"]["e.embedding_bags.t.weight"]
    assert {name: tuple(value.shape) for name, value in state.items()} == {"t.momentum1": (ROWS,)}
    assert [group["lr"] for group in optimizer.param_groups] == [0.7]


def test_a_changed_learning_rate_of_a_param_group_takes_effect() -> None:
    weight = torch.nn.Parameter(torch.ones(ROWS, DIM))
    tables = {"t": TableSpec("t", ROWS, DIM, ("f",))}
    rule = FusedOptimizer("sgd", learning_rate=1.0)
    optimizer = replicated_table_optimizer({"e.embedding_bags.t.weight": weight}, tables, rule)
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    weight.grad = torch.ones(ROWS, DIM)
    optimizer.step()
    assert torch.equal(weight.detach(), torch.full((ROWS, DIM), 0.5))


def test_adamw_is_fbgemms_adam_with_its_decay() -> None:
    rule = FusedOptimizer("adamw", learning_rate=0.3, weight_decay=0.1, betas=(0.8, 0.9))
    assert optimizer_type_to_emb_opt_type(optimizer_class(rule)) == EmbOptimType.ADAM
    arguments = fused_arguments(rule, TableSpec("t", ROWS, DIM, ("f",)))
    assert arguments == {"lr": 0.3, "eps": 1e-8, "beta1": 0.8, "beta2": 0.9, "weight_decay": 0.1}
