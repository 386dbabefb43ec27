"""Models of queries and items: losses against loops, ranks against sorting, one rank against two."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.item_ranks import ItemRun, train_items
from tests.support.ranks import run_distributed
from tests.unit.trainer.models.examples import NUM_EMBEDDINGS, example_model, example_section
from tests.unit.trainer.models.item_examples import (
    ITEMS,
    event_inputs,
    genre_inputs,
    item_batch,
    user_inputs,
)
from trainer.batch import Batch
from trainer.config import ModelConfig
from trainer.errors import ConfigError
from trainer.item_ranking import TargetRanks, rank_targets
from trainer.item_sampling import ItemNegatives, ItemSampler
from trainer.modules.item_model import ItemModel
from trainer.registry import model_section
from trainer.tasks import TrainingTask

ROWS = 12
OBJECTIVES: dict[str, dict[str, Any]] = {
    "softmax": {"objective": "softmax", "negatives": {}},
    "in_batch": {"objective": "sampled_softmax", "negatives": {"in_batch": True}, "temperature": 0.5},
    "mixed": {
        "objective": "sampled_softmax",
        "negatives": {"in_batch": True, "shared": 3, "log_q": True},
    },
    "popular": {
        "objective": "sampled_softmax",
        "negatives": {"per_query": 3, "distribution": "popularity", "log_q": True},
    },
    "bpr": {"objective": "bpr", "negatives": {"per_query": 2}},
    "hard": {"objective": "bpr", "negatives": {"shared": 6, "hard": 2}},
    "pointwise": {"objective": "pointwise", "negatives": {"per_query": 2}},
}
COUNTS = torch.arange(1, ITEMS + 1)


def _model(**keys: Any) -> ItemModel:
    model = example_model("mf", event_inputs(), **keys)
    assert isinstance(model, ItemModel)
    model.sampler.set_counts(COUNTS)
    return model


def _drawn(model: ItemModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the items that the model looks up as negatives: those of each query, and those of all."""
    seen: dict[str, torch.Tensor] = {}
    lookup = model.lookup.forward
    model.lookup.forward = lambda sparse, given=None: (  # type: ignore[method-assign]
        seen.update({k: v.values() for k, v in (given or {}).items()}) or lookup(sparse, given)
    )
    model(batch)
    model.lookup.forward = lookup  # type: ignore[method-assign]
    none = torch.zeros(0, dtype=torch.int64)
    return seen.get("item:negatives", none), seen.get("item:shared", none)


