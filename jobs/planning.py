"""The verb `plan`, and the checks that rows, config and cluster belong together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jobs.cluster import Cluster
from jobs.hardware import with_own_figures
from jobs.results import Dataset
from jobs.resuming import differing_keys
from sharding import topology
from sharding.plan import Plan
from trainer.config import RunConfig
from trainer.errors import DataError, PlanError, UserError
from trainer.storage import Place

if TYPE_CHECKING:
    from sharding.dense import DenseLayout
    from sharding.dense_part import DensePart, DenseWork
    from trainer.registry import ModelInputs
    from trainer.tasks import TrainingTask


def plan(
    run: RunConfig,
    data: Dataset | str | Place | None = None,
    cluster: topology.Cluster | None = None,
    *,
    batch_size_per_rank: int | None = None,
) -> Plan:
    """Plan the tables of a run on a cluster; needs neither its GPUs nor its hosts.

    Args:
        run: the config.
        data: prepared data set: rows of the tables and pooling factors come from its manifest. None for the
            tables that the config declares (`plan.tables`).
        cluster: where the run will train, with the figures of `plan.hardware`; default one rank on this
            machine.
        batch_size_per_rank: rows that one rank reads per step; default the config's share of a rank.

    Raises:
        ConfigError: there is no data set, and the config declares no tables or wrong ones.
        PlanError: the tables do not fit, or a constraint cannot be met.
    """
    ranks = Cluster.local() if cluster is None else cluster
    if isinstance(ranks, Cluster):  # A shape that was read from a catalogue has its figures.
        ranks = with_own_figures(ranks, run.plan.hardware)
    return Planning.open(run, data).plan(ranks, batch_size_per_rank)


@dataclass(frozen=True)
class Planning:
    """A model in shapes alone, ready to be planned on any cluster.

    Attributes:
        run: the config.
        dataset: whose tables are planned; None for the declared ones.
        task: the model on the meta device.
        inputs: its tables.
        work: of its dense layers.
    """

    run: RunConfig
    dataset: Dataset | None
    task: TrainingTask
    inputs: ModelInputs
    work: DenseWork

    @classmethod
    def open(cls, run: RunConfig, data: Dataset | str | Place | None) -> Planning:
        """Build the model over the tables of a data set, or over those of the config.

        Raises:
            ConfigError: there is no data set, and the config declares no tables or wrong ones.
            DataError: the data set was prepared with another config.
        """
        from trainer.assembly import build_task
        from trainer.declared import declared_task
        from trainer.dense_work import dense_work
        from trainer.registry import model_section

        dataset = None if data is None else as_dataset(data)
        if dataset is None:
            task, inputs = declared_task(run)
        else:
            check_preparation(run, dataset)
            task, inputs = build_task(run, dataset.manifest, "meta")
        bf16 = run.train.precision == "bf16"
        return cls(run, dataset, task, inputs, dense_work(inputs, model_section(run.model), bf16=bf16))

    def plan(self, cluster: topology.Cluster, batch_size_per_rank: int | None = None) -> Plan:
        """Plan the tables on a cluster; see `plan`.

        Raises:
            PlanError: the tables do not fit, or a constraint cannot be met.
        """
        from sharding.dense import DenseLayout
        from trainer.assembly import dense_layout_of

        no_groups = None
        try:
            layout = dense_layout_of(self.run, cluster.world_size, cluster.local_world_size)
        except PlanError as error:
            # A warning says so; until the groups are mended the plan reckons with a copy on every rank.
            layout, no_groups = DenseLayout(cluster.world_size), error
        try:
            made = self._plan(cluster, layout, batch_size_of(self.run, cluster, batch_size_per_rank))
        except PlanError as error:
            if no_groups is None:
                raise
            raise _without_groups(no_groups, error) from error
        rows = self.run.plan.rows_per_epoch
        if rows is None and self.dataset is not None:
            rows = self.dataset.manifest.split("train").rows
        warnings = (*made.warnings, *self.refusals(cluster))
        return replace(made, warnings=warnings, rows_per_epoch=rows)

    def refusals(self, cluster: topology.Cluster) -> list[str]:
        """Return why training on a cluster would be refused; a plan for it is worth having all the same."""
        from trainer.assembly import check_groups
        from trainer.data import check_ranks

        run, data = self.run, self.run.data
        try:
            if self.dataset is not None:
                check_layout_of(run, self.dataset, cluster)
            else:
                check_groups(run, cluster.world_size, cluster.local_world_size)
                rows = run.plan.rows_per_epoch or max(cluster.world_size, data.num_lanes)
                check_ranks(rows, "train", data.num_lanes, cluster.world_size, run.train.global_batch_size)
        except UserError as error:
            fixes = f"; {' or '.join(error.fixes)}" if error.fixes else ""
            return [f"training on {cluster.world_size} ranks will be refused: {error.what}{fixes}"]
        return []

    def check_bytes(self, cluster: topology.Cluster, batch_size_per_rank: int | None = None) -> None:
        """Refuse a cluster whose memory cannot hold the tables, by a count of bytes alone.

        Raises:
            PlanError: it cannot, or the groups that share the dense part or the tables do not fit the ranks.
        """
        from sharding.memory import id_slot_bytes, memory_budget
        from sharding.verdicts import check_bytes, check_dense
        from trainer.assembly import dense_layout_of, table_groups_of

        layout = dense_layout_of(self.run, cluster.world_size, cluster.local_world_size)
        groups = table_groups_of(self.run, cluster.world_size, cluster.local_world_size)
        dense = self._dense_part(cluster, layout, batch_size_of(self.run, cluster, batch_size_per_rank))
        slots = id_slot_bytes(self.inputs.tables, cluster.world_size)
        budget = memory_budget(dense, cluster, self.run.plan.storage_reserve_share, slots)
        check_dense(budget, cluster)
        part = cluster.part(groups.shard_group_size)
        check_bytes(self.inputs.tables, part, budget, self.run.train.embedding_optimizer.name)

    def _plan(self, cluster: topology.Cluster, layout: DenseLayout, batch_size: int) -> Plan:
        from sharding.planner import make_plan
        from trainer.assembly import communication_of, table_groups_of

        run = self.run
        groups = table_groups_of(run, cluster.world_size, cluster.local_world_size)
        check_optimizer_of(run, cluster)
        return make_plan(
            self.task,
            self.inputs.tables,
            cluster.shape() if isinstance(cluster, Cluster) else cluster,
            batch_size_per_rank=batch_size,
            embedding_optimizer=run.train.embedding_optimizer.name,
            dense=self._dense_part(cluster, layout, batch_size),
            storage_reserve_share=run.plan.storage_reserve_share,
            timeout_seconds=run.plan.timeout_seconds,
            groups=groups,
            communication=communication_of(run),
            takes=self._takes,
        )

    def _takes(self, world_size: int) -> bool:
        """Return whether training takes a number of ranks: it divides lanes and batch, and each gets rows."""
        from trainer.data import check_ranks

        data = self.run.data
        rows = self.run.plan.rows_per_epoch or max(world_size, data.num_lanes)
        if self.dataset is not None:
            rows = self.dataset.manifest.split("train").rows
        try:
            check_ranks(rows, "train", data.num_lanes, world_size, self.run.train.global_batch_size)
        except UserError:
            return False
        return True

    def _dense_part(self, cluster: topology.Cluster, layout: DenseLayout, batch_size: int) -> DensePart:
        """Return the dense part on a rank, with the work that it does in a step."""
        from sharding.dense_part import dense_part

        train = self.run.train
        return dense_part(
            self.task,
            cluster,
            layout,
            parallel=train.dense_parallel,
            optimizer=train.dense_optimizer.name,
            momentum=train.dense_optimizer.momentum,
            averaged=train.ema is not None,
            work=self.work,
            batch_size_per_rank=batch_size,
            bf16=train.precision == "bf16",
            efficiency=self.run.plan.dense_efficiency,
        )


def batch_size_of(run: RunConfig, cluster: topology.Cluster, batch_size_per_rank: int | None = None) -> int:
    """Return the rows that one rank reads per step: as given, else the config's share of a rank."""
    return batch_size_per_rank or max(1, run.train.global_batch_size // cluster.world_size)


def _without_groups(no_groups: PlanError, error: PlanError) -> PlanError:
    """Return the error of the groups, which come first: a copy on every rank may be all that does not fit."""
    first, _, _ = error.what.partition("\n")
    return PlanError(
        no_groups.what,
        where=no_groups.where,
        got=no_groups.got,
        allowed=no_groups.allowed,
        fixes=no_groups.fixes,
        also=[f"with a copy on every rank there is no plan: {first}"],
    )


def check_optimizer_of(run: RunConfig, cluster: topology.Cluster, layout: Plan | None = None) -> None:
    """Check before any launch that the embedding optimizer is one of the device's, and that of the plan, and
    that the plan reckoned with the run's precision of the exchange between ranks.

    Raises:
        PlanError: it is not, or did not.
    """
    from sharding.sharders import check_optimizer
    from trainer.assembly import communication_of

    optimizer = run.train.embedding_optimizer
    check_optimizer(optimizer.name, cluster.device, optimizer.weight_decay)
    if layout is not None:
        layout.check_optimizer(optimizer.name)
        layout.check_communication(communication_of(run), batch_size_of(run, cluster))


def check_layout_of(
    run: RunConfig, dataset: Dataset, cluster: topology.Cluster, evaluated: str | None = None
) -> int:
    """Check before any launch that rows, lanes, batch size, ranks and their groups fit each other.

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
    from trainer.assembly import check_groups
    from trainer.data import check_layout

    if evaluated is None:
        check_groups(run, cluster.world_size, cluster.local_world_size)
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
