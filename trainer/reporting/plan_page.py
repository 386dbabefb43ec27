"""One page about a plan: verdict, time and price, memory by part, and a heat map of tables by ranks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from sharding.plan import Plan, TablePlan
from sharding.rank_plan import RankMemory
from sharding.table_groups import TableGroups
from sharding.units import GIB, MIB
from trainer.reporting import formats
from trainer.reporting.charts import stacked_bars
from trainer.reporting.figures import Chart, Key
from trainer.reporting.heat_map import HeatRow, heat_map
from trainer.reporting.plan_view import PlanView, bytes_by_rank, plan_view
from trainer.reporting.rendering import write_page
from trainer.reporting.setting import Facts
from trainer.reporting.tables import Table, Tile, limited, make_table

MAX_HEAT_ROWS = 60
_MAX_RANK_ROWS = 1024
_UNKNOWN = "not known"
_PARTS = (
    ("weights", ("weights",)),
    ("optimizer state", ("optimizer",)),
    ("ids and outputs", ("input_buffers", "pipeline_copies", "id_slots", "output_buffers")),
    ("cache and gradients", ("cache", "gradients")),
    ("dense part", ("dense",)),
    ("activations", ("activations",)),
    ("reserve", ("reserve",)),
)


@dataclass(frozen=True)
class PlanPage:
    """What the template shows."""

    name: str
    subtitle: str
    tiles: tuple[Tile, ...]
    layout: PlanView
    memory: Chart
    times: Table
    traffic: Facts
    heat: Markup
    heat_note: str
    ranks: Table
    sources: Facts
    footer: str

    @property
    def contents(self) -> tuple[tuple[str, str], ...]:
        """Return anchor and title of the sections."""
        return (
            ("memory", "Memory"),
            ("time", "Time and price"),
            ("heat", "Tables by rank"),
            ("plan", "Tables"),
        )


def write_plan_page(plan: Plan, path: Path, name: str) -> Path:
    """Write the page; it needs nothing but itself: no network, no script.

    Args:
        plan: the plan.
        path: of the page.
        name: of the run, as a title.

    Raises:
        DataError: the page cannot be written.
    """
    return write_page(path, "plan.html.j2", make_plan_page(plan, name))


def make_plan_page(plan: Plan, name: str) -> PlanPage:
    """Return the page's contents."""
    rows, note = _heat_rows(plan)
    return PlanPage(
        name=name,
        subtitle=f"{len(plan.tables):,} tables on {plan.cluster}, {plan.cluster.world_size:,} ranks",
        tiles=_tiles(plan),
        layout=plan_view(plan),
        memory=_memory_chart(plan),
        times=_times(plan),
        traffic=_traffic(plan),
        heat=heat_map(rows, local_world_size=plan.cluster.local_world_size, least=MIB, unit=GIB),
        heat_note=note,
        ranks=_ranks(plan),
        sources=_sources(plan),
        footer=f"Written on {formats.moment(time.time())} by shardrec.",
    )


def _tiles(plan: Plan) -> tuple[Tile, ...]:
    estimate = plan.estimate
    used = max(rank.memory_used for rank in plan.memory)
    capacity = plan.cluster.rank_hardware.memory_gib * GIB
    price, hours = estimate["price_per_epoch"], estimate["epoch_hours"]
    samples = estimate["samples_per_second"]
    return (
        Tile("Fullest rank", formats.byte_size(used), f"of {formats.byte_size(capacity)}"),
        Tile("Step", f"{estimate['step_ms']:,g} ms", estimate["basis"]),
        Tile("Samples/s", _UNKNOWN if samples is None else formats.count(round(samples)), "all ranks"),
        Tile("Epoch", _UNKNOWN if hours is None else f"{hours:,.3g} h", _rows(plan)),
        Tile("Price of an epoch", _UNKNOWN if price is None else f"${price:,.2f}", _price(plan)),
    )


def _rows(plan: Plan) -> str:
    return "rows not known" if plan.rows_per_epoch is None else f"{plan.rows_per_epoch:,} rows"


def _price(plan: Plan) -> str:
    price = plan.cluster.price_per_hour
    return "no list price" if price is None else f"${price:,.2f} an hour"


