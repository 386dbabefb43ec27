"""A plan as text for a terminal: one row for each table, one for each rank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sharding.plan import Plan, RankMemory, rank_range
from sharding.units import byte_size

_MAX_RANK_ROWS = 16


def plan_report(plan: Plan, *, max_tables: int = 60) -> str:
    """Return the plan as text.

    Args:
        plan: the plan.
        max_tables: rows of the table list; the largest tables are shown, the others summed up.
    """
    estimate = plan.estimate
    memory = "HBM" if plan.cluster.device == "cuda" else "host memory"
    used = max(rank.memory_used for rank in plan.memory)
    capacity = plan.cluster.rank_hardware.memory_gib
    lines = [
        f"plan for {plan.cluster}: {plan.cluster.world_size} ranks, {len(plan.tables)} tables, "
        f"batch_size_per_rank {plan.batch_size_per_rank}, {plan.embedding_optimizer}",
        f"fits: fullest rank {byte_size(used)} of {capacity:g} GiB {memory}, "
        f"{plan.storage_reserve_share:.0%} kept free",
        f"time: {estimate['step_ms']:g} ms for the slowest rank's tables, "
        f"imbalance {estimate['imbalance']:g} ({estimate['basis']})",
        "",
        *_tables(plan, max_tables),
        "",
        *_ranks(plan.memory),
        *(f"warning: {text}" for text in plan.warnings),
        f"hardware: {plan.cluster.rank_hardware.source}",
    ]
    return "\n".join(lines)


def _tables(plan: Plan, max_tables: int) -> list[str]:
    by_size = sorted(plan.tables, key=lambda table: (-table.weight_bytes, table.name))
    rows = [
        (
            table.name,
            f"{table.num_embeddings:,}",
            str(table.embedding_dim),
            table.data_type,
            table.sharding_type,
            table.compute_kernel,
            rank_range(table.ranks),
            byte_size(table.weight_bytes),
            byte_size(table.optimizer_bytes),
            f"{table.relative_ms:.3g}",
        )
        for table in by_size[:max_tables]
    ]
    head = (
        "table",
        "rows",
        "dim",
        "type",
        "sharding",
        "kernel",
        "ranks",
        "weights",
        "optimizer",
        "ms*",
    )
    lines = _aligned([head, *rows], "<>><<<<>>>")
    rest = by_size[max_tables:]
    if rest:
        total = byte_size(sum(table.weight_bytes for table in rest))
        lines.append(f"and {len(rest)} smaller tables with {total} of weights")
    return lines


def _ranks(memory: Sequence[RankMemory]) -> list[str]:
    shown = list(memory)
    if len(memory) > _MAX_RANK_ROWS:
        # The fullest ranks are those that decide whether the plan fits.
        shown = sorted(memory, key=lambda rank: (-rank.memory_used, rank.rank))[:_MAX_RANK_ROWS]
    head = ("rank", "used", "weights", "optimizer", "gradients", "buffers", "dense", "host", "ms*")
    rows = [
        (
            str(rank.rank),
            byte_size(rank.memory_used),
            *map(byte_size, (rank.weights, rank.optimizer, rank.gradients, rank.buffers, rank.dense)),
            byte_size(rank.host_used),
            f"{rank.relative_ms:.3g}",
        )
        for rank in shown
    ]
    lines = _aligned([head, *rows], ">" * len(head))
    if len(memory) > len(shown):
        least = min(rank.memory_used for rank in memory)
        lines.append(f"the {len(shown)} fullest of {len(memory)} ranks; the emptiest uses {byte_size(least)}")
    return [*lines, "* relative and uncalibrated: for comparing placements, not for predicting time"]


def _aligned(rows: Iterable[Sequence[str]], sides: str) -> list[str]:
    table = list(rows)
    widths = [max(len(row[column]) for row in table) for column in range(len(sides))]
    return [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)
        ).rstrip()
        for row in table
    ]
