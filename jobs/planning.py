"""The verb `plan`, and the checks that rows, config and cluster belong together."""

from __future__ import annotations

from dataclasses import replace

from jobs.cluster import Cluster
from jobs.results import Dataset
from jobs.resuming import differing_keys
from sharding import topology
from sharding.plan import Plan
from trainer.config import RunConfig
from trainer.errors import DataError, UserError
from trainer.storage import Place


def plan(
    run: RunConfig,
    data: Dataset | str | Place,
    cluster: topology.Cluster | None = None,
    *,
    batch_size_per_rank: int | None = None,
) -> Plan:
    """Plan the tables of a run on a cluster; needs neither its GPUs nor its hosts.

    Args:
        run: the config.
        data: prepared data set: rows of the tables and pooling factors come from its manifest.
        cluster: where the run will train; default one rank on this machine.
        batch_size_per_rank: rows that one rank reads per step; default the config's share of a rank.

    Raises:
        PlanError: the tables do not fit, or a constraint cannot be met.
    """
    from sharding.planner import make_plan
    from trainer.assembly import build_task

    cluster, dataset = cluster or Cluster.local(), as_dataset(data)
    check_preparation(run, dataset)
    check_optimizer_of(run, cluster)
    task, inputs = build_task(run, dataset.manifest, "meta")
    made = make_plan(
        task,
        inputs.tables,
        cluster.shape() if isinstance(cluster, Cluster) else cluster,
        batch_size_per_rank=batch_size_per_rank or max(1, run.train.global_batch_size // cluster.world_size),
        embedding_optimizer=run.train.embedding_optimizer.name,
        storage_reserve_share=run.plan.storage_reserve_share,
        timeout_seconds=run.plan.timeout_seconds,
    )
    return replace(made, warnings=(*made.warnings, *_layout_warnings(run, dataset, cluster)))


def _layout_warnings(run: RunConfig, dataset: Dataset, cluster: topology.Cluster) -> list[str]:
    """Return what training on this cluster would refuse; a plan for it is worth having all the same."""
    try:
        check_layout_of(run, dataset, cluster)
    except UserError as error:
        fixes = f"; {' or '.join(error.fixes)}" if error.fixes else ""
        return [f"training on {cluster.world_size} ranks will be refused: {error.what}{fixes}"]
    return []


def check_optimizer_of(run: RunConfig, cluster: topology.Cluster, layout: Plan | None = None) -> None:
    """Check before any launch that the embedding optimizer is one of the device's, and of the plan.

    Raises:
        PlanError: it is not.
    """
    from sharding.sharders import check_optimizer

    optimizer = run.train.embedding_optimizer
    check_optimizer(optimizer.name, cluster.device, optimizer.weight_decay)
    if layout is not None:
        layout.check_optimizer(optimizer.name)


def check_layout_of(
    run: RunConfig, dataset: Dataset, cluster: topology.Cluster, evaluated: str | None = None
) -> int:
    """Check before any launch that rows, lanes, batch size and ranks fit each other.

    Args:
        run: the config.
        dataset: prepared data set.
        cluster: the ranks.
        evaluated: the split whose rows are to be evaluated; default training.

    Returns:
        Steps of an epoch.

    Raises:
        UserError: they do not.
    """
    from trainer.data import check_layout

    return check_layout(
        dataset.manifest,
        evaluated or "train",
        global_batch_size=run.train.global_batch_size,
        num_lanes=run.data.num_lanes,
        world_size=cluster.world_size,
        tail=run.train.tail if evaluated is None else "pad",
    )


def check_preparation(run: RunConfig, dataset: Dataset) -> None:
    """Check that the data set was prepared as the config says.

    Raises:
        DataError: naming the keys that differ.
    """
    manifest = dataset.manifest
    if manifest.config_hash != run.preparation_hash():
        differences = differing_keys(manifest.preparation, run.preparation())
        raise DataError(
            "the data set was prepared with another config",
            where=str(dataset.path),
            got="; ".join(differences[:5]) or manifest.config_hash,
            fixes=[
                "prepare it again: shardrec prepare CONFIG",
                "name the data set of this config with --data",
            ],
        )


def as_dataset(data: Dataset | str | Place) -> Dataset:
    """Return a data set, opening it where a folder is given."""
    return data if isinstance(data, Dataset) else Dataset.open(data)
