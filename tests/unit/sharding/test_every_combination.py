"""Every sharding type, optimizer, pooling, data type and device: a plan, or an error naming the choices."""

from __future__ import annotations

import typing
from itertools import product

import pytest

from sharding.errors import PlanError
from sharding.sharders import SHARDING_TYPES, Device
from sharding.tables import Pooling, TableSpec
from tests.unit.sharding.planning import plan_of

OPTIMIZERS = ("rowwise_adagrad", "adagrad", "sgd", "adam", "partial_rowwise_adam", "lamb")
DATA_TYPES = ("fp32", "fp16", "bf16", "int8")
POOLINGS = typing.get_args(Pooling)
CLUSTERS: dict[Device, str] = {"cpu": "2x2xcpu", "cuda": "2x2xh100"}


def is_offered(kind: str, optimizer: str, pooling: str, data_type: str, device: Device) -> bool:
    """Say it once more, apart from the code: what FBGEMM and TorchRec train."""
    if device == "cpu" and data_type not in ("fp32", "fp16"):
        return False
    if device == "cpu" and kind != "data_parallel" and optimizer not in OPTIMIZERS[:3]:
        return False
    inside_hosts = kind in ("table_row_wise", "table_column_wise", "grid_shard")
    if data_type == "int8" or (pooling == "none" and inside_hosts):
        return False
    return kind != "data_parallel" or optimizer != "lamb"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_combination_is_planned_or_refused_with_what_there_is(device: Device, pooling: Pooling) -> None:
    for kind, optimizer, data_type in product(SHARDING_TYPES, OPTIMIZERS, DATA_TYPES):
        table = TableSpec(
            "user_id", 100, 32, ("user_id",), pooling, data_type=data_type, sharding_types=(kind,)
        )
        where = (kind, optimizer, pooling, data_type, device)
        if is_offered(*where):
            plan = plan_of([table], CLUSTERS[device], embedding_optimizer=optimizer)
            assert plan.tables[0].sharding_type == kind, where
            continue
        with pytest.raises(PlanError) as error:
            plan_of([table], CLUSTERS[device], embedding_optimizer=optimizer)
        assert str(error.value.where).startswith(("tables.user_id.", "train.embedding_optimizer.")), where
        assert error.value.got in (kind, optimizer, data_type), where
        assert error.value.allowed, where
