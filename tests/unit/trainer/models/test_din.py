"""DIN and the parts of it, against loops over rows and ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from tests.support.ranks import run_distributed
from tests.unit.trainer.models.examples import example_model, full_inputs, pooled_inputs, random_batch, table
from trainer.errors import ConfigError
from trainer.modules.batch_norm import GlobalBatchNorm
from trainer.modules.target_attention import Dice, TargetAttention
from trainer.registry import ModelInputs


def _history(lengths: list[int], dim: int = 4) -> JaggedTensor:
    torch.manual_seed(1)
    return JaggedTensor(torch.randn(sum(lengths), dim), lengths=torch.tensor(lengths))


def test_a_history_is_the_sum_of_its_vectors_weighted_by_a_network_that_sees_the_target() -> None:
    torch.manual_seed(0)
    attention, history, target_BD = TargetAttention(4, [6], "relu"), _history([2, 0, 3]), torch.randn(3, 4)
    found = attention(history, target_BD).detach().double().numpy()
    weights = {key: value.double().numpy() for key, value in attention.state_dict().items()}
    for row, vectors in enumerate(history.to_dense()):
        expected = np.zeros(4)
        t = target_BD[row].double().numpy()
        for h in vectors.double().numpy():
            seen = np.concatenate([t, h, t - h, t * h])
            hidden = np.maximum(weights["weight.0.weight"] @ seen + weights["weight.0.bias"], 0)
            expected += float((weights["weight.2.weight"] @ hidden + weights["weight.2.bias"])[0]) * h
        assert np.allclose(found[row], expected, atol=1e-5)


def test_the_target_decides_what_a_history_says() -> None:
    inputs = full_inputs(num_dense=0)
    model, batch = example_model("din", inputs).eval(), random_batch(inputs, 8)
    before = model.sparse_arch(batch.sparse)
    other = random_batch(inputs, 8)
    targets = slice(int(other.sparse.offset_per_key()[1]), int(other.sparse.offset_per_key()[2]))
    other.sparse.values()[targets] = (other.sparse.values()[targets] + 1) % 20
    after = model.sparse_arch(other.sparse)
    history = slice(-8, None)  # h0 is the last feature
    some = batch.sparse["h0"].lengths() > 0
    assert not torch.allclose(before[some][:, history], after[some][:, history])
    assert not before[~some][:, history].any()


def test_dice_is_a_share_of_two_slopes() -> None:
    dice, x_BN = Dice(3), torch.randn(50, 3) * 4 + 2
    nn.init.normal_(dice.alpha_N)
    mean, std = x_BN.mean(dim=0), x_BN.std(dim=0, unbiased=False)
    share = 1 / (1 + torch.exp(-(x_BN - mean) / std))
    assert torch.allclose(dice(x_BN), share * x_BN + (1 - share) * dice.alpha_N * x_BN, atol=1e-5)


def test_batch_norm_equals_torchs_on_one_rank() -> None:
    ours, theirs = GlobalBatchNorm(5), nn.BatchNorm1d(5)
    for step in range(3):
        torch.manual_seed(step)
        x_BN = torch.randn(16, 5) * 3 + 1
        mine, other = x_BN.clone().requires_grad_(), x_BN.clone().requires_grad_()
        a, b = ours(mine), theirs(other)
        a.square().mul(torch.arange(5)).sum().backward()
        b.square().mul(torch.arange(5)).sum().backward()
        assert torch.allclose(a, b, atol=1e-5)
        assert torch.allclose(mine.grad, other.grad, atol=1e-4)
    assert torch.allclose(ours.eval()(x_BN), theirs.eval()(x_BN), atol=1e-5)


def _norm_of_uneven_ranks(rank: int, world_size: int) -> dict[str, Any]:
    torch.manual_seed(0)
    x_BN = torch.randn(9, 4) * 2 + 3
    own = x_BN[:7] if rank == 0 else x_BN[7:]
    own = own.clone().requires_grad_()
    norm = GlobalBatchNorm(4)
    y_BN = norm(own)
    y_BN.square().mul(torch.arange(4)).sum().backward()
    return {"y": y_BN.tolist(), "gradient": own.grad.tolist(), "variance": norm.variance_N.tolist()}


def test_batch_norm_over_ranks_with_different_numbers_of_rows_is_that_of_all_rows() -> None:
    torch.manual_seed(0)
    x_BN = (torch.randn(9, 4) * 2 + 3).requires_grad_()
    norm = nn.BatchNorm1d(4)
    y_BN = norm(x_BN)
    y_BN.square().mul(torch.arange(4)).sum().backward()
    first, second = run_distributed(_norm_of_uneven_ranks, 2)
    assert np.allclose(first["y"] + second["y"], y_BN.detach(), atol=1e-5)
    assert np.allclose(first["gradient"] + second["gradient"], x_BN.grad, atol=1e-4)
    assert np.allclose(first["variance"], norm.running_var, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "inputs", "message"),
    [
        ({}, pooled_inputs(), "needs a history"),
        ({"targets": {"m0": "s1"}}, full_inputs(), "no sequence with `pooling: none`"),
        ({"targets": {"h0": "m0"}}, full_inputs(), "no feature of one id"),
        (
            {"targets": {"h0": "s0"}},
            ModelInputs(
                0, ("s0", "h0"), (table("s0", ["s0"], 4), table("h0", ["h0"], 8, "none")), frozenset({"h0"})
            ),
            "vectors of one width",
        ),
    ],
)
def test_a_history_without_a_target_is_named(keys: dict[str, Any], inputs: ModelInputs, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        example_model("din", inputs, **keys)


def test_a_target_may_have_a_table_of_its_own() -> None:
    tables = (table("s0", ["s0"], 8), table("h0", ["h0"], 8, "none"))
    inputs = ModelInputs(0, ("s0", "h0"), tables, frozenset({"h0"}))
    model = example_model("din", inputs, targets={"h0": "s0"})
    assert model(random_batch(inputs, 5)).shape == (5, 1)
