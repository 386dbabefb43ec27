"""Two towers: features of any item from the catalogue, and scores by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torchrec.sparse.jagged_tensor import JaggedTensor

from tests.support.item_ranks import genres_of
from tests.unit.trainer.models.examples import NUM_EMBEDDINGS, example_model, with_sparse
from tests.unit.trainer.models.item_examples import genre_inputs, item_batch
from trainer.batch import Batch
from trainer.errors import ConfigError
from trainer.item_features import load_item_features
from trainer.models.two_tower import TwoTower
from trainer.modules.item_catalogue import ItemCatalogue

KEYS: dict[str, Any] = {"item_features": ["genres"], "query_layer_sizes": [6], "item_layer_sizes": [5]}


def _model(**keys: Any) -> TwoTower:
    model = example_model("two_tower", genre_inputs(), **{**KEYS, "output_dim": 4, **keys})
    assert isinstance(model, TwoTower)
    model.catalogue.fill({"genres": genres_of(NUM_EMBEDDINGS)})
    return model


def _batch(rows: int = 6) -> Batch:
    batch = item_batch(genre_inputs(), rows)
    return with_sparse(batch, genre_inputs().features)


def test_a_catalogue_gives_the_ids_of_any_item_in_any_row() -> None:
    catalogue = ItemCatalogue(["genres"], 4)
    assert not catalogue.is_filled
    catalogue.fill({"genres": (torch.tensor([0, 2, 0, 1]), torch.tensor([7, 8, 9]))})
    items = JaggedTensor(torch.tensor([3, 1, 2, 1]), lengths=torch.tensor([1, 0, 3]))
    ids, lengths = catalogue.of("genres", items)
    assert [row.tolist() for row in ids.to_dense()] == [[9], [], [7, 8, 7, 8]]
    assert lengths.tolist() == [1, 2, 0, 2]
    none, _ = catalogue.of(
        "genres", JaggedTensor(torch.zeros(0, dtype=torch.int64), lengths=torch.zeros(2).long())
    )
    assert none.lengths().tolist() == [0, 0]


def _tower(state: dict[str, Any], name: str, x: Any) -> Any:
    weight, bias = (state[f"{name}.0._mlp.0._linear.{part}"] for part in ("weight", "bias"))
    x = np.maximum(x @ weight.T + bias, 0) @ state[f"{name}.1.weight"].T + state[f"{name}.1.bias"]
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_scores_are_cosines_of_what_the_towers_give() -> None:
    model, batch = _model(query_features=["user", "seen"]).eval(), _batch()
    state = {key: value.double().numpy() for key, value in model.state_dict().items()}
    bags, rows = "lookup.embedding_bag_collection.embedding_bags", "lookup.embedding_collection.embeddings"
    users, items, genres = (
        state[f"{bags}.user.weight"],
        state[f"{rows}.item.weight"],
        state[f"{rows}.genres.weight"],
    )

    def mean(vectors: Any, ids: list[int]) -> Any:
        return vectors[ids].mean(axis=0) if ids else np.zeros(vectors.shape[1])

    ids = {key: [row.tolist() for row in jagged.to_dense()] for key, jagged in batch.sparse.to_dict().items()}
    lengths, flat = genres_of(NUM_EMBEDDINGS)
    of_item = [part.tolist() for part in flat.split(lengths.tolist())]
    query = np.stack(
        [np.concatenate([users[u[0]], mean(items, s)]) for u, s in zip(ids["user"], ids["seen"], strict=True)]
    )
    item = np.stack([np.concatenate([items[i], mean(genres, of_item[i])]) for i in range(NUM_EMBEDDINGS)])
    expected = _tower(state, "query_tower", query) @ _tower(state, "item_tower", item).T
    found, vectors = model.item_share(batch)
    scores = model.scores(model.row_queries(batch), vectors).detach().numpy()
    assert np.allclose(scores, expected[:, found.numpy()], atol=1e-5)
    own = [row[0] for row in ids["item"]]
    assert np.allclose(model(batch)[:, 0].detach().numpy(), expected[np.arange(6), own], atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        ({"item_features": ["genre"]}, "model.item_features"),
        ({"query_features": ["item"]}, "model.query_features"),
        ({"query_features": ["genres"]}, "model.query_features"),
    ],
)
def test_wrong_features_are_named(keys: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as error:
        _model(**keys)
    assert where in error.value.where


def test_a_catalogue_is_read_from_the_data_set(tmp_path: Path) -> None:
    model = _model()
    folder = tmp_path / "items"
    folder.mkdir()
    lists = pa.array([[5], [], [6, 7]], pa.list_(pa.int64()))
    pq.write_table(pa.table({"id": [1, 3, 4], "genres": lists}), folder / "part-0.parquet")
    pq.write_table(pa.table({"id": [9], "genres": lists[:1]}), folder / "part-1.parquet")
    load_item_features(model, tmp_path, torch.device("cpu"))
    items = JaggedTensor(torch.tensor([4, 1, 2, 9]), lengths=torch.tensor([4]))
    ids, lengths = model.catalogue.of("genres", items)
    assert (ids.values().tolist(), lengths.tolist()) == ([6, 7, 5, 5], [2, 1, 0, 1])


@pytest.mark.parametrize("columns", [None, ["id"]])
def test_a_data_set_without_the_features_of_items_is_named(tmp_path: Path, columns: list[str] | None) -> None:
    if columns is not None:
        (tmp_path / "items").mkdir()
        pq.write_table(pa.table({name: [1] for name in columns}), tmp_path / "items" / "part-0.parquet")
    with pytest.raises(ConfigError, match=r"genres(.|\n)*data\.catalogue"):
        load_item_features(_model(), tmp_path, torch.device("cpu"))


def test_one_id_an_item_is_a_list_of_one(tmp_path: Path) -> None:
    (tmp_path / "items").mkdir()
    pq.write_table(pa.table({"id": [2, 3], "genres": [8, 9]}), tmp_path / "items" / "part-0.parquet")
    model = _model()
    load_item_features(model, tmp_path, torch.device("cpu"))
    items = JaggedTensor(torch.tensor([3, 0]), lengths=torch.tensor([2]))
    assert model.catalogue.of("genres", items)[0].values().tolist() == [9]


def test_dense_features_are_the_querys() -> None:
    inputs = replace(genre_inputs(), num_dense=3)
    model = example_model("two_tower", inputs, **KEYS)
    assert isinstance(model, TwoTower)
    model.catalogue.fill({"genres": genres_of(NUM_EMBEDDINGS)})
    batch = replace(_batch(), dense_BF=torch.randn(6, 3))
    before = model.row_queries(batch)
    assert not torch.equal(model.row_queries(replace(batch, dense_BF=batch.dense_BF + 1)), before)
