"""What ranks hold, part by part, against bytes counted by hand; the sums are the planner's."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType as OptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, SplitState
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
    construct_split_state,
)

from sharding.errors import PlanError
from sharding.id_buckets import BucketShape, IdBuckets, IdPolicy
from sharding.report import plan_report
from sharding.sharders import SHARDING_TYPES
from sharding.tables import TableSpec
from sharding.topology import Cluster
from sharding.verdicts import CannotFitError
from tests.unit.sharding.planning import plan_of

ROWS, DIM, BATCH, IDS = 4000, 32, 16, 5


def table(**settings: object) -> TableSpec:
    return replace(TableSpec("t", ROWS, DIM, ("f",), pooling_factors=(float(IDS),)), **settings)


@pytest.mark.parametrize(
    ("kind", "batches", "columns"),
    [
        ("table_wise", 4, DIM),
        ("row_wise", 1, DIM),
        ("table_row_wise", 2, DIM),
        ("column_wise", 4, 8),
        ("data_parallel", 1, DIM),
    ],
)
@pytest.mark.parametrize("data_type", ["fp32", "fp16"])
def test_ids_and_outputs_of_each_sharding_type(kind: str, batches: int, columns: int, data_type: str) -> None:
    spec = table(sharding_types=(kind,), data_type=data_type)
    plan = plan_of([spec], "2x2xh100", batch_size_per_rank=BATCH)
    for rank in (plan.memory[r] for r in plan.tables[0].ranks):
        assert rank.input_buffers == rank.pipeline_copies == batches * 8 * BATCH * IDS
        # Before their exchange a rank holds the embeddings of every rank's rows, in fp32 of fp16 tables too.
        rows = BATCH if kind == "data_parallel" else 4 * BATCH
        assert rank.output_buffers == rows * 4 * columns


@pytest.mark.parametrize("kind", SHARDING_TYPES)
@pytest.mark.parametrize("where", ["2x2xh100", "2x2xcpu"])
def test_the_parts_of_a_rank_come_to_what_the_planner_counts(kind: str, where: str) -> None:
    plan = plan_of([table(sharding_types=(kind,))], where, embedding_optimizer="adagrad")
    for rank in plan.memory:
        tables = rank.weights + rank.optimizer + rank.gradients + rank.cache + rank.buffers
        assert tables + rank.dense + rank.activations == rank.memory_used
        assert rank.reserve == int(plan.cluster.rank_hardware.memory_gib * 2**30 * 0.15)


@pytest.mark.parametrize("ranks", [1, 4])
def test_slots_of_ids_take_what_their_tensors_take(ranks: int) -> None:
    policy = IdPolicy("lru")
    shape = BucketShape.of(ROWS)
    whole = IdBuckets(shape.buckets, shape.slots, policy)
    held = sum(tensor.nbytes for tensor in (whole.ids_BE, whole.counts_BE, whole.seen_BE))
    where = f"1x{ranks}xh100"
    with_ids, without = (plan_of([table(ids=ids)], where) for ids in (policy, None))
    for rank, other in zip(with_ids.memory, without.memory, strict=True):
        # Up to 63 rows are in no bucket.
        assert held / ranks <= rank.id_slots <= (held + 48 * 65) / ranks + 1
        assert rank.memory_used - other.memory_used == rank.id_slots
    assert "id slots" in plan_report(with_ids)
    assert "id slots" not in plan_report(without)


def test_slots_of_ids_may_be_too_many_for_a_rank() -> None:
    many = table(num_embeddings=2_000_000_000, embedding_dim=4, ids=IdPolicy("lru"))
    with pytest.raises(PlanError, match="slots of ids that come and go do not fit one rank"):
        plan_of([many], "1x1xh100")


def test_cpu_ranks_fetch_no_ids_ahead() -> None:
    plan = plan_of([table(sharding_types=("table_wise",))], "1x1xcpu", batch_size_per_rank=BATCH)
    assert (plan.memory[0].input_buffers, plan.memory[0].pipeline_copies) == (8 * BATCH * IDS, 0)
    assert plan.memory[0].output_buffers == BATCH * 4 * DIM


def test_uvm_tables_are_in_host_memory_and_their_cache_in_hbm() -> None:
    big = table(
        num_embeddings=1_000_000,
        sharding_types=("table_wise",),
        compute_kernels=("fused_uvm_caching",),
        cache_load_factor=0.25,
    )
    plan = plan_of([big], "1x1xh100", batch_size_per_rank=BATCH, embedding_optimizer="adam")
    (rank,) = plan.memory
    assert (rank.weights, rank.optimizer) == (0, 0)
    assert (rank.host_weights, rank.host_optimizer) == (128_000_000, 2 * 128_000_000)
    # A quarter of the rows, and bookkeeping for each row.
    assert 32_000_000 <= rank.cache < 32_000_000 + 1_000_000 * 32
    assert rank.output_buffers == BATCH * 4 * DIM


# Of each moment: whether it is one number for each row.
MOMENTS = {
    "sgd": (),
    "adagrad": (False,),
    "rowwise_adagrad": (True,),
    "partial_rowwise_adam": (False, True),
    "adam": (False, False),
    "lamb": (False, False),
}


@pytest.mark.parametrize("optimizer", MOMENTS)
@pytest.mark.parametrize(
    ("kernel", "location"),
    [
        ("fused_uvm", EmbeddingLocation.MANAGED),
        ("fused_uvm_caching", EmbeddingLocation.MANAGED_CACHING),
        ("fused", EmbeddingLocation.DEVICE),
    ],
)
def test_optimizer_state_is_counted_where_fbgemm_puts_it(
    kernel: str, location: EmbeddingLocation, optimizer: str
) -> None:
    specs = [(ROWS, DIM, location, ComputeDevice.CUDA)]
    splits = [construct_split_state(specs, rowwise, cacheable=False) for rowwise in MOMENTS[optimizer]]
    one = table(sharding_types=("table_wise",), compute_kernels=(kernel,), cache_load_factor=0.1)
    (rank,) = plan_of([one], "1x1xh100", embedding_optimizer=optimizer).memory
    assert rank.optimizer == 4 * sum(split.dev_size for split in splits)
    assert rank.host_optimizer == 4 * sum(split.uvm_size for split in splits)
    tables = rank.weights + rank.optimizer + rank.cache + rank.buffers
    assert tables + rank.dense == rank.memory_used
    assert rank.host_used == (0 if kernel == "fused" else 4 * ROWS * DIM) + rank.host_optimizer


OPTIMIZERS = {
    "sgd": OptimType.EXACT_SGD,
    "adagrad": OptimType.EXACT_ADAGRAD,
    "rowwise_adagrad": OptimType.EXACT_ROWWISE_ADAGRAD,
    "partial_rowwise_adam": OptimType.PARTIAL_ROWWISE_ADAM,
    "adam": OptimType.ADAM,
    "lamb": OptimType.LAMB,
}


class Built(Exception):  # noqa: N818
    """FBGEMM has made weights and optimizer state."""


def made_by_fbgemm(
    patch: pytest.MonkeyPatch, location: EmbeddingLocation, optimizer: str, enforce_hbm: bool
) -> Counter[tuple[str, str]]:
    """Return the bytes that FBGEMM's own constructor asks for, by tensor and memory, without a GPU."""
    made: Counter[tuple[str, str]] = Counter()

    def allocate(
        _: object, split: SplitState, prefix: str, dtype: torch.dtype, enforce_hbm: bool = False, **__: object
    ) -> None:
        made[prefix, "hbm"] += dtype.itemsize * (split.dev_size + enforce_hbm * split.uvm_size)
        made[prefix, "host"] += dtype.itemsize * (not enforce_hbm) * split.uvm_size

    def stop(*_: object) -> None:
        raise Built

    patch.setattr(SplitTableBatchedEmbeddingBagsCodegen, "_apply_split", allocate)
    patch.setattr(SplitTableBatchedEmbeddingBagsCodegen, "_apply_cache_state", stop)
    with pytest.raises(Built):
        SplitTableBatchedEmbeddingBagsCodegen(
            [(ROWS, DIM, location, ComputeDevice.CUDA)],
            optimizer=OPTIMIZERS[optimizer],
            enforce_hbm=enforce_hbm,
            device="cpu",
        )
    return made


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("enforce_hbm", [False, True])
@pytest.mark.parametrize(
    ("kernel", "location"),
    [("fused_uvm", EmbeddingLocation.MANAGED), ("fused_uvm_caching", EmbeddingLocation.MANAGED_CACHING)],
)
def test_enforced_hbm_holds_what_fbgemm_puts_there(
    monkeypatch: pytest.MonkeyPatch,
    kernel: str,
    location: EmbeddingLocation,
    enforce_hbm: bool,
    optimizer: str,
) -> None:
    one = table(sharding_types=("table_wise",), compute_kernels=(kernel,), enforce_hbm=enforce_hbm or None)
    (rank,) = plan_of([one], "1x1xh100", embedding_optimizer=optimizer).memory
    made = made_by_fbgemm(monkeypatch, location, optimizer, enforce_hbm)
    state = {place: made["momentum1", place] + made["momentum2", place] for place in ("hbm", "host")}
    assert (rank.weights, rank.host_weights) == (made["weights", "hbm"], made["weights", "host"])
    assert (rank.optimizer, rank.host_optimizer) == (state["hbm"], state["host"])
    assert rank.weights + rank.optimizer + rank.cache + rank.buffers + rank.dense == rank.memory_used


