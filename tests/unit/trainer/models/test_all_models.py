"""What every registered model must do; the names come from the registry."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.unit.trainer.models.examples import (
    POINTWISE,
    example_model,
    example_section,
    full_inputs,
    pooled_inputs,
    random_batch,
    table,
    with_sparse,
)
from trainer.config import ModelConfig
from trainer.registry import ModelInputs, build_model, model_section, models
from trainer.tasks import TrainingTask

WITH_DROPOUT = [name for name in POINTWISE if "dropout" in models()[name].config.model_fields]
OF_ANY_FEATURES = [name for name in POINTWISE if name != "din"]  # which needs a history


@pytest.mark.parametrize("name", OF_ANY_FEATURES)
@pytest.mark.parametrize(
    "inputs",
    [
        full_inputs(),
        full_inputs(num_dense=0),
        pooled_inputs(num_features=1),
        pooled_inputs(num_features=1, num_dense=0),
        ModelInputs(2, ("h0",), (table("h0", ["h0"], pooling="none"),)),
    ],
    ids=["full", "no_dense", "one_feature", "one_feature_no_dense", "one_sequence"],
)
def test_logits_have_one_column_and_are_finite(name: str, inputs: ModelInputs) -> None:
    logits = example_model(name, inputs)(random_batch(inputs, 5))
    assert logits.shape == (5, 1)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", POINTWISE)
def test_name_alone_is_a_whole_config(name: str) -> None:
    section = model_section(ModelConfig(name=name))
    assert section.embedding_dim == 16
    model = build_model(section.completed(full_inputs(dim=16)), section)
    assert sum(p.numel() for p in model.parameters() if not p.is_meta) > 0


@pytest.mark.parametrize("name", POINTWISE)
def test_only_tables_are_on_the_meta_device(name: str) -> None:
    section = model_section(ModelConfig(name=name, embedding_dim=8))
    model = build_model(section.completed(full_inputs()), section)
    on_meta = {key for key, parameter in model.named_parameters() if parameter.is_meta}
    tables = {key for key, _ in model.named_parameters() if "embedding_bag_collection" in key}
    tables |= {key for key, _ in model.named_parameters() if "embedding_collection" in key}
    assert on_meta == tables
    assert len(tables) == 3
    assert not any(buffer.is_meta for buffer in model.buffers())


@pytest.mark.parametrize("name", POINTWISE)
def test_same_seed_gives_same_dense_weights(name: str) -> None:
    section = example_section(name)
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_model(section.completed(full_inputs()), section).state_dict())
    for key, value in states[0].items():
        if not value.is_meta:
            assert torch.equal(value, states[1][key]), key


@pytest.mark.parametrize("name", POINTWISE)
def test_keys_in_another_order_and_further_keys_change_nothing(name: str) -> None:
    inputs = full_inputs()
    model, batch = example_model(name, inputs), random_batch(inputs, 6)
    expected = model(batch)
    for keys in (["h0", "m0", "s1", "s0"], ["m0", "other", "s1", "h0", "s0", "another"]):
        assert torch.equal(model(with_sparse(batch, keys)), expected)


@pytest.mark.parametrize("name", POINTWISE)
def test_gradient_reaches_every_parameter(name: str) -> None:
    inputs = full_inputs()
    task = TrainingTask(example_model(name, inputs))
    loss, _ = task(random_batch(inputs, 64))
    loss.backward()
    without = [key for key, p in task.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("name", POINTWISE)
def test_rows_do_not_see_each_other(name: str) -> None:
    inputs = full_inputs()
    model = example_model(name, inputs).eval()
    batch = random_batch(inputs, 4)
    changed = replace(batch, dense_BF=batch.dense_BF.clone())
    changed.dense_BF[2] += 1.0
    before, after = model(batch), model(changed)
    assert torch.allclose(before[[0, 1, 3]], after[[0, 1, 3]], atol=1e-6)
    assert not torch.allclose(before[2], after[2], atol=1e-4)


@pytest.mark.parametrize("name", POINTWISE)
def test_tables_of_different_widths_train_together(name: str) -> None:
    tables = (table("s0", ["s0"], 4), table("m0", ["m0"], 8), table("h0", ["s1", "h0"], 6, "none"))
    inputs = ModelInputs(3, ("s0", "m0", "s1", "h0"), tables, frozenset({"m0", "h0"}))
    loss, _ = TrainingTask(example_model(name, inputs))(random_batch(inputs, 8))
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("name", POINTWISE)
def test_logits_are_float32_under_bf16_autocast(name: str) -> None:
    inputs = full_inputs()
    task, batch = TrainingTask(example_model(name, inputs)), random_batch(inputs, 16)
    exact = task(batch)[1][1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, (_, logits, _, _) = task(batch)
    loss.backward()
    assert logits.dtype == loss.dtype == torch.float32
    assert torch.allclose(logits, exact, atol=0.05)
    assert not torch.equal(logits, exact)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in task.parameters())


@pytest.mark.parametrize("name", POINTWISE)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_overfits_a_tiny_batch(name: str, dropout: float) -> None:
    inputs = full_inputs()
    keys = {"dropout": dropout} if name in WITH_DROPOUT else {}
    task, batch = TrainingTask(example_model(name, inputs, **keys)), random_batch(inputs, 16)
    optimizer = torch.optim.Adam(task.parameters(), lr=0.01)
    for step in range(300):
        torch.manual_seed(step)  # the mask follows it, as in the training loop
        optimizer.zero_grad()
        loss, _ = task(batch)
        loss.backward()
        optimizer.step()
    assert task.eval()(batch)[0] < 0.05


def test_dropout_acts_in_training_only() -> None:
    for name in WITH_DROPOUT:
        inputs = full_inputs()
        model, batch = example_model(name, inputs, dropout=0.5), random_batch(inputs, 8)
        outputs = []
        for seed in (1, 2):  # the mask follows the seed of the step
            torch.manual_seed(seed)
            outputs.append(model.train()(batch))
        assert not torch.equal(*outputs), name
        assert torch.equal(model.eval()(batch), model(batch)), name


@pytest.mark.parametrize("name", OF_ANY_FEATURES)
@pytest.mark.parametrize("pooling", ["sum", "none"])
def test_feature_names_may_hold_dots(name: str, pooling: str) -> None:
    inputs = ModelInputs(0, ("s.user.id",), (table("user", ["s.user.id"], pooling=pooling),))
    assert example_model(name, inputs)(random_batch(inputs, 3)).shape == (3, 1)