def _memory_chart(plan: Plan) -> Chart:
    parts, keys = [], []
    for series, (label, names) in enumerate(_PARTS, start=1):
        series = series if series < len(_PARTS) else 0
        values = [sum(getattr(rank, name) for name in names) / GIB for rank in plan.memory]
        parts.append((series, np.array(values)))
        keys.append(Key(series, label))
    used = [rank.memory_used for rank in plan.memory]
    size = formats.byte_size
    return Chart(
        title="Memory by rank",
        latest=f"{size(min(used))} to {size(max(used))} used",
        svg=stacked_bars(parts, name="memory", unit="GiB"),
        summary=f"{len(used)} ranks use {size(min(used))} to {size(max(used))}, {size(sum(used))} in all.",
        keys=tuple(keys),
    )


def _times(plan: Plan) -> Table:
    step = plan.step
    rows = (
        ("Lookups and updates of the tables, slowest rank", step.table_compute_ms),
        ("Exchange of embeddings and gradients, same rank", step.table_exchange_ms),
        *((("Averaging of the copies of the tables", step.table_sync_ms),) if plan.groups.count > 1 else ()),
        ("Dense layers, forward and backward", step.dense_ms),
        ("Exchange of dense weights and gradients that nothing hides", step.exposed_dense_ms),
        ("Exchange of ids that nothing hides", step.exposed_input_ms),
        ("Step", step.total_ms),
    )
    cells = [(name, f"{value:,.3g}", formats.percent(value / (step.total_ms or 1))) for name, value in rows]
    estimate = plan.estimate
    note = f"Imbalance of the tables over ranks: {estimate['imbalance']:g}. {estimate['basis'].capitalize()}."
    return make_table("Estimated step", ("Part", "ms", "Share"), cells, note=note)


def _traffic(plan: Plan) -> Facts:
    estimate = plan.estimate
    size = formats.byte_size
    facts = [
        ("Sent inside a node", f"{size(estimate['nvlink_max_mib'] * MIB)} a rank and step, at most"),
        ("Sent to other nodes", f"{size(estimate['nic_max_mib'] * MIB)} a rank and step, at most"),
        ("Embeddings travel in", str(plan.communication)),
    ]
    if plan.dense is not None:
        dense = plan.dense
        group = "" if dense.parallel == "ddp" else f", groups of {dense.shard_group_size}"
        facts += [
            ("Dense part", f"{dense.parallel}{group}; {dense.optimizer_name}"),
            ("Dense weights on a rank", size(dense.weights)),
            ("Dense layers", f"{dense.efficiency:.0%} of {dense.peak_tflops:g} TFLOPS assumed"),
        ]
    return tuple(facts)


def _heat_rows(plan: Plan) -> tuple[list[HeatRow], str]:
    """Return a row for all tables together, one for each large table, one for the rest; and a note."""
    groups = plan.groups
    ordered = sorted(plan.tables, key=lambda t: (-(t.weight_bytes + t.optimizer_bytes), t.name))
    shown, rest = ordered[:MAX_HEAT_ROWS], ordered[MAX_HEAT_ROWS:]
    rows = [HeatRow("all tables", _sum(ordered, groups))]
    rows += [HeatRow(table.name, bytes_by_rank(table, groups)) for table in shown]
    if rest:
        rows.append(HeatRow(f"{len(rest):,} smaller tables", _sum(rest, groups)))
    most = formats.byte_size(float(rows[0].values.max()))
    return rows, f"Weights and optimizer state; from 1 MiB or less (faint) to {most} (full), by logarithm."


def _sum(
    tables: Sequence[TablePlan], groups: TableGroups
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    total = np.zeros(groups.world_size)
    for table in tables:
        total += bytes_by_rank(table, groups)
    return total


def _ranks(plan: Plan) -> Table:
    ssd = any(rank.ssd_weights for rank in plan.memory)
    parts = (label.capitalize() for label, _ in _PARTS)
    names = ("Rank", "Used", *parts, "Host memory", *(["SSD"] if ssd else []), "Table ms")
    rows, note = limited([_rank_cells(rank, ssd) for rank in plan.memory], _MAX_RANK_ROWS, "ranks")
    return make_table("Ranks", names, rows, note=note)


def _rank_cells(rank: RankMemory, ssd: bool) -> tuple[str, ...]:
    parts = (formats.byte_size(sum(getattr(rank, name) for name in names)) for _, names in _PARTS)
    used, host = formats.byte_size(rank.memory_used), formats.byte_size(rank.host_used)
    on_ssd = (formats.byte_size(rank.ssd_weights),) if ssd else ()
    return (str(rank.rank), used, *parts, host, *on_ssd, f"{rank.relative_ms:.3g}")


def _sources(plan: Plan) -> Facts:
    figures = plan.cluster.rank_hardware
    facts = [("Hardware", figures.source)]
    if figures.price_source:
        facts.append(("Price", figures.price_source))
    return tuple(facts)
