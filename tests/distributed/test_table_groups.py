"""Groups of ranks with a copy of the tables each train like averaged copies, by a reference in torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from sharding.sharders import COLUMN_SPLITS
from sharding.topology import Cluster
from tests.distributed.group_cases import (
    BATCH,
    EPS,
    RATE,
    STEPS,
    Block,
    Case,
    Outcome,
    save_plans,
    train_cases,
)
from tests.distributed.sharding_cases import tables_of
from tests.support.ranks import run_distributed
from tests.support.reference_tables import reference_losses

pytestmark = pytest.mark.thorough

ONE_HOST = Cluster(ranks_per_node=4)
TWO_HOSTS = Cluster(nodes=2, ranks_per_node=2)
TYPES = ("table_wise", "row_wise", "column_wise", "data_parallel")


def cases_of(
    types: dict[str, tuple[str, ...]], optimizers: tuple[str, ...], sync_every: int = 1
) -> list[Case]:
    """Return a case for each pooling, type and optimizer that has one."""
    return [
        Case(f"{pooling}-{kind}-{optimizer}-{sync_every}", tables_of(kind, pooling), optimizer, sync_every)
        for pooling, kinds in types.items()
        for kind in kinds
        for optimizer in optimizers
        # The moment of a row is a mean over the columns of a shard: another optimizer by design.
        if not (optimizer == "rowwise_adagrad" and kind in COLUMN_SPLITS)
    ]


def check(cases: list[Case], cluster: Cluster, folder: Path) -> None:
    save_plans(cases, cluster, folder)
    ranks = run_distributed(
        train_cases,
        cluster.world_size,
        cases,
        cluster,
        str(folder),
        local_world_size=cluster.local_world_size,
    )
    for case in cases:
        losses, weights, moments = case.reference()
        assert losses[-1] < losses[0] - 0.01, "the reference must learn, else the test proves nothing"
        for outcomes in ranks:
            outcome = outcomes[case.name]
            # A sum in fp16 is rounded before it is halved, and a step on that is another one.
            gap = 1e-3 if any(table.data_type == "fp16" for table in case.tables) else 1e-5
            assert outcome.losses == pytest.approx(losses, abs=gap), case.name
            assert_blocks(outcome.weights, weights, gap, case.name)
            assert_blocks(outcome.moments, moments, 1e-6, case.name)
        if case.optimizer != "sgd":
            assert all(any(rank[case.name].moments.get(t.name) for rank in ranks) for t in case.tables)
        assert_each_group_holds_everything(case, [rank[case.name] for rank in ranks])


def assert_blocks(found: dict[str, list[Block]], expected: dict[str, Tensor], gap: float, name: str) -> None:
    for table, blocks in found.items():
        for block in blocks:
            np.testing.assert_allclose(
                block.values, _part(expected[table], block), atol=gap, rtol=0, err_msg=name
            )


def _part(whole: Tensor, block: Block) -> NDArray[np.float32]:
    values = block.values
    rows = whole.numpy()[block.row : block.row + len(values)]
    if values.ndim == 1:  # A moment of each row, which the reference keeps in every column.
        return rows[:, 0]
    return rows[:, block.column : block.column + values.shape[1]]


def assert_each_group_holds_everything(case: Case, ranks: list[Outcome]) -> None:
    for table in case.tables:
        size = table.num_embeddings * table.embedding_dim
        held = [sum(block.values.size for block in rank.weights[table.name]) for rank in ranks]
        copies = 2 if table.sharding_types == ("data_parallel",) else 1
        assert sum(held[:2]) == sum(held[2:]) == copies * size


def test_groups_in_a_host_train_as_averaged_copies(tmp_path: Path) -> None:
    cases = cases_of({"sum": TYPES, "none": TYPES}, ("sgd", "adagrad"))
    (half,) = cases_of({"sum": ("row_wise",)}, ("sgd",), sync_every=2)
    tables = tuple(replace(table, data_type="fp16") for table in half.tables)
    cases.append(replace(half, name="half", tables=tables))
    cases += cases_of({"mean": ("row_wise", "table_wise"), "none": ("row_wise",)}, ("rowwise_adagrad",))
    check(cases, ONE_HOST, tmp_path)


def test_groups_of_whole_hosts_train_as_averaged_copies(tmp_path: Path) -> None:
    types = ("table_row_wise", "table_column_wise", "grid_shard", "row_wise", "data_parallel")
    check(cases_of({"sum": types, "none": ("row_wise",)}, ("sgd", "adagrad")), TWO_HOSTS, tmp_path)


def test_copies_drift_apart_between_syncs_as_the_reference_says(tmp_path: Path) -> None:
    rare = cases_of(
        {"sum": ("row_wise",), "none": ("table_wise",)}, ("adagrad", "rowwise_adagrad"), sync_every=3
    )
    rare += cases_of({"sum": ("column_wise", "data_parallel")}, ("sgd",), sync_every=3)
    check(rare, ONE_HOST, tmp_path)
    for case in rare[:2]:
        often = replace(case, sync_every=1).reference()[0]
        assert case.reference()[0][1:] != pytest.approx(often[1:], abs=1e-4)


@pytest.mark.parametrize("case", cases_of({"sum": ("row_wise",), "none": ("row_wise",)}, ("sgd",)), ids=str)
def test_averaging_after_every_step_of_sgd_is_the_unsharded_model(case: Case) -> None:
    unsharded = reference_losses(
        case.tables, optimizer="sgd", learning_rate=RATE, eps=EPS, steps=STEPS, size=BATCH
    )
    assert case.reference()[0] == pytest.approx(unsharded, abs=1e-6)


def test_averaging_after_every_step_of_adagrad_is_another_optimizer() -> None:
    """Each copy squares the gradients of its own rows: smaller batches, larger moments."""
    (case,) = cases_of({"sum": ("row_wise",)}, ("adagrad",))
    losses, _, moments = case.reference()
    one, _, whole = case.reference(groups=1)
    assert losses[1:] != pytest.approx(one[1:], abs=1e-4)
    assert sum(float(m.sum()) for m in moments.values()) > 1.2 * sum(float(m.sum()) for m in whole.values())


def test_a_dense_part_in_parts_trains_beside_groups(tmp_path: Path) -> None:
    cases = [
        replace(case, name=f"{case.name}-{dense}", dense=dense)
        for case in cases_of({"sum": ("row_wise", "data_parallel"), "none": ("table_wise",)}, ("sgd",))
        for dense in ("fsdp", "hsdp")
    ]
    check(cases, ONE_HOST, tmp_path)
