"""What the dense layers do: counted in a forward pass of tensors that have no memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharding.dense_part import DenseWork
from sharding.quiet import quiet_torchrec
from trainer.assembly import build_from_inputs
from trainer.batch import Batch
from trainer.item_sampling import ItemSampler
from trainer.modules.item_catalogue import ItemCatalogue
from trainer.modules.item_model import ItemModel
from trainer.modules.item_section import ItemModelSection
from trainer.registry import ModelInputs, ModelSection, model_class

# Two batch sizes: their difference leaves out what does not grow with the rows.
_SMALL, _LARGE = 8, 16
# Items of a small catalogue.
_FEW = 64


def dense_work(inputs: ModelInputs, section: ModelSection, *, bf16: bool = False) -> DenseWork:
    """Count the dense layers' work on one row, and the copies of weights that it needs.

    FLOPs are those of matrix products in the forward pass (a multiply-add is two); activations are the
    tensors that autograd keeps for the backward pass, but for ids and their offsets. Lists of ids have the
    mean length of their feature. Under autocast autograd keeps, in place of a weight, its copy in bf16,
    where the layer's input needs a gradient; what does not grow with the rows is those copies.

    Args:
        inputs: features and tables.
        section: the model's config.
        bf16: whether matrix products run in bf16.
    """
    if issubclass(model_class(section), ItemModel):
        return _item_work(inputs, section, bf16)
    # A table may have more rows than a tensor on CPU can say, and its work does not depend on them.
    small = replace(inputs, tables=tuple(replace(t, num_embeddings=1) for t in inputs.tables))
    with quiet_torchrec():
        batches = [_batch(inputs, size) for size in (_SMALL, _LARGE)]
        with FakeTensorMode(allow_non_fake_inputs=True):
            model = _off_meta(build_from_inputs(small, section, 0, "cpu"))
            (flops, kept), (more_flops, more_kept) = (_forward(model, batch, bf16) for batch in batches)
    rows = _LARGE - _SMALL
    per_row = max(0, more_kept - kept) / rows
    copies = max(0.0, kept - per_row * _SMALL) if bf16 else 0.0
    return DenseWork((more_flops - flops) / rows, per_row, copies)


def _item_work(inputs: ModelInputs, section: ModelSection, bf16: bool) -> DenseWork:
    """Count the work of a model that makes its queries and their negatives from ids.

    Fake tensors have no ids, so real ones are counted, of few rows over few items: the work is a sum of terms
    in rows, their square (the other rows' items as negatives) and rows times items (a softmax over them all).
    """
    shapes = [(rows, items) for items in (_FEW, 2 * _FEW) for rows in (_SMALL, _LARGE, 2 * _LARGE)]
    counts = []
    with quiet_torchrec():
        for rows, items in shapes:
            small = tuple(replace(t, num_embeddings=_first_rows(inputs) + items) for t in inputs.tables)
            cut = replace(inputs, tables=small)
            model = _off_meta(build_from_inputs(cut, section, 0, "cpu"))
            _pretend(model, cut)
            counts.append(_forward(model, _batch(cut, rows, _first_rows(inputs), label=1.0), bf16))
    terms = np.array([[1.0, rows, rows**2, items, rows * items] for rows, items in shapes])
    flops_5, kept_5 = np.linalg.lstsq(terms, np.array(counts, dtype=np.float64), rcond=None)[0].T
    table = inputs.table_of(_item_feature(section, inputs))
    items = table.num_embeddings - inputs.first_item(table.name)
    at = np.array([0.0, 1.0, inputs.global_batch_size, 0.0, items])
    return DenseWork(max(0.0, float(flops_5 @ at)), max(0.0, float(kept_5 @ at)), 0.0)


def _item_feature(section: ModelSection, inputs: ModelInputs) -> str:
    assert isinstance(section, ItemModelSection)
    return section.item_feature(inputs)


def _first_rows(inputs: ModelInputs) -> int:
    """Return how many rows no table has an item in."""
    return max(inputs.first_item(table.name) for table in inputs.tables)


def _pretend(model: nn.Module, inputs: ModelInputs) -> None:
    """Give a model what it takes from the data set: counts of items, and features of mean length."""
    for module in model.modules():
        if isinstance(module, ItemSampler) and module.config.needs_counts:
            module.set_counts(torch.ones(module.num_items))
        if isinstance(module, ItemCatalogue):
            means = [round(_means(inputs)[feature]) for feature in module.features]
            lengths = [torch.full((module.num_items,), mean) for mean in means]
            lists = [(own, torch.zeros(int(own.sum()), dtype=torch.int64)) for own in lengths]
            module.fill(dict(zip(module.features, lists, strict=True)))


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    flops: int = sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]
    return flops


# Torch itself counts the attention of GPUs alone.
_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


def _forward(model: nn.Module, batch: Batch, bf16: bool) -> tuple[int, int]:
    """Return FLOPs, and bytes kept for the backward pass beside the weights."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # Ids and their offsets are counted as inputs of the tables.
        if storage._cdata not in weights and tensor.dtype not in (torch.int32, torch.int64):
            kept[storage._cdata] = storage.nbytes()
        return tensor

    counter = FlopCounterMode(display=False, custom_mapping=_ATTENTION)
    with (
        counter,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        loss = model(batch)  # noqa: F841 - holds what autograd keeps, so that no two tensors share an address
    return counter.get_total_flops(), sum(kept.values())


def _off_meta(model: nn.Module) -> nn.Module:
    """Bring the tables to the device of the others; under FakeTensorMode no tensor has memory."""
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if weight.is_meta:
                setattr(module, name, nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype)))
    return model


def _batch(inputs: ModelInputs, size: int, id_: int = 0, label: float = 0.0) -> Batch:
    lengths = torch.tensor(list(_lengths(inputs, size)), dtype=torch.int64)
    # One number, however many they are.
    ids = torch.full((1,), id_, dtype=torch.int64).expand(int(lengths.sum()))
    sparse = KeyedJaggedTensor.from_lengths_sync(list(inputs.features), ids, lengths)
    sparse.to_dict()  # Reads the lengths, which nobody can do later: fake tensors have no values.
    return Batch(
        dense_BF=torch.zeros(size, inputs.num_dense),
        sparse=sparse,
        labels_BT=torch.full((size, inputs.num_tasks), label),
        weights_B=torch.ones(size),
        rows_B=torch.arange(size),
    )


def _lengths(inputs: ModelInputs, size: int) -> Iterator[int]:
    """Yield the ids of each row of each feature: whole numbers that come to the mean length."""
    means = _means(inputs)
    for feature in inputs.features:
        mean = means[feature]
        yield from (round(mean * (row + 1)) - round(mean * row) for row in range(size))


def _means(inputs: ModelInputs) -> dict[str, float]:
    return {f: mean for t in inputs.tables for f, mean in zip(t.features, t.pooling_factors, strict=True)}
