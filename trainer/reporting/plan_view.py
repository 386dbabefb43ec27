"""The plan section: where each embedding table lies, and how full each rank is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sharding.plan import Plan, TablePlan, rank_range
from sharding.table_groups import TableGroups
from trainer.reporting import formats
from trainer.reporting.charts import stacked_bars
from trainer.reporting.figures import Chart, Key
from trainer.reporting.setting import Facts
from trainer.reporting.svg import NUM_SERIES
from trainer.reporting.tables import Table, limited, make_table

MAX_TABLES = 500
_UNITS = ((1024.0**4, "TiB"), (1024.0**3, "GiB"), (1024.0**2, "MiB"), (1024.0, "KiB"), (1.0, "B"))


@dataclass(frozen=True)
class PlanView:
    """The plan as shown."""

    facts: Facts
    warnings: tuple[str, ...]
    table: Table
    chart: Chart | None


def plan_view(plan: Plan) -> PlanView:
    """Return the plan section, the largest table first."""
    ordered = sorted(plan.tables, key=lambda table: (-_table_bytes(table), table.name))
    return PlanView(_facts(plan), plan.warnings, _table(ordered), _chart(ordered, plan))


def bytes_by_rank(table: TablePlan, groups: TableGroups) -> NDArray[np.float64]:
    """Return the bytes of a table's weights and optimizer state on each rank.

    They are dealt to the shards by their size; a data-parallel table counts once on every rank. Each group of
    ranks is like the first.
    """
    share: NDArray[np.float64] = np.zeros(groups.shard_group_size)
    for shard in table.shards:
        share[shard.rank] += shard.rows * shard.columns
    share *= _table_bytes(table) / max(share.sum(), 1.0)
    return np.tile(share, groups.count)


def _table_bytes(table: TablePlan) -> int:
    return table.weight_bytes + table.optimizer_bytes


def _facts(plan: Plan) -> Facts:
    fullest = max((rank.memory_used for rank in plan.memory), default=0)
    capacity = plan.cluster.rank_hardware.memory_gib * 1024**3
    parameters = sum(table.num_embeddings * table.embedding_dim for table in plan.tables)
    weights = sum(table.weight_bytes for table in plan.tables)
    return (
        ("Made for", f"{plan.cluster}, {formats.count(plan.cluster.world_size)} ranks"),
        ("Batch size per rank", formats.count(plan.batch_size_per_rank)),
        ("Tables", formats.count(len(plan.tables))),
        ("Embedding parameters", formats.count(parameters)),
        *_group_facts(plan),
        ("Weights over all ranks", formats.byte_size(weights * plan.groups.count)),
        ("Embedding optimizer", plan.embedding_optimizer),
        (
            "Fullest rank, all memory",
            f"{formats.byte_size(fullest)} planned of {formats.byte_size(capacity)}, "
            f"{formats.percent(plan.storage_reserve_share, 0)} kept free",
        ),
        ("Planned in", formats.duration(plan.seconds)),
    )


def _group_facts(plan: Plan) -> Facts:
    groups = plan.groups
    if groups.count == 1:
        return ()
    often = "step" if groups.sync_every_steps == 1 else f"{groups.sync_every_steps} steps"
    text = f"{groups.count}, each on a group of {groups.shard_group_size} ranks, averaged every {often}"
    return (("Copies of the tables", text),)


def _table(tables: Sequence[TablePlan]) -> Table:
    rows = [
        (
            table.name,
            formats.count(table.num_embeddings),
            formats.count(table.embedding_dim),
            table.data_type,
            table.sharding_type,
            table.compute_kernel,
            rank_range(table.ranks),
            formats.byte_size(table.weight_bytes),
            formats.byte_size(table.optimizer_bytes),
        )
        for table in tables
    ]
    shown, note = limited(rows, MAX_TABLES, "tables, largest first")
    titles = (
        "Table",
        "Rows",
        "Dim",
        "Type",
        "Sharding type",
        "Kernel",
        "Ranks",
        "Weights",
        "Optimizer state",
    )
    about = "Bytes over all ranks of a copy together."
    return make_table("Embedding tables", titles, shown, text=(0, 3, 4, 5, 6), note=f"{about} {note}".strip())


def _chart(tables: Sequence[TablePlan], plan: Plan) -> Chart | None:
    placed = [bytes_by_rank(table, plan.groups) for table in tables]
    totals = np.sum(placed, axis=0) if placed else np.zeros(plan.cluster.world_size)
    if not totals.any():
        return None
    size, unit = next((pair for pair in _UNITS if totals.max() >= pair[0]), _UNITS[-1])
    # A colour for a single table beyond the palette is worth more than a rest of one.
    num_named = len(tables) if len(tables) <= NUM_SERIES else NUM_SERIES - 1
    parts = [(series, values / size) for series, values in enumerate(placed[:num_named], start=1)]
    keys = [Key(series, table.name) for series, table in enumerate(tables[:num_named], start=1)]
    if num_named < len(tables):
        parts.append((0, np.sum(placed[num_named:], axis=0) / size))
        keys.append(Key(0, f"{len(tables) - num_named} other tables"))
    return Chart(
        title="Tables and their optimizer state, by rank",
        latest=f"at most {formats.byte_size(float(totals.max()))}",
        svg=stacked_bars(parts, name="ranks", unit=unit),
        summary=_summary(totals),
        keys=tuple(keys),
    )


def _summary(totals: NDArray[np.float64]) -> str:
    size = formats.byte_size
    return (
        f"{len(totals)} ranks hold {size(float(totals.sum()))}: on average {size(float(totals.mean()))}, "
        f"most on rank {totals.argmax()} ({size(float(totals.max()))}), "
        f"least on rank {totals.argmin()} ({size(float(totals.min()))})."
    )
