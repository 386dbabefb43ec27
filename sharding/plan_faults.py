"""What no run can follow in a plan that somebody has edited: wrong names, ranks and blocks.

Shards must be cut as TorchRec cuts them, since its exchanges reckon with that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sharding.sharders import COLUMN_SPLITS, SEQUENCE_TYPES, SHARDING_TYPES, kernels_of
from sharding.table_plan import Shard, TablePlan, rank_range
from sharding.topology import Cluster

_BOUNDS_CHECK_MODES = (None, "fatal", "warning", "ignore")
_CUTS = {
    "data_parallel": "the whole table on every rank",
    "table_wise": "the whole table on one rank",
    "row_wise": "equal blocks of rows on all ranks, in their order",
    "column_wise": "blocks of columns, each with all rows",
    "table_row_wise": "equal blocks of rows on all ranks of one host, in their order",
    "table_column_wise": "blocks of columns, each with all rows, on one host",
    "grid_shard": "blocks of columns, each in equal blocks of rows on all ranks of a host",
}


def plan_fault(tables: Sequence[TablePlan], part: Cluster) -> str | None:
    """Return the first thing that is wrong, None for a sound plan.

    Args:
        tables: of the plan.
        part: the ranks that hold a copy of the tables.
    """
    seen: set[str] = set()
    for table in tables:
        if table.name in seen:
            return f"table {table.name} is there twice"
        seen.add(table.name)
        for fault in _faults(table, part):
            return f"table {table.name}: {fault}"
    return None


def _faults(table: TablePlan, part: Cluster) -> Iterator[str]:
    kind = table.sharding_type
    types = SEQUENCE_TYPES if table.pooling == "none" else SHARDING_TYPES
    if kind not in types:
        yield f"sharding_type {kind}, not one of {', '.join(types)}"
        return
    kernels = kernels_of([kind], part.device)
    if table.compute_kernel not in kernels:
        yield f"compute_kernel {table.compute_kernel}, not one of {', '.join(kernels)}"
    if table.bounds_check_mode not in _BOUNDS_CHECK_MODES:
        yield f"bounds_check_mode {table.bounds_check_mode}, not fatal, warning or ignore"
    beyond = sorted({shard.rank for shard in table.shards} - set(range(part.world_size)))
    if beyond:
        yield f"rank {beyond[0]} is none of {rank_range(range(part.world_size))}"
    elif not _is_cut(table, part):
        yield f"its shards are not cut as those of {kind}: {_CUTS[kind]}"


def _is_cut(table: TablePlan, part: Cluster) -> bool:
    kind, shards = table.sharding_type, table.shards
    rows, columns = table.num_embeddings, table.embedding_dim
    ranks, local = part.world_size, part.local_world_size
    if kind == "data_parallel":
        return shards == tuple(Shard(rank, 0, 0, rows, columns) for rank in range(ranks))
    parts = {"row_wise": ranks, "table_row_wise": local, "grid_shard": local}.get(kind, 1)
    strips = [shards[first : first + parts] for first in range(0, len(shards), parts)]
    column = 0
    for strip in strips:
        # FBGEMM's kernels take widths that are multiples of 4.
        if strip[0].rank % parts or strip[0].columns % 4 or not _is_strip(strip, parts, rows, column):
            return False
        column += strip[0].columns
    hosts = {shard.rank // local for shard in shards}
    return (
        column == columns
        and (len(strips) == 1 or kind in COLUMN_SPLITS)
        and (len(hosts) == 1 or kind != "table_column_wise")
    )


def _is_strip(strip: Sequence[Shard], parts: int, rows: int, column: int) -> bool:
    """Return whether shards are all rows of some columns, in blocks on consecutive ranks."""
    first, size = strip[0], -(-rows // parts)
    expected = [(i, min(size, max(0, rows - i * size))) for i in range(parts)]
    return (
        [(shard.rank - first.rank, shard.rows) for shard in strip] == expected
        and all(shard.row == i * size for i, shard in enumerate(strip) if shard.rows)
        and {(shard.column, shard.columns) for shard in strip} == {(column, first.columns)}
    )
