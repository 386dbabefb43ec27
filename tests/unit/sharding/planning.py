"""Models for the planning tests: tables on the meta device beside a dense layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from sharding.plan import Plan
from sharding.planner import make_plan
from sharding.tables import TableSpec, build_collections
from sharding.topology import Cluster


def model_of(tables: Sequence[TableSpec]) -> nn.Module:
    bags, rows = build_collections(tables)
    sparse = nn.ModuleDict({name: module for name, module in (("bags", bags), ("rows", rows)) if module})
    return nn.ModuleDict({"sparse": sparse, "over": nn.Linear(8, 1)})


def tables_of(count: int, **settings: Any) -> list[TableSpec]:
    return [
        TableSpec(f"t{i}", 100 * 3 ** (i % 10), settings.pop("dim", 32), (f"f{i}",), **settings)
        for i in range(count)
    ]


def plan_of(tables: Sequence[TableSpec], cluster: Cluster | str = "1x2xcpu", **settings: Any) -> Plan:
    where = Cluster.parse(cluster) if isinstance(cluster, str) else cluster
    arguments = {"batch_size_per_rank": 512, "embedding_optimizer": "rowwise_adagrad", **settings}
    return make_plan(model_of(tables), tables, where, **arguments)
