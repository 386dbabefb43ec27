"""What differs between two plans, line by line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sharding.hardware_differences import hardware_differences

if TYPE_CHECKING:
    from sharding.plan import Plan

_ESTIMATES = (
    "hbm_max_gib",
    "host_memory_max_gib",
    "ssd_max_gib",
    "step_ms",
    "samples_per_second",
    "imbalance",
    "nvlink_max_mib",
    "nic_max_mib",
    "price_per_hour",
    "price_per_epoch",
)
_DENSE = {
    "dense_parallel": "parallel",
    "dense_shard_group_size": "shard_group_size",
    "dense_optimizer": "optimizer_name",
}


def plan_differences(old: Plan, new: Plan) -> list[str]:
    """Return one line for each thing that differs, `old -> new`; an empty list for equal plans."""
    lines = [f"{name}: {a} -> {b}" for name, a, b in _settings(old, new) if a != b]
    if str(old.cluster) == str(new.cluster) and old.cluster != new.cluster:
        lines += hardware_differences(old.cluster.rank_hardware, new.cluster.rank_hardware)
    before, after = old.estimate, new.estimate
    lines += [
        f"{name}: {_known(before[name])} -> {_known(after[name])}"
        for name in _ESTIMATES
        if before[name] != after[name]
    ]
    return lines + [f"{tables_text(names)}: {what}" for what, names in _of_tables(old, new).items()]


def _known(value: object) -> object:
    return "unknown" if value is None else value


def _of_tables(old: Plan, new: Plan) -> dict[str, list[str]]:
    """Return what differs, with the tables in which it does."""
    mine_by, theirs_by = ({t.name: t for t in plan.tables} for plan in (old, new))
    found = {
        "only in the first": [name for name in mine_by if name not in theirs_by],
        "only in the second": [name for name in theirs_by if name not in mine_by],
    }
    for name in [name for name in mine_by if name in theirs_by]:
        for what in mine_by[name].differences(theirs_by[name]):
            found.setdefault(what, []).append(name)
    return {what: names for what, names in found.items() if names}


def tables_text(names: Sequence[str]) -> str:
    """Return `table NAME` or `tables C1..C4, C7`: names that are counted up are named by their ends."""
    runs: list[list[str]] = []
    for name in names:
        if runs and name == _next(runs[-1][-1]):
            runs[-1].append(name)
        else:
            runs.append([name])
    parts = [f"{run[0]}..{run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs]
    return f"table{'s' if len(names) > 1 else ''} {', '.join(parts)}"


def _next(name: str) -> str | None:
    """Return the name with the next number; None where it does not end with one."""
    counted = re.fullmatch(r"(.*?)(0|[1-9][0-9]*)", name, re.DOTALL)
    return None if counted is None else f"{counted[1]}{int(counted[2]) + 1}"


def _settings(old: Plan, new: Plan) -> list[tuple[str, object, object]]:
    plans = (old, new)
    # Without groups the size is that of the cluster, which has a line of its own.
    grouped = any(plan.groups.count > 1 for plan in plans)
    sizes = [plan.groups.shard_group_size if grouped else None for plan in plans]
    plain = ("batch_size_per_rank", "embedding_optimizer", "storage_reserve_share", "rows_per_epoch")
    dense = {
        name: [None if plan.dense is None else getattr(plan.dense, key) for plan in plans]
        for name, key in _DENSE.items()
    }
    return [
        ("cluster", str(old.cluster), str(new.cluster)),
        *((name, getattr(old, name), getattr(new, name)) for name in plain),
        ("table_communication", str(old.communication), str(new.communication)),
        ("table_shard_group_size", sizes[0], sizes[1]),
        ("table_sync_every_steps", old.table_sync_every_steps, new.table_sync_every_steps),
        *((name, a, b) for name, (a, b) in dense.items()),
    ]