def test_a_second_moment_that_leaves_enforced_hbm_is_no_proof_against_a_plan() -> None:
    # 95 GiB of weights, as many of each moment, and 272 GiB of HBM: the second moment is in host memory.
    big = table(
        num_embeddings=200_000_000, embedding_dim=128, compute_kernels=("fused_uvm",), enforce_hbm=True
    )
    (one, *_), rows = plan_of([big], "1x4xh100", embedding_optimizer="adam").memory, 50_000_000
    assert one.host_used == rows * 128 * 4
    with pytest.raises(CannotFitError) as error:
        plan_of([replace(big, num_embeddings=300_000_000)], "1x4xh100", embedding_optimizer="adam")
    assert "tables.t.enforce_hbm: false (needs 429 GiB of host memory)" in error.value.fixes


def test_state_by_row_of_uvm_tables_may_be_too_much_for_hbm() -> None:
    many = table(num_embeddings=25_000_000_000, embedding_dim=4, data_type="fp16")
    many = replace(many, compute_kernels=("fused_uvm_caching",), cache_load_factor=0.001)
    # 4 bytes a row of state in HBM; the 8 bytes of each row itself fit the host memory.
    with pytest.raises(CannotFitError, match=r"need 93\.1 GiB, 68 GiB left") as error:
        plan_of([many], "1x1xh100", embedding_optimizer="rowwise_adagrad")
    assert "embedding_optimizer.name: sgd" in error.value.fixes[1]
    assert len(error.value.fixes) == 2


def test_an_epoch_takes_and_costs_what_its_steps_do() -> None:
    plan = plan_of([table()], Cluster.parse("1xp5.48xlarge"), batch_size_per_rank=1000)
    step_ms = plan.step.total_ms
    priced = replace(plan, rows_per_epoch=8_000_000).estimate  # 1,000 steps of 8 ranks
    assert priced["epoch_hours"] == pytest.approx(1000 * step_ms / 3.6e6, rel=1e-3)
    assert priced["price_per_epoch"] == pytest.approx(55.04 * 1000 * step_ms / 3.6e6, rel=1e-3)
    assert plan.estimate["epoch_hours"] is None
    assert plan.estimate["price_per_epoch"] is None
