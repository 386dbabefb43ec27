from __future__ import annotations

import pytest

from sharding.errors import PlanError
from sharding.sharders import (
    SHARDING_TYPES,
    Device,
    PooledSharder,
    SequenceSharder,
    check_optimizer,
    check_tables,
    sharding_types_of,
)
from sharding.tables import TableSpec

POOLED = TableSpec("pooled", 100, 16, ("a",))
SEQUENCE = TableSpec("sequence", 100, 16, ("b",), pooling="none")


def table(**settings: object) -> TableSpec:
    return TableSpec("user_id", 100, 16, ("user_id",), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_all_types_are_offered_for_pooled_tables_and_four_for_sequences(device: Device) -> None:
    four = ("data_parallel", "table_wise", "row_wise", "column_wise")
    assert sharding_types_of(POOLED, "adagrad", device) == SHARDING_TYPES
    assert sharding_types_of(SEQUENCE, "adagrad", device) == four
    assert tuple(PooledSharder().sharding_types(device)) == SHARDING_TYPES
    assert tuple(SequenceSharder().sharding_types(device)) == four


def test_what_the_kernels_of_a_device_lack_is_offered_for_copies_on_every_rank() -> None:
    assert sharding_types_of(POOLED, "adam", "cuda") == SHARDING_TYPES
    assert sharding_types_of(POOLED, "adam", "cpu") == ("data_parallel",)
    assert sharding_types_of(SEQUENCE, "adamw", "cpu") == ("data_parallel",)
    assert "data_parallel" not in sharding_types_of(POOLED, "lamb", "cuda")


def test_a_table_that_may_not_be_copied_is_refused_where_the_optimizer_needs_that() -> None:
    with pytest.raises(PlanError) as error:
        check_tables([table(sharding_types=("row_wise",))], "cpu", "adam")
    assert error.value.where == "tables.user_id.sharding_types"
    assert error.value.allowed == ("data_parallel",)
    assert "on cpu with adam" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "device", "key", "got"),
    [
        ({"sharding_types": ("row_wise", "diagonal")}, "cpu", "sharding_types", "diagonal"),
        ({"sharding_types": ()}, "cpu", "sharding_types", "an empty list"),
        ({"sharding_types": ("grid_shard",), "pooling": "none"}, "cpu", "sharding_types", "grid_shard"),
        ({"compute_kernels": ("fused_uvm_caching",)}, "cpu", "compute_kernels", "fused_uvm_caching"),
        (
            {"sharding_types": ("row_wise",), "compute_kernels": ("dense",)},
            "cuda",
            "compute_kernels",
            "dense",
        ),
        ({"data_type": "bf16"}, "cpu", "data_type", "bf16"),
        ({"data_type": "int8"}, "cuda", "data_type", "int8"),
        ({"min_partition": 6}, "cuda", "min_partition", "6"),
        ({"pooling_factors": (1.0, 2.0)}, "cpu", "pooling_factors", "2"),
    ],
)
def test_what_no_kernel_meets_is_refused_with_table_got_and_allowed(
    settings: dict[str, object], device: str, key: str, got: str
) -> None:
    with pytest.raises(PlanError) as error:
        check_tables([POOLED, table(**settings)], device, "adagrad")  # type: ignore[arg-type]
    assert error.value.where == f"tables.user_id.{key}"
    assert str(error.value.got) == got
    assert error.value.allowed


def test_kernels_of_the_gpu_are_allowed_there() -> None:
    check_tables([table(compute_kernels=("fused_uvm_caching", "fused"), min_partition=8)], "cuda", "adam")


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_an_embedding_dim_that_the_kernels_cannot_hold_is_refused(device: Device) -> None:
    with pytest.raises(PlanError, match="multiple of 4") as error:
        check_tables([TableSpec("t", 10, 18, ("f",))], device, "sgd")
    assert error.value.allowed == [16, 20]


def test_an_optimizer_that_cpu_lacks_is_refused_before_anything_starts() -> None:
    with pytest.raises(PlanError) as error:
        check_optimizer("lamb", "cpu")
    assert error.value.where == "train.embedding_optimizer.name"
    assert error.value.allowed == (
        "rowwise_adagrad",
        "adagrad",
        "sgd",
        "adam",
        "adamw",
        "partial_rowwise_adam",
    )
    check_optimizer("lamb", "cuda")


@pytest.mark.parametrize(
    ("name", "device", "why"),
    [
        ("rowwise_adagrad", "cpu", "no weight decay"),
        ("sgd", "cuda", "no weight decay"),
        ("adagrad", "cuda", "no weight decay"),
        ("adam", "cuda", "an adamw"),
        ("adam", "cpu", "an adamw"),
    ],
)
def test_weight_decay_that_a_kernel_ignores_or_takes_for_another_is_refused(
    name: str, device: Device, why: str
) -> None:
    with pytest.raises(PlanError, match=why) as error:
        check_optimizer(name, device, 0.1)
    assert error.value.where == "train.embedding_optimizer.weight_decay"
    assert "train.embedding_l2=0.1" in error.value.fixes[0]
    for other in ("rowwise_adagrad", "adamw", "lamb"):
        check_optimizer(other, "cuda", 0.1)
    check_optimizer("adamw", "cpu", 0.1)
