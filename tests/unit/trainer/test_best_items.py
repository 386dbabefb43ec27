"""The best items of rows against loops over sorted scores."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.trainer.models.examples import example_model
from tests.unit.trainer.models.item_examples import ITEMS, event_inputs, item_batch
from trainer import best_items as module
from trainer.batch import Batch
from trainer.best_items import BestItems, best_items
from trainer.modules.item_model import ItemModel
from trainer.tasks import TrainingTask

ROWS, FIRST = 12, 2
LISTS = ("seen", "item")


def model_of(name: str = "mf", **keys: Any) -> ItemModel:
    model = example_model(name, event_inputs(), **keys)
    assert isinstance(model, ItemModel)
    return model


def found_of(model: ItemModel, batches: list[Batch], count: int, **keys: Any) -> list[BestItems]:
    keys = {"left_out": LISTS, **keys}
    return list(best_items(TrainingTask(model), batches, torch.device("cpu"), count, **keys))


def held(batch: Batch, row: int, names: tuple[str, ...] = LISTS) -> set[int]:
    return {i for name in names for i in batch.sparse[name].to_dense()[row].tolist()}


def scores_of(model: ItemModel, batch: Batch) -> np.ndarray:
    queries, (_, items) = model.row_queries(batch), model.item_share(batch)
    return model.scores(queries, items).detach().numpy()


@pytest.mark.parametrize("at_once", [1 << 24, 24])
@pytest.mark.parametrize("name", ["mf", "ncf"])
def test_they_are_the_first_of_all_items_that_the_row_does_not_hold(
    name: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)  # 24: two columns at a time
    model = model_of(name).eval()
    batches = [item_batch(event_inputs(), ROWS, seed, targets=3) for seed in (1, 0)]
    for batch, found in zip(batches, found_of(model, batches, 5), strict=True):
        assert found.rows_R.tolist() == [r for r in batch.rows_B.tolist() if r >= 0]
        scores = scores_of(model, batch)
        for row in range(ROWS - 1):  # the last is padding
            best = [i for i in (np.argsort(-scores[row]) + FIRST).tolist() if i not in held(batch, row)][:5]
            assert found.ids_RK[row].tolist() == best
            expected = scores[row, np.array(best) - FIRST]
            np.testing.assert_allclose(found.scores_RK[row], expected, rtol=1e-6)


def test_equal_scores_come_in_the_order_of_ids_and_targets_may_be_left_out() -> None:
    model = model_of()
    for parameter in model.parameters():
        parameter.data.zero_()
    batch = item_batch(event_inputs(), ROWS, targets=3)
    everything = found_of(model, [batch], ITEMS, left_out=())[0]
    assert everything.ids_RK.tolist() == [list(range(FIRST, FIRST + ITEMS))] * (ROWS - 1)
    (found,) = found_of(model, [batch], ITEMS, left_out=(*LISTS, "targets"))
    for row in range(ROWS - 1):
        free = [i for i in range(FIRST, FIRST + ITEMS) if i not in held(batch, row, (*LISTS, "targets"))]
        assert found.ids_RK[row].tolist() == free + [0] * (ITEMS - len(free))
        assert np.isneginf(found.scores_RK[row, len(free) :]).all()


def test_negative_scores_are_in_order_and_what_is_no_number_is_no_item() -> None:
    model, batch = model_of(), item_batch(event_inputs(), ROWS)
    table = model.lookup.state_dict()["embedding_collection.embeddings.item.weight"]
    table[5] = torch.nan
    (found,) = found_of(model, [batch], ITEMS, left_out=())
    assert not (found.ids_RK == 5).any()
    for scores in found.scores_RK:
        finite = scores[np.isfinite(scores)]
        assert len(finite) == ITEMS - 1
        assert finite.min() < 0 < finite.max()
        assert (np.diff(finite) <= 0).all()


@pytest.mark.parametrize("at_once", [1 << 24, 24])
def test_drawn_candidates_are_unseen_different_and_each_as_likely(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    model = model_of().eval()
    batches = [item_batch(event_inputs(), ROWS, seed) for seed in range(60)]
    found = found_of(model, batches, 4, candidates=4)
    again = found_of(model, batches, 4, candidates=4)
    other = found_of(model, batches, 4, candidates=4, seed=2)
    drawn: Counter[int] = Counter()
    chances: Counter[int] = Counter()
    for batch, one, same in zip(batches, found, again, strict=True):
        assert one.ids_RK.tolist() == same.ids_RK.tolist()
        scores = scores_of(model, batch)
        for row, ids in enumerate(one.ids_RK.tolist()):
            free = {*range(FIRST, FIRST + ITEMS)} - held(batch, row)
            assert len({*ids}) == 4
            assert {*ids} <= free
            own = [scores[row, i - FIRST] for i in ids]
            assert own == sorted(own, reverse=True)
            drawn.update(ids)
            chances.update(dict.fromkeys(free, 4 / len(free)))  # type: ignore[arg-type]
    assert [one.ids_RK.tolist() for one in found] != [one.ids_RK.tolist() for one in other]
    for item in range(FIRST, FIRST + ITEMS):
        assert 0.75 < drawn[item] / chances[item] < 1.25


def test_fewer_unseen_items_than_candidates_are_all_ranked() -> None:
    model, batch = model_of().eval(), item_batch(event_inputs(), ROWS)
    (some,) = found_of(model, [batch], 3, candidates=ITEMS - 1)
    (all_,) = found_of(model, [batch], 3)
    rows = [row for row in range(ROWS - 1) if held(batch, row) & {*range(FIRST, FIRST + ITEMS)}]
    assert rows
    assert some.ids_RK[rows].tolist() == all_.ids_RK[rows].tolist()
