"""Optimizer states of one number for a row, loaded into other column shards than they were saved from.

Row-wise Adagrad and its like keep, for each row of a shard, a mean over the shard's columns. TorchRec lays
those of a table cut by columns end to end, [column shards * rows], so that their size depends on the cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharding.weights import local_parts
from trainer.stored_tensors import StoredTensors


def load_recut_moments(checkpoint: Path, state: dict[str, Any]) -> dict[str, Any]:
    """Fill the row moments that were saved under another number of column shards.

    A new shard takes the mean of the old ones, weighted by the columns that it shares with each: exact where
    shards are joined, and the best guess where they are split.

    Args:
        checkpoint: to read.
        state: `{"model": ..., "optimizer": {"state": ...}}`, sharded state dicts; filled in place.

    Returns:
        The state without what was filled: what `load_checkpoint` can read.
    """
    stored = StoredTensors(checkpoint)
    names = {place: name for name, place in stored.places.items()}
    rest: dict[str, dict[str, Any]] = {}
    for parameter, values in state["optimizer"]["state"].items():
        weight = state["model"].get(parameter)
        for key, value in values.items():
            name = names.get(("optimizer", "state", parameter, key))
            if name is not None and weight is not None and _is_recut(stored.shape(name), value, weight):
                _fill(stored, name, value, rows=weight.shape[0])
            else:
                rest.setdefault(parameter, {})[key] = value
    # Torch takes an empty state for a key that the file lacks.
    left = {"optimizer": {**state["optimizer"], "state": rest}} if rest else {}
    return {**{key: value for key, value in state.items() if key != "optimizer"}, **left}


def _is_recut(before: tuple[int, ...], value: Any, weight: Any) -> bool:
    """Return whether a state has one number for a row, under another number of column shards."""
    if not isinstance(value, Tensor) or value.ndim != 1 or len(before) != 1 or before[0] == value.shape[0]:
        return False
    rows, columns = weight.shape
    shards = [divmod(size, rows) for size in (before[0], value.shape[0])]
    # Shards of a table are equally wide.
    return all(count and not rest and columns % count == 0 for count, rest in shards)


def _fill(stored: StoredTensors, name: str, value: Tensor, *, rows: int) -> None:
    before, after = stored.shape(name)[0] // rows, value.shape[0] // rows
    for block, first, _ in local_parts(value):
        if not len(block):
            continue
        shard, row = divmod(first, rows)
        mean = torch.zeros(block.shape, dtype=torch.float32)
        for old, share in _shares(shard, before, after):
            start = old * rows + row
            mean += share * stored.read_rows(name, start, start + len(block))
        with torch.no_grad():
            block.copy_(mean)


def _shares(shard: int, before: int, after: int) -> Iterator[tuple[int, float]]:
    """Yield the old shards that lie under a new one, and the share of its columns under each."""
    start, stop = shard * before, (shard + 1) * before  # in columns / (before * after)
    for old in range(start // after, -(-stop // after)):
        overlap = min(stop, (old + 1) * after) - max(start, old * after)
        yield old, overlap / before
