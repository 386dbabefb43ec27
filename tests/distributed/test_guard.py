"""The guard's looks at sharded tables, layers and batches are those of one rank, whatever the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from sharding.plan import Plan
from sharding.topology import Cluster
from sharding.weights import local_parts, table_weights
from sharding.wrap import build_table_optimizer, initialise_tables, shard_model
from tests.distributed.sharding_cases import BATCH, MIXED, Case, save_plans
from tests.support.ranks import run_distributed
from tests.support.reference_tables import SEED, TableModel, make_batch, to_kjt
from trainer.guard.layers import LayerWatch
from trainer.guard.tables import TableWatch

CPU = torch.device("cpu")
TABLES = [table.name for table in MIXED]
LEARNING, FROZEN = Case("mixed", MIXED, "sgd"), ("history",)


def looks(rank: int, world_size: int, folder: str) -> dict[str, list[tuple[str, tuple[str, ...], str]]]:
    """Return what is found after a step, and after what the names say was done to the weights."""
    plan = Plan.load(Path(folder) / f"{world_size}" / "mixed.json")
    model = shard_model(TableModel(MIXED), plan, MIXED, LEARNING.fused, device=CPU)
    initialise_tables(model, MIXED, SEED)
    optimizer = build_table_optimizer(model, MIXED, LEARNING.fused)
    ids, labels = make_batch(MIXED, 0, BATCH)
    rows = range(rank * BATCH // world_size, (rank + 1) * BATCH // world_size)
    sparse = to_kjt(ids, rows)
    parts = {
        name: [part for part, _, _ in local_parts(weight)]
        for name, weight in table_weights(model.state_dict(), TABLES).items()
    }
    found: dict[str, Any] = {}

    def step() -> None:
        optimizer.zero_grad()
        model(sparse, labels[rows.start : rows.stop]).backward()
        optimizer.step()

    def look(what: str, *actions: Any) -> None:
        tables, layers = TableWatch(MIXED, model, CPU), LayerWatch(model)
        tables.begin(sparse, 10)
        with torch.no_grad():
            for action in actions[:-1]:
                action()
        actions[-1]()
        of_tables, of_layers = tables.figures(), layers.figures()
        figures = torch.cat([of_tables, of_layers])
        dist.all_reduce(figures)
        told = tables.findings(figures[: len(of_tables)], 60)
        told += layers.findings(figures[len(of_tables) :], 100.0, 60)
        found[what] = [(finding.code, finding.subjects, finding.what) for finding in told]

    def put(name: str, value: Tensor | float) -> None:
        for part in parts[name]:
            part.copy_(torch.as_tensor(value).expand_as(part))

    look("a step", step)
    look("nothing", lambda: None)
    look("large", lambda: [part.mul_(1000.0) for part in parts["by_row"]], step)
    # As a run that was taken up again after the explosion: by what it was before, or by what is left.
    for what, sizes in (("resumed", {"by_row": 0.1}), ("unknown", None)):
        tables = TableWatch(MIXED, model, CPU, sizes)
        tables.begin(sparse, 10)
        figures = tables.figures()
        dist.all_reduce(figures)
        codes = {finding.code: finding.subjects for finding in tables.findings(figures, 60, at_rate_0=True)}
        found[what] = [(code, subjects, "") for code, subjects in codes.items()]
    look("zeros", lambda: [put(name, 0.0) for name in ("by_column", "replicated")], lambda: None)
    look("the same", lambda: [put(name, 0.5) for name in ("by_table", "history")], lambda: None)
    look("not finite", lambda: put("by_row", torch.nan), lambda: None)
    found["named"] = TableWatch(MIXED, model, CPU).not_finite() if rank == 0 else []
    initialise_tables(model, MIXED, SEED)
    with torch.no_grad():
        next(parameter for name, parameter in model.named_parameters() if "over" in name).zero_()
    look("a dead layer", step)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("guard")
    for ranks in (1, 2):
        (folder / str(ranks)).mkdir()
        save_plans([LEARNING], Cluster(ranks_per_node=ranks), folder / str(ranks))
    results = {ranks: run_distributed(looks, ranks, str(folder)) for ranks in (1, 2)}
    assert results[2][0] | {"named": 0} == results[2][1] | {"named": 0}
    return {ranks: each[0] for ranks, each in results.items()}


def test_two_ranks_find_what_one_finds(found: dict[int, dict[str, Any]]) -> None:
    assert found[2] == found[1]


def test_each_table_is_told_by_what_was_done_to_it(found: dict[int, dict[str, Any]]) -> None:
    told = {
        what: [(code, set(subjects)) for code, subjects, _ in findings]
        for what, findings in found[1].items()
        if what != "named"
    }
    assert told["a step"] == []
    assert told["nothing"] == [("table_dead", set(TABLES))]
    assert told["large"] == [("table_exploding", {"by_row"})]
    assert told["resumed"] == [("table_exploding", {"by_row"})]
    assert told["unknown"] == []
    assert told["zeros"] == [
        ("table_dead", set(TABLES) - {"by_column", "replicated"}),
        ("table_collapsed", {"by_column", "replicated"}),
    ]
    assert ("table_collapsed", {"by_column", "replicated", "by_table", "history"}) in told["the same"]
    assert ("table_exploding", {"by_row"}) in told["not finite"]
    assert found[1]["named"] == ["by_row"]
    # Nothing comes back through weights of 0, and the weights themselves learn still.
    assert told["a dead layer"] == [("table_dead", set(TABLES))]
