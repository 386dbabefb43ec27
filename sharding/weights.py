"""Initial weights of tables that depend on seed, table, row and column alone.

Not on the sharding, the number of ranks, the device or the version of a random generator: each element is
a hash of its place, so that every rank fills its own shard and a run starts from the same weights at 1, 2
or 1,024 ranks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from sharding.hashing import splitmix64_

# Elements hashed at a time: on CPU they stay in the cache, on GPU they fill it.
_CHUNK_ELEMENTS = {"cpu": 1 << 15, "cuda": 1 << 24}
_BITS = 24


def uniform_block(
    seed: int,
    table: str,
    rows: range,
    columns: range,
    *,
    table_shape: tuple[int, int],
    weight_init_max: float | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return a block of a table's initial weights.

    Args:
        seed: of the run.
        table: its name.
        rows: rows of the whole table, step 1.
        columns: columns of the whole table, step 1.
        table_shape: rows and columns of the whole table.
        weight_init_max: end of the interval, m; default 1 / sqrt(num_embeddings).
        device: where the block is made.

    Returns:
        float32 [len(rows), len(columns)], uniform in (-m, m).
    """
    rows_R = torch.arange(rows.start, rows.stop, device=device)
    return uniform_rows(
        seed, table, rows_R, columns, table_shape=table_shape, weight_init_max=weight_init_max
    )


def uniform_rows(
    seed: int,
    table: str,
    rows_R: Tensor,
    columns: range,
    *,
    table_shape: tuple[int, int],
    weight_init_max: float | None = None,
) -> Tensor:
    """Return chosen rows of a table's initial weights: float32 [R, len(columns)]; see `uniform_block`.

    Args:
        seed: of the run.
        table: its name.
        rows_R: int64, rows of the whole table; the result is on their device.
        columns: columns of the whole table, step 1.
        table_shape: rows and columns of the whole table.
        weight_init_max: see `uniform_block`.
    """
    num_embeddings, dim = table_shape
    end = 1.0 / math.sqrt(num_embeddings) if weight_init_max is None else weight_init_max
    row_R1, device = rows_R[:, None], rows_R.device
    column_1C = torch.arange(columns.start, columns.stop, device=device)[None, :]
    bits_RC = row_R1 * dim + column_1C + _key(seed, table)
    splitmix64_(bits_RC)
    bits_RC.bitwise_right_shift_(64 - _BITS)
    # The arithmetic shift leaves -2^23 .. 2^23 - 1; the half puts the values evenly around zero.
    scale = end / (1 << (_BITS - 1))
    return bits_RC.to(torch.float32).add_(0.5).mul_(scale)


def fill_table(
    weight: Tensor | ShardedTensor, seed: int, table: str, weight_init_max: float | None = None
) -> None:
    """Write the initial weights into this rank's shards, a small block at a time.

    Args:
        weight: of a table as `state_dict` gives it: sharded, or whole on every rank.
        seed: of the run.
        table: its name.
        weight_init_max: see `uniform_block`.
    """
    shape = (int(weight.shape[0]), int(weight.shape[1]))
    with torch.no_grad():
        for tensor, row, column in local_parts(weight):
            columns = range(column, column + tensor.shape[1])
            step = max(1, _CHUNK_ELEMENTS[tensor.device.type] // max(1, len(columns)))
            for start in range(0, tensor.shape[0], step):
                stop = min(start + step, tensor.shape[0])
                rows = range(row + start, row + stop)
                block = uniform_block(
                    seed,
                    table,
                    rows,
                    columns,
                    table_shape=shape,
                    weight_init_max=weight_init_max,
                    device=tensor.device,
                )
                tensor[start:stop].copy_(block)


def local_parts(weight: Tensor | ShardedTensor) -> Iterator[tuple[Tensor, int, int]]:
    """Yield this rank's blocks of a tensor from `state_dict`, each with its first row and column."""
    if isinstance(weight, DTensor):
        shape, mesh = weight.shape, weight.device_mesh
        _, offset = compute_local_shape_and_global_offset(shape, mesh, weight.placements)
        yield weight.to_local(), offset[0], 0
        return
    if not isinstance(weight, ShardedTensor):
        yield weight, 0, 0
        return
    for shard in weight.local_shards():
        row, *column = shard.metadata.shard_offsets
        yield shard.tensor, row, column[0] if column else 0


def table_weights(values: Mapping[str, Any], tables: Collection[str]) -> dict[str, Any]:
    """Return what belongs to the weight of a table, by table.

    Args:
        values: by the names of a state dict, such as `model.sparse_arch.embedding_bags.item.weight`.
        tables: names of the tables that are meant.
    """
    names = {name: name.split(".")[-2:] for name in values}
    return {
        table[0]: values[name]
        for name, table in names.items()
        if len(table) == 2 and table[1] == "weight" and table[0] in tables
    }


def _key(seed: int, table: str) -> int:
    digest = hashlib.sha256(f"{seed}/{table}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)
