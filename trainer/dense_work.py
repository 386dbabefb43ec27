"""What the dense layers do: counted in a forward pass of tensors that have no memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharding.dense_part import DenseWork
from sharding.quiet import quiet_torchrec
from trainer.assembly import build_from_inputs
from trainer.batch import Batch
from trainer.registry import ModelInputs, ModelSection

# Two batch sizes: their difference leaves out what does not grow with the rows.
_SMALL, _LARGE = 8, 16


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

    counter = FlopCounterMode(display=False)
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


def _batch(inputs: ModelInputs, size: int) -> Batch:
    lengths = torch.tensor(list(_lengths(inputs, size)), dtype=torch.int64)
    ids = torch.zeros(1, dtype=torch.int64).expand(int(lengths.sum()))  # One number, however many they are.
    sparse = KeyedJaggedTensor.from_lengths_sync(list(inputs.features), ids, lengths)
    sparse.to_dict()  # Reads the lengths, which nobody can do later: fake tensors have no values.
    return Batch(
        dense_BF=torch.zeros(size, inputs.num_dense),
        sparse=sparse,
        labels_BT=torch.zeros(size, 1),
        weights_B=torch.ones(size),
        rows_B=torch.arange(size),
    )


def _lengths(inputs: ModelInputs, size: int) -> Iterator[int]:
    """Yield the ids of each row of each feature: whole numbers that come to the mean length."""
    means = {f: mean for t in inputs.tables for f, mean in zip(t.features, t.pooling_factors, strict=True)}
    for feature in inputs.features:
        mean = means[feature]
        yield from (round(mean * (row + 1)) - round(mean * row) for row in range(size))
