"""The pictures of docs/sharding.md, for docs/generate.py: one for each sharding type, drawn from a real plan.

Every picture shows the ranks of two hosts, and in each rank which block of each table it holds.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from sharding.planner import make_plan
from sharding.table_plan import TablePlan
from sharding.tables import TableSpec, build_collections
from sharding.topology import Cluster

CLUSTER = Cluster(nodes=2, gpus_per_node=2, gpu="h100")
ROWS = {"user": 96, "item": 64, "shop": 32}
DIM = 64
# Columns of a shard where rows are split: over four ranks, or over two ranks of a host, or over two hosts.
WIDTHS = {"column_wise": 16, "table_column_wise": 32, "grid_shard": 32}
COLOURS = {"user": "#5b7fd6", "item": "#d98a3d", "shop": "#4f9d7a"}
LINE, TEXT = "#8b9099", "#7a7f87"

TABLE_WIDTH, GAP, PADDING, HEAD = 34, 12, 12, 26
RANK_WIDTH = 3 * TABLE_WIDTH + 2 * GAP + 2 * PADDING
RANK_HEIGHT = HEAD + max(ROWS.values()) + 2 * PADDING
HOST_HEAD, SPACE = 24, 14
HOST_WIDTH = CLUSTER.local_world_size * (RANK_WIDTH + SPACE) + SPACE


def planned(kind: str) -> tuple[TablePlan, ...]:
    """Plan the tables with one sharding type."""
    tables = [
        TableSpec(name, rows, DIM, (name,), sharding_types=(kind,), min_partition=WIDTHS.get(kind))
        for name, rows in ROWS.items()
    ]
    pooled, _ = build_collections(tables)
    model = nn.ModuleDict({"tables": pooled})
    plan = make_plan(model, tables, CLUSTER, batch_size_per_rank=1024, embedding_optimizer="adagrad")
    return plan.tables


def picture(kind: str) -> str:
    """Return the picture of a sharding type as SVG."""
    tables = planned(kind)
    width = CLUSTER.nodes * (HOST_WIDTH + SPACE) - SPACE
    height = HOST_HEAD + RANK_HEIGHT + SPACE
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="11" fill="{TEXT}" role="img">',
        f"<title>{kind}: blocks of three tables on four ranks of two hosts</title>",
    ]
    for host in range(CLUSTER.nodes):
        left = host * (HOST_WIDTH + SPACE)
        lines.append(box(left, 0, HOST_WIDTH, height, dashes="4 3"))
        lines.append(f'<text x="{left + SPACE}" y="16">host {host}</text>')
        for place in range(CLUSTER.local_world_size):
            x = left + SPACE + place * (RANK_WIDTH + SPACE)
            lines += rank_lines(host * CLUSTER.local_world_size + place, x, tables)
    return "\n".join([*lines, "</svg>", ""])


def rank_lines(rank: int, x: int, tables: tuple[TablePlan, ...]) -> Iterator[str]:
    """Yield what is drawn for a rank: the outline of each table, and in it the blocks that the rank holds."""
    yield box(x, HOST_HEAD, RANK_WIDTH, RANK_HEIGHT)
    yield f'<text x="{x + PADDING}" y="{HOST_HEAD + 16}">rank {rank}</text>'
    for number, table in enumerate(tables):
        left, top = x + PADDING + number * (TABLE_WIDTH + GAP), HOST_HEAD + HEAD + 10
        yield f'<text x="{left}" y="{top - 4}" font-size="9">{table.name}</text>'
        for shard in table.shards:
            if shard.rank == rank and shard.rows:
                scale = TABLE_WIDTH / DIM
                yield (
                    f'<rect x="{left + shard.column * scale:g}" y="{top + shard.row}" '
                    f'width="{shard.columns * scale:g}" height="{shard.rows}" fill="{COLOURS[table.name]}"/>'
                )
        yield box(left, top, TABLE_WIDTH, table.num_embeddings)


def box(x: int, y: int, width: int, height: int, dashes: str = "none") -> str:
    """Return an outline."""
    return (
        f'<rect x="{x + 0.5}" y="{y + 0.5}" width="{width - 1}" height="{height - 1}" fill="none" '
        f'stroke="{LINE}" stroke-dasharray="{dashes}"/>'
    )
