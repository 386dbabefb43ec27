"""Inputs, batches and table weights for tests of models, all made from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharding.tables import TableSpec
from trainer.batch import Batch
from trainer.config import ModelConfig
from trainer.registry import ModelInputs, ModelSection, build_model, model_section, models

NUM_EMBEDDINGS = 20
ONE_ID = ("s0", "s1")


POINTWISE = [name for name, entry in models().items() if entry.task in ("ctr", "multi_task")]
"""Models that give a logit of each row."""


def table(name: str, features: Sequence[str], dim: int = 8, pooling: Any = "sum") -> TableSpec:
    return TableSpec(name, NUM_EMBEDDINGS, dim, tuple(features), pooling)


def full_inputs(dim: int = 8, num_dense: int = 3) -> ModelInputs:
    """Two single ids, a multi-hot list, and a sequence that shares its table with a single id."""
    tables = (table("s0", ["s0"], dim), table("m0", ["m0"], dim), table("s1", ["s1", "h0"], dim, "none"))
    return ModelInputs(num_dense, ("s0", "s1", "m0", "h0"), tables, frozenset({"m0", "h0"}))


def pooled_inputs(dim: int = 8, num_dense: int = 3, num_features: int = 2) -> ModelInputs:
    """Single ids only, each with its own table."""
    names = tuple(f"s{i}" for i in range(num_features))
    return ModelInputs(num_dense, names, tuple(table(name, [name], dim) for name in names))


def random_batch(inputs: ModelInputs, rows: int, seed: int = 0) -> Batch:
    """Make rows whose lists may be empty; features named `s...` have exactly one id."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [
        torch.ones(rows, dtype=torch.int64)
        if name.startswith("s")
        else torch.randint(0, 4, (rows,), generator=generator)
        for name in inputs.features
    ]
    total = int(torch.cat(lengths).sum())
    return Batch(
        dense_BF=torch.randn(rows, inputs.num_dense, generator=generator),
        sparse=KeyedJaggedTensor.from_lengths_sync(
            list(inputs.features),
            torch.randint(0, NUM_EMBEDDINGS, (total,), generator=generator),
            torch.cat(lengths),
        ),
        labels_BT=torch.randint(0, 2, (rows, inputs.num_tasks), generator=generator).float(),
        weights_B=torch.ones(rows),
        rows_B=torch.arange(rows),
    )


def with_sparse(batch: Batch, keys: Sequence[str]) -> Batch:
    """Return the batch with its keys in another order; keys that it lacks get ids of their own."""
    rows, ids = batch.size, batch.sparse.to_dict()
    lengths = {k: ids[k].lengths() if k in ids else torch.full((rows,), 2) for k in keys}
    values = {k: ids[k].values() if k in ids else torch.full((2 * rows,), 7) for k in keys}
    sparse = KeyedJaggedTensor.from_lengths_sync(
        list(keys), torch.cat([values[k] for k in keys]), torch.cat([lengths[k] for k in keys])
    )
    return replace(batch, sparse=sparse)


def fill_tables(model: nn.Module, seed: int = 0, scale: float = 0.3) -> dict[str, Tensor]:
    """Bring the tables from the meta device to the CPU with seeded weights; return them by table name."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for module in model.modules():
        if isinstance(module, (EmbeddingBagCollection, EmbeddingCollection)):
            module.to_empty(device="cpu")
            for key, parameter in module.named_parameters():
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * scale)
                weights[key.split(".")[1]] = parameter.detach()
    return weights


def example_section(name: str, **keys: Any) -> ModelSection:
    """Return a model's config of width 8; DHEN with every interaction module, its default has only two."""
    every = {"modules": ["dot", "attention", "convolution", "linear", "cross"]} if name == "dhen" else {}
    return model_section(ModelConfig(name=name, **{"embedding_dim": 8, **every, **keys}))


def example_model(name: str, inputs: ModelInputs, seed: int = 0, **keys: Any) -> nn.Module:
    """Build a registered model with seeded dense weights and filled tables."""
    section = example_section(name, **keys)
    torch.manual_seed(seed)
    model = build_model(section.completed(inputs), section)
    fill_tables(model, seed)
    return model
