"""The sharding plan: readable, saved as JSON, compared, and turned into TorchRec's own form.

Where a table's shards live is all that training needs; bytes and times are there for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from torchrec.distributed.types import EmbeddingModuleShardingPlan, ShardingPlan

from sharding import plan_file
from sharding.communication import FULL_PRECISION, TableCommunication
from sharding.dense_part import DensePart
from sharding.errors import PlanError
from sharding.plan_differences import plan_differences
from sharding.plan_faults import plan_fault
from sharding.plan_values import check_values
from sharding.rank_plan import RankMemory, RankStep
from sharding.sharders import HOST_TYPES
from sharding.ssd import KEY_VALUE
from sharding.step_time import StepTime, basis, step_time
from sharding.table_groups import TableGroups
from sharding.table_plan import Shard, TablePlan, rank_range
from sharding.tables import TableSpec
from sharding.topology import Cluster
from sharding.traffic import Traffic
from sharding.units import GIB, MIB

__all__ = ["Plan", "RankMemory", "RankStep", "Shard", "TablePlan", "Verdict", "rank_range"]

Verdict = Literal["fits", "no_plan_found", "cannot_fit"]
_PLAIN = (
    "batch_size_per_rank",
    "embedding_optimizer",
    "storage_reserve_share",
    "rows_per_epoch",
    "seconds",
    "versions",
)
# Plans made before there were groups do not have these.
_GROUPS = ("table_shard_group_size", "table_sync_every_steps")


@dataclass(frozen=True)
class Plan:
    """A sharding plan that fits, with the cluster it was made for.

    Attributes:
        tables: in the order of the table list, on the ranks of the first group.
        cluster: what it was made for; training needs the same device and world size.
        batch_size_per_rank: what buffers and times were reckoned with.
        embedding_optimizer: what optimizer state was reckoned with.
        storage_reserve_share: share of each rank's memory that the plan leaves free.
        memory: one entry for each rank.
        seconds: that planning took.
        versions: of torch and torchrec.
        warnings: what a user of this plan should know.
        dense: the dense part on each rank; None where the planner was not told.
        rows_per_epoch: training rows, for time and price of an epoch.
        table_shard_group_size: ranks that hold one copy of the tables; None for all. Every group is like the
            first, its ranks counted from 0.
        table_sync_every_steps: steps from one averaging of the copies to the next.
        communication: precision in which embeddings travel between ranks.
        verdict: always `fits`; the errors of `make_plan` bear the other verdicts.
    """

    tables: tuple[TablePlan, ...]
    cluster: Cluster
    batch_size_per_rank: int
    embedding_optimizer: str
    storage_reserve_share: float
    memory: tuple[RankMemory, ...]
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    dense: DensePart | None = None
    rows_per_epoch: int | None = None
    table_shard_group_size: int | None = None
    table_sync_every_steps: int = 1
    communication: TableCommunication = FULL_PRECISION
    verdict: Verdict = "fits"

    @property
    def groups(self) -> TableGroups:
        """Return the groups of ranks that hold a copy of the tables each."""
        ranks, local = self.cluster.world_size, self.cluster.local_world_size
        size = self.table_shard_group_size or ranks
        return TableGroups(ranks, local, size, self.table_sync_every_steps)

    @property
    def sync_traffic(self) -> Traffic:
        """Return what a rank sends when the copies of the tables are averaged, at most."""
        copies = [table for table in self.tables if table.sharding_type == "data_parallel"]
        averaged_by_ddp = sum((t.weight_bytes + t.optimizer_bytes) // len(t.shards) for t in copies)
        most = max(rank.weights + rank.optimizer for rank in self.memory)
        return self.groups.sync_traffic(most - averaged_by_ddp)

    @property
    def step(self) -> StepTime:
        """Return the estimated step, part by part."""
        sync_ms = self.sync_traffic.milliseconds(self.cluster) / self.table_sync_every_steps
        return step_time(self.memory, self.cluster, self.dense, sync_ms)

    @property
    def estimate(self) -> dict[str, Any]:
        """Return what the plan costs: memory, traffic, a time and a price, and where the speeds are from."""
        on_gpu = self.cluster.device == "cuda"
        used = max(rank.memory_used for rank in self.memory) / GIB
        host = max(rank.host_used for rank in self.memory) / GIB
        times = [rank.relative_ms for rank in self.memory]
        step_ms = self.step.total_ms
        samples = self.batch_size_per_rank * self.cluster.world_size
        hours = None
        if self.rows_per_epoch is not None:
            hours = self.rows_per_epoch / samples * step_ms / 3.6e6
        price = self.cluster.price_per_hour
        dense = Traffic(0, 0) if self.dense is None else self.dense.traffic
        shared = dense.plus(self.sync_traffic.times(1 / self.table_sync_every_steps))
        sent = [rank.step.traffic.plus(shared) for rank in self.memory]
        return {
            "hbm_max_gib": _rounded(used if on_gpu else 0.0),
            "host_memory_max_gib": _rounded(host if on_gpu else used),
            "ssd_max_gib": _rounded(max(rank.ssd_weights for rank in self.memory) / GIB),
            "step_ms": _rounded(step_ms),
            "step_parts": {name: _rounded(value) for name, value in asdict(self.step).items()},
            "samples_per_second": _rounded(samples / step_ms * 1e3) if step_ms > 0 else None,
            "imbalance": _rounded(max(times) * len(times) / sum(times)) if max(times) > 0 else 1.0,
            "nvlink_max_mib": _rounded(max(each.nvlink for each in sent) / MIB),
            "nic_max_mib": _rounded(max(each.nic for each in sent) / MIB),
            "epoch_hours": None if hours is None else _rounded(hours),
            "price_per_hour": None if price is None else _rounded(price),
            "price_per_epoch": None if hours is None or price is None else _rounded(hours * price),
            "basis": basis(self.cluster),
        }

    def summary(self) -> dict[str, Any]:
        """Return the `--json` form of the plan verb, but for `plan`, the path it is saved under."""
        estimate = self.estimate
        speeds = estimate.pop("basis")
        return {
            "verdict": self.verdict,
            "cluster": str(self.cluster),
            "ranks": self.cluster.world_size,
            "table_groups": self._group_facts(),
            **estimate,
            "estimate_basis": speeds,
            "seconds": round(self.seconds, 3),
            "warnings": list(self.warnings),
            "plan": None,
        }

    def _group_facts(self) -> dict[str, Any]:
        groups, sent = self.groups, self.sync_traffic
        return {
            "groups": groups.count,
            "shard_group_size": groups.shard_group_size,
            "sync_every_steps": groups.sync_every_steps,
            "sync_nvlink_mib": _rounded(sent.nvlink / MIB),
            "sync_nic_mib": _rounded(sent.nic / MIB),
        }

    def save(self, path: str | Path) -> Path:
        """Write the plan as JSON, one line for each table and rank, atomically; return the path."""
        return plan_file.write(self._as_document(), Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan.

        Raises:
            PlanError: no such file, one of another format version, or one with a value that cannot be.
        """
        raw = plan_file.read(Path(path))
        try:
            return cls._from_document(raw)
        except PlanError as error:
            raise plan_file.within(Path(path), error) from error
        except (KeyError, ValueError) as error:
            reason = f"no key {error}" if isinstance(error, KeyError) else str(error)
            raise plan_file.damaged(Path(path), reason) from error

    def _as_document(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "cluster": self.cluster.as_dict(),
            **{key: getattr(self, key) for key in (*_PLAIN, *_GROUPS)},
            "table_communication": asdict(self.communication),
            "warnings": list(self.warnings),
            "estimate": self.estimate,
            "dense": None if self.dense is None else asdict(self.dense),
            "tables": [table.as_record() for table in self.tables],
            "memory": [rank.as_record() for rank in self.memory],
        }

    @classmethod
    def _from_document(cls, raw: dict[str, Any]) -> Plan:
        check_values(cls, raw, names={"communication": "table_communication"})
        plan = cls(
            tables=tuple(TablePlan.from_record(record) for record in raw["tables"]),
            cluster=Cluster.from_dict(raw["cluster"]),
            memory=tuple(RankMemory.from_record(rank) for rank in raw["memory"]),
            warnings=tuple(raw["warnings"]),
            dense=None if raw["dense"] is None else DensePart.from_record(raw["dense"]),
            # Plans of before have no such key: they reckon with fp32.
            communication=TableCommunication(**raw.get("table_communication", {})),
            verdict=raw["verdict"],
            **{key: raw[key] for key in _PLAIN},
            **{key: raw[key] for key in _GROUPS if key in raw},
        )
        ranks = plan.cluster.world_size
        if len(plan.memory) != ranks:
            raise ValueError(f"memory of {len(plan.memory)} ranks for {ranks} ranks")
        if any(rank.rank != number for number, rank in enumerate(plan.memory)):
            raise ValueError("the ranks of `memory` are not in their order")
        if plan.groups.count * plan.groups.shard_group_size != plan.cluster.world_size:
            raise ValueError(f"groups of {plan.table_shard_group_size} ranks of {plan.cluster.world_size}")
        fault = plan_fault(plan.tables, plan.cluster.part(plan.groups.shard_group_size))
        if fault is not None:
            raise ValueError(fault)
        return plan

    def diff(self, other: Plan) -> list[str]:
        """Return one line for each thing that differs, `this -> other`; an empty list for equal plans."""
        return plan_differences(self, other)

    def check(
        self,
        tables: Sequence[TableSpec],
        *,
        world_size: int,
        device: Literal["cuda", "cpu"],
        table_shard_group_size: int | None = None,
    ) -> None:
        """Refuse a plan that was made for another run.

        Args:
            tables: of the run.
            world_size: its ranks.
            device: of the ranks.
            table_shard_group_size: ranks that hold one copy of the tables; default all.

        Raises:
            PlanError: device, world size, groups or tables differ; each difference is named.
        """
        lines = []
        if device != self.cluster.device:
            lines.append(f"device: plan {self.cluster.device}, run {device}")
        if world_size != self.cluster.world_size:
            lines.append(f"ranks: plan {self.cluster.world_size}, run {world_size}")
        group, planned_group = table_shard_group_size or world_size, self.groups.shard_group_size
        if group != planned_group and (group, planned_group) != (world_size, self.cluster.world_size):
            lines.append(f"table_shard_group_size: plan {planned_group}, run {group}")
        planned, present = {t.name: t for t in self.tables}, {t.name: t for t in tables}
        lines += [f"table {name}: in the plan, not in the model" for name in planned if name not in present]
        lines += [f"table {name}: in the model, not in the plan" for name in present if name not in planned]
        for name in [name for name in planned if name in present]:
            for key in ("num_embeddings", "embedding_dim", "data_type", "pooling"):
                a, b = getattr(planned[name], key), getattr(present[name], key)
                lines += [f"table {name}: {key}: plan {a}, model {b}"] if a != b else []
        if device == "cpu":  # See `candidates.fills_every_rank`.
            lines += [
                f"table {table.name}: rank {shard.rank} gets no row; CPU kernels refuse that"
                for table in self.tables
                for shard in table.shards
                if not shard.rows
            ]
        if lines:
            raise PlanError(
                "the plan was made for another run",
                where=f"plan for {self.cluster}",
                got="\n           ".join(lines[:20] + [f"and {len(lines) - 20} more"] * (len(lines) > 20)),
                fixes=[
                    "make the plan again for this config, data set and number of ranks: shardrec plan",
                    "let train do it: --replan",
                ],
            )

    def against_constraints(self, tables: Sequence[TableSpec]) -> list[str]:
        """Return one line for each table that lies otherwise than its own constraints allow."""
        planned = {table.name: table for table in self.tables}
        return [
            line for table in tables if table.name in planned for line in planned[table.name].against(table)
        ]

    def inside_hosts(self) -> list[str]:
        """Return the tables that need as many ranks on each host as planned."""
        return [table.name for table in self.tables if table.sharding_type in HOST_TYPES]

    def check_trainable(self) -> None:
        """Refuse tables on SSD: the published builds of FBGEMM have no kernels for them (see `sharding.ssd`).

        Raises:
            PlanError: a table lies on SSD.
        """
        on_ssd = [table.name for table in self.tables if table.compute_kernel == KEY_VALUE]
        if on_ssd:
            raise PlanError(
                "tables on SSD (key_value) can be planned, but not trained: the published builds of FBGEMM "
                "have no kernels for them",
                where=f"tables.{on_ssd[0]}.compute_kernels",
                got=f"key_value for {', '.join(on_ssd[:5])}",
                allowed="fused, fused_uvm, fused_uvm_caching" if self.cluster.device == "cuda" else "fused",
                fixes=[f"tables.{on_ssd[0]}.compute_kernels: [fused_uvm_caching]", "train on more nodes"],
            )

    def check_optimizer(self, name: str) -> None:
        """Refuse a plan that was reckoned with another embedding optimizer.

        Raises:
            PlanError: it was.
        """
        if name != self.embedding_optimizer:
            raise PlanError(
                "the plan reckoned with another embedding optimizer",
                where="train.embedding_optimizer.name",
                got=name,
                allowed=self.embedding_optimizer,
                fixes=[
                    "plan again: memory and the sharding types on offer depend on the optimizer",
                    "let train do it: --replan",
                ],
            )

    def check_communication(self, communication: TableCommunication, batch_size_per_rank: int) -> None:
        """Refuse a plan that was reckoned with another precision of exchanges, or that a run's batch breaks.

        Args:
            communication: of the run.
            batch_size_per_rank: of the run.

        Raises:
            PlanError: it was, or vectors are not to be packed into `int8`.
        """
        if communication != self.communication:
            raise PlanError(
                "the plan reckoned with another precision of the exchange between ranks",
                where="train.table_communication"
                if communication.output_dtype == self.communication.output_dtype
                else "train.table_output_dtype",
                got=str(communication),
                allowed=str(self.communication),
                fixes=["plan again: times and bytes depend on the precision"],
            )
        communication.check_tables(self.tables, batch_size_per_rank)

    def sharding_plan(
        self,
        device: Literal["cuda", "cpu"],
        modules: Mapping[str, str] | None = None,
        first_rank: int = 0,
    ) -> ShardingPlan:
        """Return the plan as DistributedModelParallel takes it.

        Args:
            device: of the run; the plan's own.
            modules: path of each table's collection in the model, where it differs from the planned one.
            first_rank: of the group that the plan is for.

        Raises:
            PlanError: the plan was made for the other device.
        """
        if device != self.cluster.device:
            raise PlanError(
                f"the plan was made for {self.cluster.device}", where="plan", got=device, fixes=["plan again"]
            )
        local = self.cluster.local_world_size
        result: dict[str, EmbeddingModuleShardingPlan] = {}
        for table in self.tables:
            path = table.module if modules is None else modules[table.name]
            result.setdefault(path, EmbeddingModuleShardingPlan())[table.name] = table.parameter_sharding(
                device, local, first_rank, self.communication.output_type
            )
        return ShardingPlan(result)


def _rounded(value: float) -> float:
    """Return four significant digits, which the least tables have too."""
    return float(f"{value:.4g}")
