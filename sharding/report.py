"""A plan as text for a terminal: one row for each table, one for each rank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sharding.communication import FULL_PRECISION
from sharding.plan import Plan, RankMemory, rank_range
from sharding.units import MIB, byte_size, counted

_RANK_COLUMNS = {
    "weights": "weights",
    "optimizer": "optimizer",
    "gradients": "gradients",
    "cache": "cache",
    "ids": "input_buffers",
    "ids ahead": "pipeline_copies",
    "outputs": "output_buffers",
    "dense": "dense",
    "activations": "activations",
}


def plan_report(plan: Plan, *, max_tables: int = 60, max_ranks: int = 16) -> str:
    """Return the plan as text.

    Args:
        plan: the plan.
        max_tables: rows of the table list; the largest tables are shown, the others summed up.
        max_ranks: rows of the rank list; of more ranks the fullest are shown.
    """
    memory = "HBM" if plan.cluster.device == "cuda" else "host memory"
    used = max(rank.memory_used for rank in plan.memory)
    capacity = plan.cluster.rank_hardware.memory_gib
    lines = [
        f"plan for {plan.cluster}: {counted(plan.cluster.world_size, 'rank')}, "
        f"{counted(len(plan.tables), 'table')}, "
        f"batch_size_per_rank {plan.batch_size_per_rank}, {plan.embedding_optimizer}",
        f"fits: fullest rank {byte_size(used)} of {capacity:g} GiB {memory}, "
        f"{plan.storage_reserve_share:.0%} kept free",
        *_costs(plan),
        *([] if plan.communication == FULL_PRECISION else [f"embeddings travel in {plan.communication}"]),
        "",
        *_tables(plan, max_tables),
        "",
        *_ranks(plan.memory, max_ranks, plan.estimate["basis"]),
        *(f"warning: {text}" for text in plan.warnings),
        f"hardware: {plan.cluster.rank_hardware.source}",
        *([f"price: {plan.cluster.rank_hardware.price_source}"] if plan.cluster.price_per_hour else []),
    ]
    return "\n".join(lines)


def _costs(plan: Plan) -> list[str]:
    """Return what a step and an epoch take, and what the dense part holds."""
    estimate, step = plan.estimate, plan.step
    sync = f" + their sync {step.table_sync_ms:.3g}" if plan.groups.count > 1 else ""
    lines = [
        f"step: {estimate['step_ms']:g} ms = tables {step.table_compute_ms:.3g} + their exchange "
        f"{step.table_exchange_ms:.3g}{sync} + dense {step.dense_ms:.3g} + exposed dense exchange "
        f"{step.exposed_dense_ms:.3g} + exposed ids {step.exposed_input_ms:.3g}",
        f"      {estimate['samples_per_second'] or 0:,.0f} samples/s, imbalance {estimate['imbalance']:g}",
        f"sent by a rank in a step, at most: {byte_size(estimate['nvlink_max_mib'] * MIB)} inside its node, "
        f"{byte_size(estimate['nic_max_mib'] * MIB)} to other nodes",
    ]
    if plan.groups.count > 1:
        lines.append(_groups(plan))
    if plan.rows_per_epoch is not None:
        price = estimate["price_per_epoch"]
        paid = "" if price is None else f", {price:,g} USD at {estimate['price_per_hour']:,g} USD an hour"
        lines.append(f"epoch: {plan.rows_per_epoch:,} rows, {estimate['epoch_hours']:g} hours{paid}")
    if plan.dense is not None:
        part = plan.dense
        group = f" in groups of {part.shard_group_size}" if part.parallel != "ddp" else ""
        lines.append(
            f"dense part ({part.parallel}{group}): weights {byte_size(part.weights)}, gradients "
            f"{byte_size(part.gradients)}, {part.optimizer_name} {byte_size(part.optimizer)}, gathered "
            f"{byte_size(part.gathered)}, activations {byte_size(part.activations)}"
        )
    return lines


def _groups(plan: Plan) -> str:
    groups, sent = plan.groups, plan.sync_traffic
    often = "step" if groups.sync_every_steps == 1 else f"{groups.sync_every_steps} steps"
    return (
        f"tables: {groups.count} copies, each on a group of {groups.shard_group_size} ranks, averaged every "
        f"{often}: a rank then sends at most {byte_size(sent.nvlink)} inside its node, {byte_size(sent.nic)} "
        "to other nodes; the list below is that of the first group"
    )


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


def _ranks(memory: Sequence[RankMemory], max_ranks: int, basis: str) -> list[str]:
    shown = list(memory)
    if len(memory) > max_ranks:
        # The fullest ranks are those that decide whether the plan fits.
        shown = sorted(memory, key=lambda rank: (-rank.memory_used, rank.rank))[:max_ranks]
    sometimes = {"id slots": "id_slots", "ssd": "ssd_weights"}
    columns = {
        **_RANK_COLUMNS,
        "host": "host_used",
        **{title: name for title, name in sometimes.items() if any(getattr(rank, name) for rank in memory)},
    }
    head = ("rank", "used", *columns, "nvlink", "nic", "ms*")
    rows = [
        (
            str(rank.rank),
            byte_size(rank.memory_used),
            *(byte_size(getattr(rank, name)) for name in columns.values()),
            byte_size(rank.step.traffic.nvlink),
            byte_size(rank.step.traffic.nic),
            f"{rank.relative_ms:.3g}",
        )
        for rank in shown
    ]
    lines = _aligned([head, *rows], ">" * len(head))
    if len(memory) > len(shown):
        least = min(rank.memory_used for rank in memory)
        lines.append(f"the {len(shown)} fullest of {len(memory)} ranks; the emptiest uses {byte_size(least)}")
    return [
        *lines,
        "* lookups and exchanges of the tables; nvlink and nic: what they send in a step.",
        f"times: {basis}",
    ]


def _aligned(rows: Iterable[Sequence[str]], sides: str) -> list[str]:
    table = list(rows)
    widths = [max(len(row[column]) for row in table) for column in range(len(sides))]
    return [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)
        ).rstrip()
        for row in table
    ]
