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
from sharding.dense_part import DensePart
from sharding.errors import PlanError
from sharding.rank_plan import RankMemory, RankStep
from sharding.step_time import BASIS, StepTime, step_time
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
_ESTIMATES = (
    "hbm_max_gib",
    "host_memory_max_gib",
    "step_ms",
    "samples_per_second",
    "imbalance",
    "nvlink_max_mib",
    "nic_max_mib",
    "price_per_hour",
    "price_per_epoch",
)


@dataclass(frozen=True)
class Plan:
    """A sharding plan that fits, with the cluster it was made for.

    Attributes:
        tables: in the order of the table list.
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
    verdict: Verdict = "fits"

    @property
    def step(self) -> StepTime:
        """Return the estimated step, part by part."""
        return step_time(self.memory, self.cluster, self.dense)

    @property
    def estimate(self) -> dict[str, Any]:
        """Return what the plan costs: memory, traffic, and a time and a price that nobody calibrated."""
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
        sent = [rank.step.traffic.plus(dense) for rank in self.memory]
        return {
            "hbm_max_gib": _rounded(used if on_gpu else 0.0),
            "host_memory_max_gib": _rounded(host if on_gpu else used),
            "step_ms": _rounded(step_ms),
            "step_parts": {name: _rounded(value) for name, value in asdict(self.step).items()},
            "samples_per_second": _rounded(samples / step_ms * 1e3) if step_ms > 0 else None,
            "imbalance": _rounded(max(times) * len(times) / sum(times)) if max(times) > 0 else 1.0,
            "nvlink_max_mib": _rounded(max(each.nvlink for each in sent) / MIB),
            "nic_max_mib": _rounded(max(each.nic for each in sent) / MIB),
            "epoch_hours": None if hours is None else _rounded(hours),
            "price_per_hour": None if price is None else _rounded(price),
            "price_per_epoch": None if hours is None or price is None else _rounded(hours * price),
            "basis": BASIS,
        }

    def summary(self) -> dict[str, Any]:
        """Return the `--json` form of the plan verb, but for `plan`, the path it is saved under."""
        estimate = self.estimate
        basis = estimate.pop("basis")
        return {
            "verdict": self.verdict,
            "cluster": str(self.cluster),
            "ranks": self.cluster.world_size,
            **estimate,
            "estimate_basis": basis,
            "seconds": round(self.seconds, 3),
            "warnings": list(self.warnings),
            "plan": None,
        }

    def save(self, path: str | Path) -> Path:
        """Write the plan as JSON, one line for each table and rank, atomically; return the path."""
        return plan_file.write(self._as_document(), Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan.

        Raises:
            PlanError: no such file, a damaged one, or one of another format version.
        """
        raw = plan_file.read(Path(path))
        try:
            return cls._from_document(raw)
        except (KeyError, TypeError, ValueError, AttributeError, PlanError) as error:
            reason = f"no key {error}" if isinstance(error, KeyError) else str(error)
            raise plan_file.damaged(Path(path), reason) from error

    def _as_document(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "cluster": self.cluster.as_dict(),
            **{key: getattr(self, key) for key in _PLAIN},
            "warnings": list(self.warnings),
            "estimate": self.estimate,
            "dense": None if self.dense is None else asdict(self.dense),
            "tables": [table.as_record() for table in self.tables],
            "memory": [rank.as_record() for rank in self.memory],
        }

    @classmethod
    def _from_document(cls, raw: dict[str, Any]) -> Plan:
        plan = cls(
            tables=tuple(TablePlan.from_record(record) for record in raw["tables"]),
            cluster=Cluster.from_dict(raw["cluster"]),
            memory=tuple(RankMemory.from_record(rank) for rank in raw["memory"]),
            warnings=tuple(raw["warnings"]),
            dense=None if raw["dense"] is None else DensePart.from_record(raw["dense"]),
            verdict=raw["verdict"],
            **{key: raw[key] for key in _PLAIN},
        )
        if [rank.rank for rank in plan.memory] != list(range(plan.cluster.world_size)):
            raise ValueError(f"memory of {len(plan.memory)} ranks for {plan.cluster.world_size} ranks")
        return plan

    def diff(self, other: Plan) -> list[str]:
        """Return one line for each thing that differs, `this -> other`; an empty list for equal plans."""
        pairs = [
            ("cluster", str(self.cluster), str(other.cluster)),
            ("batch_size_per_rank", self.batch_size_per_rank, other.batch_size_per_rank),
            ("embedding_optimizer", self.embedding_optimizer, other.embedding_optimizer),
            ("storage_reserve_share", self.storage_reserve_share, other.storage_reserve_share),
            ("rows_per_epoch", self.rows_per_epoch, other.rows_per_epoch),
            ("dense_parallel", _dense_parallel(self.dense), _dense_parallel(other.dense)),
        ]
        lines = [f"{name}: {a} -> {b}" for name, a, b in pairs if a != b]
        if str(self.cluster) == str(other.cluster) and self.cluster != other.cluster:
            mine, theirs = (plan.cluster.as_dict()["hardware"] for plan in (self, other))
            lines += [f"hardware.{k}: {mine[k]} -> {theirs[k]}" for k in mine if mine[k] != theirs[k]]
        before, after = self.estimate, other.estimate
        lines += [
            f"{name}: {before[name]} -> {after[name]}" for name in _ESTIMATES if before[name] != after[name]
        ]
        mine_by, theirs_by = ({t.name: t for t in plan.tables} for plan in (self, other))
        lines += [f"table {name}: only in the first" for name in mine_by if name not in theirs_by]
        lines += [f"table {name}: only in the second" for name in theirs_by if name not in mine_by]
        for name in [name for name in mine_by if name in theirs_by]:
            lines += mine_by[name].differences(theirs_by[name])
        return lines

    def check(self, tables: Sequence[TableSpec], *, world_size: int, device: Literal["cuda", "cpu"]) -> None:
        """Refuse a plan that was made for another run.

        Raises:
            PlanError: device, world size or tables differ; each difference is named.
        """
        lines = []
        if device != self.cluster.device:
            lines.append(f"device: plan {self.cluster.device}, run {device}")
        if world_size != self.cluster.world_size:
            lines.append(f"ranks: plan {self.cluster.world_size}, run {world_size}")
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
                fixes=["make the plan again for this config, data set and number of ranks: shardrec plan"],
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
                fixes=["plan again: memory and the sharding types on offer depend on the optimizer"],
            )

    def sharding_plan(
        self, device: Literal["cuda", "cpu"], modules: Mapping[str, str] | None = None
    ) -> ShardingPlan:
        """Return the plan as DistributedModelParallel takes it.

        Args:
            device: of the run; the plan's own.
            modules: path of each table's collection in the model, where it differs from the planned one.

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
                device, local
            )
        return ShardingPlan(result)


def _dense_parallel(dense: DensePart | None) -> str | None:
    return None if dense is None else dense.parallel


def _rounded(value: float) -> float:
    """Return four significant digits, which the least tables have too."""
    return float(f"{value:.4g}")
