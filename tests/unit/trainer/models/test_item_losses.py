"""Own losses of models of queries and items: their forms, negatives of users' rows, parts of a batch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.unit.trainer.models.examples import example_model, example_section
from tests.unit.trainer.models.item_examples import event_inputs, item_batch, user_inputs
from trainer.batch import Batch
from trainer.config import LossConfig
from trainer.errors import ConfigError
from trainer.losses.pointwise import binary_losses
from trainer.losses.ranking import pointwise_loss, sampled_softmax_loss
from trainer.modules.item_model import ItemModel
from trainer.modules.item_section import check_own_loss
from trainer.tasks import TrainingTask, begin_parts

SMOOTHED = LossConfig(label_smoothing=0.3)
ROWS = 12


def scores() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return scores of 4 positives and of 5 negatives each, one of which does not count."""
    generator = torch.Generator().manual_seed(1)
    positive_Q, negative_QC = torch.randn(4, generator=generator), torch.randn(4, 5, generator=generator)
    counts_QC = torch.ones(4, 5, dtype=torch.bool)
    counts_QC[:, 2] = False
    return positive_Q, negative_QC, counts_QC


def test_a_smoothed_softmax_is_torch_s_over_what_is_compared() -> None:
    positive_Q, negative_QC, counts_QC = scores()
    found_Q = sampled_softmax_loss(positive_Q, negative_QC, counts_QC, SMOOTHED)
    kept_QC = torch.cat([positive_Q.unsqueeze(1), negative_QC[:, [0, 1, 3, 4]]], dim=1)
    own_Q = torch.zeros(4, dtype=torch.int64)
    expected_Q = cross_entropy(kept_QC, own_Q, reduction="none", label_smoothing=0.3)
    torch.testing.assert_close(found_Q, expected_Q)


def test_pointwise_takes_every_form_of_the_loss_of_binary_labels() -> None:
    positive_Q, negative_QC, counts_QC = scores()
    loss = LossConfig(label_smoothing=0.2, focal_gamma=2.0, positive_weight=3.0)
    found_Q = pointwise_loss(positive_Q, negative_QC, counts_QC, loss)
    for q in range(4):
        expected = binary_losses(positive_Q[q], torch.tensor(1.0), loss)
        for c in (0, 1, 3, 4):
            expected = expected + binary_losses(negative_QC[q, c], torch.tensor(0.0), loss)
        torch.testing.assert_close(found_Q[q], expected)


def test_a_model_over_all_items_is_trained_by_smoothed_labels() -> None:
    inputs = event_inputs()
    batch = item_batch(inputs, ROWS)
    task = TrainingTask(example_model("mf", inputs, objective="softmax", negatives={}), SMOOTHED)
    model = task.model
    assert isinstance(model, ItemModel)
    scores_BN = model.row_queries(batch) @ model.item_share(batch)[1].T
    targets = model.examples(batch).targets
    rows_Q = torch.repeat_interleave(torch.arange(ROWS), targets.lengths())
    losses_Q = cross_entropy(scores_BN[rows_Q], targets.values() - 2, reduction="none", label_smoothing=0.3)
    expected = (losses_Q * batch.weights_B[rows_Q]).sum() / len(rows_Q)
    torch.testing.assert_close(task(batch)[0], expected)


@pytest.mark.parametrize(
    ("objective", "key"),
    [("bpr", "label_smoothing"), ("sampled_softmax", "focal_gamma"), ("softmax", "positive_weight")],
)
def test_a_form_that_the_objective_does_not_have_is_refused(objective: str, key: str) -> None:
    negatives = {} if objective == "softmax" else {"per_query": 1}
    section = example_section("mf", objective=objective, negatives=negatives)
    with pytest.raises(ConfigError, match=rf"train\.loss\.{key}(.|\n)*leave it out"):
        check_own_loss(section, LossConfig(**{key: 0.5}), rated=False)


def test_a_rating_is_no_label_of_queries_and_items_but_of_pointwise_without_negatives() -> None:
    with pytest.raises(ConfigError, match=r"rating(.|\n)*positive_at_least"):
        check_own_loss(example_section("mf", objective="bpr"), LossConfig(), rated=True)
    check_own_loss(example_section("mf", objective="pointwise", negatives={}), LossConfig(), rated=True)


