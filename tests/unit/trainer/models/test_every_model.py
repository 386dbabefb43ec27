"""What every registered model does: config, state, bf16, source, and a place in the tests of its kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from tests.support.item_ranks import genres_of
from tests.unit.trainer.models.examples import (
    POINTWISE,
    example_model,
    example_section,
    full_inputs,
    random_batch,
)
from tests.unit.trainer.models.item_examples import event_inputs, genre_inputs, item_batch, user_inputs
from tests.unit.trainer.models.test_item_models import PLANTED, TRAINED
from trainer.batch import Batch
from trainer.config import ModelConfig
from trainer.modules.item_catalogue import ItemCatalogue
from trainer.modules.item_model import ItemModel
from trainer.registry import ModelInputs, model_section, models
from trainer.tasks import TrainingTask

ROWS = 16
EVERY = list(models())
OF_ITEMS = [name for name in EVERY if name not in POINTWISE]
_OF_EVENTS = {"mf": event_inputs, "ncf": event_inputs, "two_tower": genre_inputs}


def inputs_of(name: str) -> ModelInputs:
    return full_inputs() if name in POINTWISE else _OF_EVENTS.get(name, user_inputs)()


def keys_of(name: str) -> dict[str, Any]:
    """Return keys that give a model more than its defaults: state of norms, features of items."""
    if name == "two_tower":
        return {"item_features": ["genres"]}
    return {"norm": "batch"} if name in ("deep_fm", "final_mlp", "wide_deep") else {}


def made(name: str, seed: int) -> nn.Module:
    model = example_model(name, inputs_of(name), seed, **keys_of(name))
    for module in model.modules():
        if isinstance(module, ItemCatalogue):
            module.fill({feature: genres_of(module.num_items) for feature in module.features})
    if isinstance(model, ItemModel):
        model.sampler.set_counts(torch.arange(1, model.sampler.num_items + 1))
    return model


def batch_of(name: str) -> Batch:
    return random_batch(inputs_of(name), ROWS) if name in POINTWISE else item_batch(inputs_of(name), ROWS)


def outputs(model: nn.Module, batch: Batch) -> Tensor:
    """Return logits, or scores of all items."""
    model.eval()
    if not isinstance(model, ItemModel):
        logits: Tensor = model(batch)
        return logits
    return model.scores(model.row_queries(batch), model.item_share(batch)[1])


@pytest.mark.parametrize("name", EVERY)
def test_a_config_comes_back_from_yaml(name: str) -> None:
    section = example_section(name, **keys_of(name))
    text = yaml.safe_dump(section.model_dump(mode="json"))
    assert model_section(ModelConfig(**yaml.safe_load(text))) == section


@pytest.mark.parametrize("name", EVERY)
def test_a_state_dict_carries_a_trained_model_over(name: str) -> None:
    model, other, batch = made(name, 0), made(name, 1), batch_of(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    TrainingTask(model)(batch)[0].backward()
    optimizer.step()
    assert not torch.equal(outputs(other, batch), outputs(model, batch))
    other.load_state_dict(model.state_dict())
    assert torch.equal(outputs(other, batch), outputs(model, batch))


@pytest.mark.parametrize("name", OF_ITEMS)  # of others in test_all_models.py
def test_bf16_trains_and_comes_near_fp32(name: str) -> None:
    model, batch, losses = made(name, 0), batch_of(name), []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses.append(TrainingTask(model)(batch)[0])
    plain, half = losses
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(plain.item(), rel=0.05)
    # Of matrix factorization all is tables, whose products are summed in fp32.
    assert half.item() != plain.item() or name == "mf"
    half.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize("name", EVERY)
def test_the_docstring_names_the_source(name: str) -> None:
    entry = models()[name]
    _, found, told = (entry.build.__doc__ or "").partition("Source:")
    assert found
    year = next(word for word in entry.source.replace(",", " ").split() if word.isdigit())
    assert year in told


def test_no_model_of_items_is_left_out_of_the_tests_of_ranks_and_of_planted_taste() -> None:
    assert {case[0] for case in TRAINED.values()} == set(OF_ITEMS)
    assert {case[0] for case in PLANTED.values()} >= {n for n in OF_ITEMS if models()[n].task == "retrieval"}
