"""NCF, CDAE and Mult-VAE against their papers' formulas in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.trainer.models.examples import NUM_EMBEDDINGS, example_model
from tests.unit.trainer.models.item_examples import event_inputs, item_batch, user_inputs
from trainer.batch import Batch
from trainer.errors import ConfigError
from trainer.modules.item_model import ItemModel
from trainer.modules.row_noise import row_normal

BAGS = "lookup.embedding_bag_collection.embedding_bags"
ROWS = "lookup.embedding_collection.embeddings"


def _state(model: torch.nn.Module) -> dict[str, Any]:
    return {key: value.double().numpy() for key, value in model.state_dict().items()}


def _model(name: str, inputs: Any, **keys: Any) -> ItemModel:
    model = example_model(name, inputs, **keys)
    assert isinstance(model, ItemModel)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter)
    return model


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("parts", [["gmf"], ["mlp"], ["gmf", "mlp"]])
def test_ncf_scores_pairs_by_product_and_network(parts: list[str]) -> None:
    model = _model("ncf", event_inputs(), parts=parts, mlp_embedding_dim=12, mlp_layer_sizes=[10, 6])
    batch, state = item_batch(event_inputs(), 6), _state(model)
    ids = batch.sparse.to_dict()
    users = state[f"{BAGS}.user.weight"][ids["user"].values().numpy()]
    items = state[f"{ROWS}.item.weight"][ids["item"].values().numpy()]
    gmf = 8 if "gmf" in parts else 0
    assert users.shape[1] == gmf + (12 if "mlp" in parts else 0)
    last = [users[:, :gmf] * items[:, :gmf]]
    if "mlp" in parts:
        first = np.concatenate([state["network.of_user.weight"], state["network.of_item.weight"]], axis=1)
        both = np.concatenate([users[:, gmf:], items[:, gmf:]], axis=1)
        hidden = np.maximum(both @ first.T + state["network.of_item.bias"], 0)
        weight, bias = (state[f"network.hidden._mlp.0._linear.{name}"] for name in ("weight", "bias"))
        last.append(np.maximum(hidden @ weight.T + bias, 0))
    expected = np.concatenate(last, axis=1) @ state["network.score.weight"].T + state["network.score.bias"]
    model.eval()
    assert np.allclose(model(batch).detach().numpy(), expected, atol=1e-5)
    # The same pairs among those of all items.
    found, vectors = model.item_share(batch)
    everything = model.scores(model.row_queries(batch), vectors).detach().numpy()
    for row, item in enumerate(ids["item"].values().tolist()):
        if item >= 2:
            assert everything[row, found.tolist().index(item)] == pytest.approx(expected[row, 0], abs=1e-5)


def _lists(batch: Batch) -> list[list[int]]:
    return [ids.tolist() for ids in batch.sparse["seen"].to_dense()]


def test_cdae_hides_items_and_user_in_one_layer() -> None:
    model = _model("cdae", user_inputs()).eval()
    batch, state = item_batch(user_inputs(), 6), _state(model)
    users = state[f"{BAGS}.user.weight"][batch.sparse["user"].values().numpy()]
    items = np.stack([state[f"{BAGS}.item.weight"][ids].sum(axis=0) for ids in _lists(batch)])
    hidden = _sigmoid(items + users + state["bias_H"])
    output = state[f"{ROWS}.item_output.weight"]
    expected = hidden @ output[2:, :8].T + output[2:, 8]
    _, vectors = model.item_share(batch)
    assert np.allclose(model.scores(model.row_queries(batch), vectors).detach().numpy(), expected, atol=1e-5)


def _vae_scores(state: dict[str, Any], lists: list[list[int]], noise: Any = None, full: Any = None) -> Any:
    """Return scores of all rows of the table, and the KL divergence, of networks 16-12-8-12-16."""
    counts = [len(ids) for ids in lists] if full is None else full
    x = np.zeros((len(lists), NUM_EMBEDDINGS))
    for row, (ids, count) in enumerate(zip(lists, counts, strict=True)):
        x[row, ids] = 1 / np.sqrt(max(count, 1))
    if full is not None:
        x *= 2  # half of the items are left out
    hidden = np.tanh(x @ state[f"{BAGS}.item.weight"] + state["input_bias_H"])
    hidden = np.tanh(hidden @ state["encoder.0.weight"].T + state["encoder.0.bias"])
    mean, log_variance = np.split(hidden @ state["latent.weight"].T + state["latent.bias"], 2, axis=1)
    z = mean if noise is None else mean + noise * np.exp(log_variance / 2)
    hidden = np.tanh(z @ state["decoder.0.weight"].T + state["decoder.0.bias"])
    hidden = np.tanh(hidden @ state["decoder.2.weight"].T + state["decoder.2.bias"])
    output = state[f"{ROWS}.item_output.weight"]
    kl = 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance).sum(axis=1)
    return hidden @ output[:, :16].T + output[:, 16], kl


def _vae(**keys: Any) -> ItemModel:
    return _model("mult_vae", user_inputs(), hidden_layer_sizes=[16, 12], latent_dim=8, **keys)


def test_mult_vae_scores_by_the_mean_of_the_latent_vector() -> None:
    model, batch = _vae().eval(), item_batch(user_inputs(), 6)
    expected, _ = _vae_scores(_state(model), _lists(batch))
    _, vectors = model.item_share(batch)
    found = model.scores(model.row_queries(batch), vectors).detach().numpy()
    assert np.allclose(found, expected[:, 2:], atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_mult_vae_loses_the_elbo_with_an_annealed_divergence(dropout: float) -> None:
    model, batch = _vae(input_dropout=dropout, kl_weight=0.4, kl_anneal_steps=4), item_batch(user_inputs(), 6)
    for step in range(6):
        torch.manual_seed(step)
        kept = model.examples(batch).inputs.get("seen")
        noise = row_normal(batch.rows_B, 8, 2).double().numpy()
        loss = model(batch).item()
        lists, full = _lists(batch), None
        if kept is not None:
            full = [len(ids) for ids in lists]
            kept_lists = [ids.tolist() for ids in kept.to_dense()]
            assert all(set(some) <= set(ids) for some, ids in zip(kept_lists, lists, strict=True))
        scores, kl = _vae_scores(_state(model), lists if full is None else kept_lists, noise, full)
        scores = scores[:, 2:]
        log_shares = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        beta, weights = 0.4 * min(1.0, step / 4), batch.weights_B.numpy()
        rows = [row for row, ids in enumerate(lists) if ids and weights[row] > 0]
        expected = sum(
            weights[row] * (beta * kl[row] - log_shares[row, np.array(lists[row]) - 2].sum()) for row in rows
        )
        assert loss == pytest.approx(expected / len(rows), rel=1e-4)


def test_an_autoencoder_leaves_out_the_asked_share_of_the_input() -> None:
    model = _vae(input_dropout=0.3)
    kept = total = 0
    for seed in range(60):
        batch = item_batch(user_inputs(), 12, seed)
        torch.manual_seed(seed)
        kept += len(model.examples(batch).inputs["seen"].values())
        total += len(batch.sparse["seen"].values())
    assert abs(kept / total - 0.7) < 6 * (0.21 / total) ** 0.5


@pytest.mark.parametrize(
    ("name", "keys", "where"),
    [
        ("mult_vae", {"objective": "bpr", "negatives": {"per_query": 1}}, "model.objective"),
        ("mult_vae", {"item": "user"}, "model.item"),
        ("cdae", {"user": "seen"}, "model.user"),
        ("ncf", {"user": "item"}, "model.user"),
    ],
)
def test_wrong_config_names_the_key(name: str, keys: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as error:
        _model(name, event_inputs(), **keys)
    assert where in error.value.where
