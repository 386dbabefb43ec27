"""A plan that the user gives to `train`: whether it is one for the run, and planning again where not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.planning import batch_size_of, check_optimizer_of, plan
from sharding.plan import Plan
from sharding.units import GIB
from trainer.errors import PlanError

if TYPE_CHECKING:
    from jobs.cluster import Cluster
    from jobs.results import Dataset
    from sharding.tables import TableSpec
    from trainer.config import RunConfig

_MOST_TABLES = 5
"""Tables placed otherwise than the config allows that a warning names."""


def layout_of(
    run: RunConfig, dataset: Dataset, cluster: Cluster, given: Plan | None, *, replan: bool = False
) -> tuple[Plan, list[str]]:
    """Return the plan to train with, the given one if it is one for this run, and what to say about it.

    Args:
        run: the config.
        dataset: to train on.
        cluster: the ranks.
        given: plan of the user; None for a new one.
        replan: plan again where the given plan is not for this run, or reckoned otherwise.

    Raises:
        PlanError: the given plan is not for this run and `replan` is False, or there is no plan.
    """
    if given is None:
        return plan(run, dataset, cluster), []
    try:
        tables = _check(given, run, dataset, cluster)
    except PlanError as error:
        if not replan:
            raise
        # A refusal of the config itself, such as an optimizer without kernels, comes back from planning.
        return _again(f"{error.what}{_told(error)}", run, dataset, cluster)
    warnings = reckoning_warnings(given, run, cluster, tables)
    if replan and warnings:
        return _again("; ".join(warnings), run, dataset, cluster)
    return given, warnings


def _again(reason: str, run: RunConfig, dataset: Dataset, cluster: Cluster) -> tuple[Plan, list[str]]:
    return plan(run, dataset, cluster), [f"planned again for {cluster}, see plan.json of the run: {reason}"]


def _told(error: PlanError) -> str:
    got = "; ".join(line.strip() for line in str(error.got or "").splitlines())
    return f" ({got})" if got else ""


def _check(given: Plan, run: RunConfig, dataset: Dataset, cluster: Cluster) -> tuple[TableSpec, ...]:
    """Refuse a plan for other ranks or tables; return the tables of the run."""
    from trainer.assembly import build_task, table_groups_of

    _, inputs = build_task(run, dataset.manifest)
    groups = table_groups_of(run, cluster.world_size, cluster.local_world_size)
    given.check(
        inputs.tables,
        world_size=cluster.world_size,
        device=cluster.device,
        table_shard_group_size=groups.shard_group_size,
    )
    check_optimizer_of(run, cluster, given)
    return inputs.tables


def reckoning_warnings(
    layout: Plan, run: RunConfig, cluster: Cluster, tables: tuple[TableSpec, ...] = ()
) -> list[str]:
    """Return where a plan reckoned with something else than the run has, or places what the run would not.

    Training can follow such a plan, but its memory was not reckoned with this run.

    Args:
        layout: the plan.
        run: the config.
        cluster: the ranks.
        tables: of the run.

    Raises:
        PlanError: `train.dense_shard_group_size` does not fit the ranks.
    """
    from trainer.assembly import dense_layout_of

    there = layout.cluster
    pairs: list[tuple[str, object, object]] = [
        ("batch_size_per_rank", layout.batch_size_per_rank, batch_size_of(run, cluster)),
        ("storage_reserve_share", layout.storage_reserve_share, run.plan.storage_reserve_share),
        ("gpu", there.gpu, cluster.gpu),
    ]
    if there.device == "cuda" or layout.inside_hosts():
        pairs.append(("ranks on a host", there.local_world_size, cluster.local_world_size))
    if layout.groups.count > 1:
        planned_steps = layout.table_sync_every_steps
        pairs.append(("table_sync_every_steps", planned_steps, run.train.table_sync_every_steps))
    if (planned := layout.dense) is not None:
        own, train = dense_layout_of(run, cluster.world_size, cluster.local_world_size), run.train
        parallel = train.dense_parallel if own.is_sharded else "ddp"
        pairs += [
            ("dense_parallel", planned.parallel, parallel),
            ("dense_shard_group_size", planned.shard_group_size, own.shard_group_size),
            ("dense_optimizer", planned.optimizer_name, train.dense_optimizer.name),
        ]
    differing = [f"{name} {theirs} (run: {ours})" for name, theirs, ours in pairs if theirs != ours]
    warnings = []
    if differing:
        warnings.append(
            f"the plan reckoned with {', '.join(differing)}: memory may run out; plan again to be sure"
        )
    used = max(rank.memory_used for rank in layout.memory) / GIB
    have = cluster.rank_hardware.memory_gib
    # Without figures of their own nobody knows the memory of the ranks.
    if cluster.hardware is not None and used > have * (1 - run.plan.storage_reserve_share):
        warnings.append(
            f"the plan takes {used:.3g} GiB on its fullest rank, and a rank here has {have:.3g} GiB, "
            f"{run.plan.storage_reserve_share:.0%} of it kept free: memory may run out"
        )
    if other := layout.against_constraints(tables):
        more = f" and {len(other) - _MOST_TABLES} more" if len(other) > _MOST_TABLES else ""
        shown = "; ".join(other[:_MOST_TABLES])
        warnings.append(f"the plan places tables otherwise than the config allows: {shown}{more}")
    return warnings
