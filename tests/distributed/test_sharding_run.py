"""What a run relies on besides equal losses: which parameters are whose, memory, errors, checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from sharding.errors import PlanError
from sharding.given_rows import GivenRows, count_rows, in_step
from sharding.optimizers import FusedOptimizer
from sharding.plan import Plan
from sharding.topology import Cluster
from sharding.weights import local_parts, uniform_block
from sharding.wrap import (
    build_table_optimizer,
    data_parallel_table_parameters,
    dense_parameters,
    initialise_tables,
    shard_model,
    table_weights,
)
from tests.distributed.sharding_cases import BATCH, BY_HOST, MIXED, Case, save_plans, tables_of
from tests.support.ranks import run_distributed
from tests.support.reference_tables import SEED, TableModel, make_batch, to_kjt
from trainer.errors import DataError

CPU = torch.device("cpu")
RESHARDED = [
    ("sum", "data_parallel", "row_wise"),
    ("sum", "row_wise", "data_parallel"),
    ("sum", "column_wise", "table_wise"),
    ("sum", "table_row_wise", "grid_shard"),
    ("sum", "grid_shard", "table_column_wise"),
    ("none", "row_wise", "data_parallel"),
    ("none", "data_parallel", "column_wise"),
]
BY_GRID = Case("sum-grid_shard", tables_of("grid_shard", "sum"), "adagrad")
Start = tuple[DistributedModelParallel, CombinedOptimizer]


def start(case: Case, folder: str) -> Start:
    plan = Plan.load(Path(folder) / f"{case.name}.json")
    dmp = shard_model(TableModel(case.tables), plan, case.tables, case.fused, device=CPU)
    initialise_tables(dmp, case.tables, SEED)
    return dmp, build_table_optimizer(dmp, case.tables, case.fused)


def train(start: Start, case: Case, rank: int, world_size: int, steps: range) -> list[float]:
    dmp, optimizer = start
    rows = range(rank * BATCH // world_size, (rank + 1) * BATCH // world_size)
    losses = []
    for step in steps:
        ids, labels = make_batch(case.tables, step, BATCH)
        optimizer.zero_grad()
        loss = dmp(to_kjt(ids, rows), labels[rows.start : rows.stop])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def everything_on_rank(rank: int, world_size: int, folder: str) -> dict[str, Any]:
    """Collect, in one launch, what the tests below look at."""
    case = Case("mixed", MIXED, "adagrad")
    dmp, optimizer = start(case, folder)
    state = [v for states in optimizer.state_dict()["state"].values() for v in states.values()]
    return {
        "dense": [name for name, _ in dense_parameters(dmp)],
        "replicated": [name for name, _ in data_parallel_table_parameters(dmp)],
        "state_bytes": sum(block.nbytes for value in state for block, _, _ in local_parts(value)),
        "weight_bytes": sum(
            block.nbytes
            for name, value in dmp.state_dict().items()
            if "embedding" in name
            for block, _, _ in local_parts(value)
        ),
        "errors": refusals(case, folder),
        "resharded": resharded(rank, world_size, folder),
        "steps": step_counts(rank),
        "given": [given_rows(each, folder) for each in (case, BY_GRID)],
    }


def given_rows(case: Case, folder: str) -> dict[str, int]:
    """Write every second row of each table, 12 of 16 columns; check each block and return the counts."""
    weights, counts = table_weights(start(case, folder)[0]), {}
    for table in case.tables:
        rows, columns = np.arange(0, table.num_embeddings, 2), 12
        vectors = np.random.default_rng(0).standard_normal((len(rows), columns)).astype(np.float32)
        given, half = GivenRows(weights[table.name]), len(rows) // 2
        # Row -1 stands for an id that the table lacks.
        assert given.write(np.append(rows[:half], -1), vectors[: half + 1]) is None
        assert given.write(rows[half:], vectors[half:]) is None
        assert given.is_empty or given.write(rows, vectors) is not None
        expected = uniform_block(
            SEED,
            table.name,
            range(table.num_embeddings),
            range(table.embedding_dim),
            table_shape=(table.num_embeddings, table.embedding_dim),
        )
        expected[torch.from_numpy(rows), :columns] = torch.from_numpy(vectors)
        for block, row, column in local_parts(weights[table.name]):
            wanted = expected[row : row + block.shape[0], column : column + block.shape[1]]
            assert torch.equal(block, wanted), table.name
        every: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(every, given.counts())
        counts[table.name] = count_rows(every)
    return counts


def step_counts(rank: int) -> tuple[int, str]:
    """Take rank + 1 steps in step with the others; then fail on one rank in its second step."""
    taken = 0

    def steps(failing: bool) -> Iterator[None]:
        nonlocal taken
        for _ in range(rank + 1):
            taken += 1
            yield
        if failing:
            raise DataError("one rank's file is damaged")

    in_step(steps(False), CPU)
    with pytest.raises(DataError) as error:
        in_step(steps(rank == 1), CPU)
    return taken, error.value.what


def refusals(case: Case, folder: str) -> dict[str, str]:
    plan = Plan.load(Path(folder) / "mixed.json")
    alone = dist.new_group([dist.get_rank()], use_local_synchronization=True)
    hosts = Plan.load(Path(folder) / "hosts.json")
    attempts: dict[str, dict[str, Any]] = {
        "ranks": {"process_group": alone},
        "device": {"device": torch.device("cuda", 0)},
        "optimizer": {"optimizer": FusedOptimizer("sgd")},
        "lamb": {"optimizer": FusedOptimizer("lamb")},
        "decay": {"optimizer": FusedOptimizer("adagrad", weight_decay=0.1)},
        "rows": {"tables": [replace(case.tables[0], num_embeddings=5), *case.tables[1:]]},
        "hosts": {"plan": hosts, "tables": BY_HOST, "model": TableModel(BY_HOST)},
    }
    messages = {}
    for name, changes in attempts.items():
        model = changes.pop("model", None) or TableModel(case.tables)
        arguments = {"plan": plan, "tables": case.tables, "optimizer": case.fused, "device": CPU, **changes}
        with pytest.raises(PlanError) as error:
            shard_model(model, **arguments)
        messages[name] = str(error.value)
    return messages


def resharded(rank: int, world_size: int, folder: str) -> dict[str, list[list[float]]]:
    """Train, save, go on; and load the checkpoint under other sharding types and go on the same."""
    result = {}
    for pooling, first, second in RESHARDED:
        path = str(Path(folder) / f"{pooling}-{first}-{second}")
        old, new = (
            Case(f"{pooling}-{name}", tables_of(name, pooling), "adagrad") for name in (first, second)
        )
        source = start(old, folder)
        train(source, old, rank, world_size, range(3))
        dcp.save({"model": source[0].state_dict(), "optim": source[1].state_dict()}, checkpoint_id=path)
        target = start(new, folder)
        loaded = {"model": target[0].state_dict(), "optim": target[1].state_dict()}
        dcp.load(loaded, checkpoint_id=path)
        target[0].load_state_dict(loaded["model"])
        target[1].load_state_dict(loaded["optim"])
        steps = range(3, 6)
        result[path] = [train(run, new, rank, world_size, steps) for run in (source, target)]
    return result


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("run")
    cluster = Cluster(ranks_per_node=2)
    cases = [Case("mixed", MIXED, "adagrad")]
    types = {(pooling, name) for pooling, *names in RESHARDED for name in names}
    cases += [
        Case(f"{pooling}-{name}", tables_of(name, pooling), "adagrad") for pooling, name in sorted(types)
    ]
    save_plans(cases, cluster, folder)
    # Made for two hosts of one rank; the test's ranks share one host.
    save_plans([Case("hosts", BY_HOST, "adagrad")], Cluster(nodes=2, ranks_per_node=1), folder)
    results = run_distributed(everything_on_rank, 2, str(folder), timeout=240)
    return Plan.load(folder / "mixed.json"), results


Run = tuple[Plan, list[dict[str, Any]]]


def test_dense_parameters_leave_out_every_table(two_ranks: Run) -> None:
    for result in two_ranks[1]:
        assert result["dense"] == ["over.weight", "over.bias"]
        assert result["replicated"] == ["bags.embedding_bags.replicated.weight"]


def test_tables_and_optimizer_state_take_the_bytes_that_the_plan_says(two_ranks: Run) -> None:
    plan, results = two_ranks
    for rank, result in enumerate(results):
        assert result["weight_bytes"] == plan.memory[rank].weights
        assert result["state_bytes"] == plan.memory[rank].optimizer


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        ("ranks", "ranks: plan 2, run 1"),
        ("device", "device: plan cpu, run cuda"),
        ("optimizer", "the plan reckoned with another embedding optimizer"),
        ("lamb", "the embedding optimizer is not offered on cpu"),
        ("decay", "no weight decay"),
        ("rows", "table by_table: num_embeddings: plan 31, model 5"),
        ("hosts", "2 ranks on this host (LOCAL_WORLD_SIZE)"),
    ],
)
def test_what_does_not_belong_together_is_refused_on_every_rank(
    two_ranks: Run, attempt: str, message: str
) -> None:
    for result in two_ranks[1]:
        assert message in result["errors"][attempt]


def test_a_checkpoint_goes_on_the_same_under_another_sharding_type(two_ranks: Run) -> None:
    for result in two_ranks[1]:
        assert len(result["resharded"]) == len(RESHARDED)
        for path, (unbroken, resumed) in result["resharded"].items():
            assert resumed == pytest.approx(unbroken, abs=1e-6), path
            assert unbroken[0] != pytest.approx(unbroken[-1], abs=1e-4)


def test_given_rows_land_on_their_ranks_and_are_counted_once(two_ranks: Run) -> None:
    for result in two_ranks[1]:
        for tables, counts in zip((MIXED, BY_GRID.tables), result["given"], strict=True):
            assert counts == {table.name: (table.num_embeddings + 1) // 2 for table in tables}


def test_ranks_in_step_end_together_and_fail_with_one_error(two_ranks: Run) -> None:
    told = [result["steps"] for result in two_ranks[1]]
    assert told == [(2, "one rank's file is damaged"), (4, "one rank's file is damaged")]
