"""What differs between two plans, line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
        mine, theirs = (plan.cluster.as_dict()["hardware"] for plan in (old, new))
        lines += [f"hardware.{k}: {mine[k]} -> {theirs[k]}" for k in mine if mine[k] != theirs[k]]
    before, after = old.estimate, new.estimate
    lines += [
        f"{name}: {before[name]} -> {after[name]}" for name in _ESTIMATES if before[name] != after[name]
    ]
    mine_by, theirs_by = ({t.name: t for t in plan.tables} for plan in (old, new))
    lines += [f"table {name}: only in the first" for name in mine_by if name not in theirs_by]
    lines += [f"table {name}: only in the second" for name in theirs_by if name not in mine_by]
    for name in [name for name in mine_by if name in theirs_by]:
        lines += mine_by[name].differences(theirs_by[name])
    return lines


def _settings(old: Plan, new: Plan) -> list[tuple[str, object, object]]:
    plain = ("batch_size_per_rank", "embedding_optimizer", "storage_reserve_share", "rows_per_epoch")
    dense = {
        name: [None if plan.dense is None else getattr(plan.dense, key) for plan in (old, new)]
        for name, key in _DENSE.items()
    }
    return [
        ("cluster", str(old.cluster), str(new.cluster)),
        *((name, getattr(old, name), getattr(new, name)) for name in plain),
        ("table_communication", str(old.communication), str(new.communication)),
        ("table_shard_group_size", old.groups.shard_group_size, new.groups.shard_group_size),
        ("table_sync_every_steps", old.table_sync_every_steps, new.table_sync_every_steps),
        *((name, a, b) for name, (a, b) in dense.items()),
    ]