def test_pointwise_predicts_by_what_it_is_trained_on_at_every_temperature() -> None:
    inputs = event_inputs()
    keys: dict[str, Any] = {"objective": "pointwise", "negatives": {}}
    batch = item_batch(inputs, ROWS)
    plain, sharp = (example_model("mf", inputs, **keys, temperature=t) for t in (1.0, 0.25))
    sharp.load_state_dict(plain.state_dict())
    torch.testing.assert_close(sharp(batch), 4 * plain(batch))
    trained = example_model("mf", inputs, objective="pointwise", negatives={"per_query": 2}, temperature=0.25)
    trained.load_state_dict(plain.state_dict())
    torch.testing.assert_close(trained.eval()(batch), sharp(batch))


@pytest.mark.parametrize("objective", ["pointwise", "sampled_softmax", "bpr"])
def test_items_of_the_user_are_no_negatives_of_it_wherever_they_come_from(objective: str) -> None:
    inputs = user_inputs()
    keys: dict[str, Any] = {"objective": objective, "input_dropout": 0.0}
    model = example_model("cdae", inputs, **keys, negatives={"in_batch": True, "shared": 9})
    batch = item_batch(inputs, ROWS)
    batch.weights_B.clamp_(max=1)
    torch.manual_seed(3)
    found = model(batch).item()
    torch.manual_seed(3)
    assert isinstance(model, ItemModel)
    shared = model.sampler.shared(torch.device("cpu")).tolist()
    lists = [ids.tolist() for ids in batch.sparse["seen"].to_dense()]
    every = [item for ids in lists[:-1] for item in ids]
    scores_BN = (model.eval().row_queries(batch) @ model.item_share(batch)[1].T).tolist()
    total, rows = 0.0, 0
    for row, own in enumerate(lists[:-1]):
        rows += bool(own)
        others = [scores_BN[row][item - 2] for item in shared + every if item not in own]
        for item in own:
            score = scores_BN[row][item - 2]
            if objective == "pointwise":
                total += math.log1p(math.exp(-score)) + sum(math.log1p(math.exp(other)) for other in others)
            elif objective == "bpr":
                total += sum(math.log1p(math.exp(other - score)) for other in others) / len(others)
            else:
                total += math.log(math.exp(score) + sum(map(math.exp, others))) - score
    assert found == pytest.approx(total / rows, rel=1e-5)


PARTS: dict[str, Any] = {
    "mf": ("mf", event_inputs(), {"objective": "bpr", "negatives": {"per_query": 2}}),
    "mf softmax": ("mf", event_inputs(), {"objective": "softmax", "negatives": {}}),
    "mf shared": ("mf", event_inputs(), {"objective": "bpr", "negatives": {"shared": 4}}),
    "sasrec": ("sasrec", user_inputs(), {}),
    "bert4rec": ("bert4rec", user_inputs(), {}),
    "cdae": ("cdae", user_inputs(), {}),
    "mult_vae": ("mult_vae", user_inputs(), {"kl_anneal_steps": 4}),
}


def _gradients(task: TrainingTask, batch: Batch, parts: int) -> tuple[float, dict[str, torch.Tensor]]:
    """Return what is told of two steps in so many parts, and the gradients of the second."""
    told = 0.0
    for step in range(2):
        task.zero_grad()
        torch.manual_seed(step)
        begin_parts(task, batch, parts)
        for part in batch.parts(parts):
            loss, (mean, *_) = task(part)
            torch.autograd.backward(loss / parts)
            told += mean.item() / parts
    return told, {name: p.grad for name, p in task.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_a_batch_have_the_gradient_of_the_whole(name: str) -> None:
    model, inputs, keys = PARTS[name]
    inputs_of = example_section(model, **keys).completed(inputs)
    batch, found = item_batch(inputs, ROWS, seed=4), []
    for parts in (1, 3):
        torch.manual_seed(0)
        task = TrainingTask(example_model(model, inputs, **keys), embedding_l2=0.1)
        task.penalty.watch(task, inputs_of.tables)
        found.append((_gradients(task, batch, parts), dict(task.model.named_buffers())))
    ((told, whole), buffers), ((told_of_parts, of_parts), buffers_of_parts) = found
    assert told_of_parts == pytest.approx(told, rel=1e-5)
    assert whole.keys() == of_parts.keys()
    for key, gradient in whole.items():
        torch.testing.assert_close(of_parts[key], gradient, rtol=1e-4, atol=1e-6)
    for key, buffer in buffers.items():
        torch.testing.assert_close(buffers_of_parts[key], buffer)