def _expected(model: ItemModel, batch: Batch, name: str) -> float:
    """Return the loss by loops over queries and items."""
    keys = OBJECTIVES[name]
    negatives = keys["negatives"]
    own, shared = (ids.tolist() for ids in _drawn(model, batch))
    state = {key: value.double().numpy() for key, value in model.state_dict().items()}
    users = state["lookup.embedding_bag_collection.embedding_bags.user.weight"]
    items = state["lookup.embedding_collection.embeddings.item.weight"]
    ids = {key: jagged.values().tolist() for key, jagged in batch.sparse.to_dict().items()}
    rows = [
        row
        for row in range(batch.size)
        if batch.labels_BT[row] > 0 and batch.weights_B[row] > 0 and ids["item"][row] >= 2
    ]
    q = COUNTS.double().numpy() / COUNTS.sum().item()

    def score(row: int, item: int) -> float:
        width = users.shape[1]
        bias = float(items[item][width]) if keys["objective"] != "pointwise" else 0.0
        if keys["objective"] == "pointwise":
            width -= 4
            bias = float(items[item][width] + users[ids["user"][row]][width] + state["bias"][0])
        return float(users[ids["user"][row]][:width] @ items[item][:width]) + bias

    def corrected(row: int, item: int) -> float:
        value = score(row, item) / float(keys.get("temperature", 1.0))
        if not negatives.get("log_q"):
            return value
        if negatives.get("distribution") == "popularity":
            weights = q**0.75
            return value - math.log(3 * weights[item - 2] / weights.sum())
        return value - math.log(3 / ITEMS + len(rows) * q[item - 2])

    total = 0.0
    for place, row in enumerate(rows):
        target, per_query = ids["item"][row], negatives.get("per_query", 0)
        pool = own[place * per_query : (place + 1) * per_query] + shared
        if negatives.get("in_batch"):
            pool += [ids["item"][other] for other in rows]
        if keys["objective"] == "softmax":
            pool = list(range(2, NUM_EMBEDDINGS))
        pool = [item for item in pool if item != target]
        positive, others = corrected(row, target), sorted((corrected(row, i) for i in pool), reverse=True)
        others = others[: negatives.get("hard")]
        if keys["objective"] == "bpr":
            loss = sum(math.log1p(math.exp(o - positive)) for o in others) / max(1, len(others))
        elif keys["objective"] == "pointwise":
            loss = math.log1p(math.exp(-positive)) + sum(math.log1p(math.exp(o)) for o in others)
        else:
            loss = math.log(math.exp(positive) + sum(map(math.exp, others))) - positive
        total += float(batch.weights_B[row]) * loss
    return total / len(rows)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_equal_loops_over_queries_and_items(name: str) -> None:
    model, batch = _model(**OBJECTIVES[name]), item_batch(event_inputs(), ROWS)
    torch.manual_seed(7)
    loss = model(batch).item()
    torch.manual_seed(7)
    assert loss == pytest.approx(_expected(model, batch, name), rel=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_batch_without_positives_has_no_loss_and_sends_no_gradient_astray(name: str) -> None:
    model, batch = _model(**OBJECTIVES[name]), item_batch(event_inputs(), ROWS)
    batch.labels_BT.zero_()
    loss = model(batch)
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_negatives_are_no_items_of_the_row_and_follow_its_number_alone() -> None:
    sampler = ItemSampler(2, NUM_EMBEDDINGS, ItemNegatives(per_query=400))
    rows = torch.tensor([5, 9])
    held, holders = torch.tensor([2, 3, 4, 5]), torch.tensor([5, 5, 5, 9])
    torch.manual_seed(3)
    found = sampler.per_query(rows, torch.zeros(2, dtype=torch.int64), held, holders)
    assert set(found[0].tolist()) == set(range(5, NUM_EMBEDDINGS))
    assert set(found[1].tolist()) == set(range(2, NUM_EMBEDDINGS)) - {5}
    torch.manual_seed(3)
    alone = sampler.per_query(rows[1:], torch.zeros(1, dtype=torch.int64), held[3:], holders[3:])
    assert torch.equal(alone[0], found[1])
    torch.manual_seed(4)
    assert not torch.equal(sampler.per_query(rows, torch.zeros(2, dtype=torch.int64), held, holders), found)


def test_a_row_that_holds_every_item_gets_none() -> None:
    sampler = ItemSampler(2, 5, ItemNegatives(per_query=3))
    every = torch.arange(2, 5)
    none = sampler.per_query(torch.tensor([1]), torch.tensor([0]), every, torch.ones(3, dtype=torch.int64))
    assert none.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_popular_items_are_drawn_by_their_power(alpha: float) -> None:
    draws = 40_000
    sampler = ItemSampler(1, 5, ItemNegatives(shared=draws, distribution="popularity", alpha=alpha))
    sampler.set_counts(torch.tensor([1, 10, 100, 0]))
    weights = np.array([1.0, 10.0, 100.0, 1.0]) ** alpha
    shares = np.bincount(sampler.shared(torch.device("cpu")).numpy() - 1, minlength=4) / draws
    expected = weights / weights.sum()
    # Six standard deviations of a share.
    assert np.all(np.abs(shares - expected) < 6 * np.sqrt(expected * (1 - expected) / draws))


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        ({"objective": "bpr", "negatives": {}}, "model"),
        ({"objective": "softmax", "negatives": {"shared": 1}}, "model"),
        ({"negatives": {"log_q": True, "shared": 2}}, "model"),
        ({"negatives": {"distribution": "popularity", "in_batch": True}}, "model.negatives"),
        ({"temperature": 0}, "model.temperature"),
    ],
)
def test_wrong_config_names_the_key(keys: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as error:
        model_section(ModelConfig(name="mf", **keys))
    assert where in error.value.where


def test_an_item_that_is_not_there_or_not_clear_is_named() -> None:
    section = example_section("mf", item="movie")
    with pytest.raises(ConfigError, match=r"model\.item(.|\n)*movie"):
        section.completed(event_inputs())


def _ranked(model: ItemModel, batches: list[Batch], **keys: Any) -> TargetRanks:
    return rank_targets(TrainingTask(model), batches, torch.device("cpu"), "targets", **keys)


def test_ranks_equal_those_of_sorting_all_unseen_items() -> None:
    model = _model()
    batches = [item_batch(event_inputs(), ROWS, seed, targets=4) for seed in (1, 0)]
    found = _ranked(model, batches, top=3)
    assert found.rows_L.tolist() == [*range(ROWS - 1), *range(100, 100 + ROWS - 1)]
    ordered = [batches[1], batches[0]]
    place = 0
    for batch in ordered:
        queries = model.row_queries(batch)
        _, items = model.item_share(batch)
        scores = (queries @ items.T).detach().numpy()
        lists = {name: ids.to_dense() for name, ids in batch.sparse.to_dict().items()}
        for row in range(ROWS - 1):
            held = {*lists["seen"][row].tolist(), *lists["item"][row].tolist()}
            best = [i for i in (np.argsort(-scores[row]) + 2).tolist() if i not in held]
            targets = [i for i in lists["targets"][row].tolist() if i not in held]
            ranks = sorted(best.index(i) + 1 for i in targets)
            mine = found.rank_P[found.list_P == place].tolist()
            assert mine[: len(ranks)] == ranks
            assert found.positives_L[place] == len(lists["targets"][row])
            assert found.top_LK[place].tolist() == best[:3]
            place += 1


def test_equal_scores_put_targets_last_and_apart() -> None:
    model = _model()
    for parameter in model.parameters():
        parameter.data.zero_()
    batch = item_batch(event_inputs(), ROWS, targets=4)
    found = _ranked(model, [batch], top=3)
    lists = {name: ids.to_dense() for name, ids in batch.sparse.to_dict().items()}
    for place in range(ROWS - 1):
        held = {*lists["seen"][place].tolist(), *lists["item"][place].tolist()} - {0, 1}
        targets = set(lists["targets"][place].tolist())
        unseen, wanted = ITEMS - len(held), len(targets - held)
        expected = list(range(unseen - wanted + 1, unseen + 1))
        assert found.top_LK[place].tolist() == [i for i in range(2, ITEMS + 2) if i not in held][:3]
        assert found.rank_P[found.list_P == place].tolist()[:wanted] == expected


def test_drawn_candidates_are_no_targets_and_rank_them_by_their_scores() -> None:
    model, batch = _model(), item_batch(event_inputs(), ROWS, targets=2)
    everything = _ranked(model, [batch])
    found = _ranked(model, [batch], candidates=5)
    same = _ranked(model, [batch], candidates=5)
    assert found.rank_P.tolist() == same.rank_P.tolist()
    assert found.list_P.tolist() == everything.list_P.tolist()
    assert found.rank_P.max() <= 5 + 2
    # A target that is first among all is first among some.
    assert all(found.rank_P[everything.rank_P == 1] == 1)


def test_each_step_draws_other_items() -> None:
    sampler = ItemSampler(2, 10_002, ItemNegatives(shared=100))
    drawn = []
    for seed in range(20):
        torch.manual_seed(seed)
        drawn.append(sampler.shared(torch.device("cpu")))
    assert len(torch.unique(torch.cat(drawn))) > 1_700


TRAINED = {
    **{f"mf {name}": ("mf", event_inputs(), keys) for name, keys in OBJECTIVES.items()},
    **{name: (name, user_inputs(), {}) for name in ("sasrec", "gru4rec", "bert4rec", "hstu")},
    "sasrec of events": ("sasrec", event_inputs(), {"positions": "last"}),
    "ncf": ("ncf", event_inputs(), {"negatives": {"per_query": 2}}),
    "cdae": ("cdae", user_inputs(), {}),
    "mult_vae": ("mult_vae", user_inputs(), {"hidden_layer_sizes": [16], "latent_dim": 8}),
    "two_tower": (
        "two_tower",
        genre_inputs(),
        {"item_features": ["genres"], "negatives": {"in_batch": True, "shared": 3, "log_q": True}},
    ),
}
TRAINED |= {f"{name} fsdp": TRAINED[name] for name in ("ncf", "mult_vae", "sasrec")}
TRAINED |= {f"{name} smoothed": TRAINED[name] for name in ("mf softmax", "mf mixed", "mult_vae")}
TRAINED |= {
    "cdae of others' items l2": ("cdae", user_inputs(), {"negatives": {"in_batch": True, "shared": 3}}),
    "mf hard l2": TRAINED["mf hard"],
    "mf softmax l2": TRAINED["mf softmax"],
}


@pytest.fixture(scope="module")
def on_ranks() -> dict[int, list[dict[str, ItemRun]]]:
    """Return what one rank and each of two found for each model; one start of the ranks serves all."""
    return {ranks: run_distributed(train_items, ranks, TRAINED, timeout=300.0) for ranks in (1, 2)}


@pytest.mark.parametrize("name", TRAINED)
def test_two_ranks_train_and_rank_as_one_does(name: str, on_ranks: dict[int, Any]) -> None:
    (alone,) = on_ranks[1]
    for rank in on_ranks[2]:
        assert rank[name].losses == pytest.approx(alone[name].losses, rel=1e-4)
        assert rank[name].ranks == alone[name].ranks
        for figure, values in alone[name].figures.items():
            # Vectors were trained apart; what counts alone tells is the same to the last bit.
            rel = 1e-3 if figure == "diversity" else 0.0
            assert rank[name].figures[figure] == pytest.approx(values, rel=rel, abs=rel, nan_ok=True)
    for number, expected in enumerate(alone[name].best):
        shares = [rank[name].best[number] for rank in on_ranks[2]]
        assert shares[0].keys().isdisjoint(shares[1])
        assert {**shares[0], **shares[1]} == expected


PLANTED: dict[str, Any] = {
    "mf": ("mf", event_inputs(), {}),
    "ncf": ("ncf", event_inputs(), {}),
    "cdae": ("cdae", user_inputs(), {}),
    "mult_vae": ("mult_vae", user_inputs(), {"hidden_layer_sizes": [16], "latent_dim": 8}),
    "two_tower": (
        "two_tower",
        event_inputs(),
        {"query_features": ["user"], "negatives": {"in_batch": True}, "temperature": 0.2},
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_taste_is_found(name: str) -> None:
    model_name, inputs, keys = PLANTED[name]
    task = TrainingTask(example_model(model_name, inputs, **keys))
    optimizer = torch.optim.Adam(task.parameters(), lr=0.02)
    for step in range(150):
        torch.manual_seed(step)
        optimizer.zero_grad()
        task(item_batch(inputs, 32, step, planted=True))[0].backward()
        optimizer.step()
    held_out = [item_batch(inputs, 32, step, targets=2, planted=True) for step in (1000, 1001)]
    found = rank_targets(task, held_out, torch.device("cpu"), "targets")
    # Half of the items are to a user's taste; by chance the mean rank would be above 7.
    assert found.rank_P.mean() < 4.5
