from __future__ import annotations

import copy
from typing import Any

import pytest
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.estimator.annotations import forward_compute, get_forward_compute
from torchrec.distributed.planner.shard_estimators import EmbeddingPerfEstimator
from torchrec.distributed.planner.types import ParameterConstraints, ShardingOption
from torchrec.distributed.types import PipelineType

from sharding.communication import FULL_PRECISION, TableCommunication
from sharding.estimates import DistinctShardEstimator, ListedPerfConfig
from sharding.memory import TableStorageEstimator
from sharding.sharders import SHARDING_TYPES, sharders
from sharding.tables import TableSpec
from sharding.topology import Cluster, topology
from tests.unit.sharding.planning import model_of

TABLES = [
    # Rows that no number of ranks divides, and fewer rows than ranks.
    TableSpec("odd", 100_003, 64, ("a", "b"), pooling_factors=(1.0, 20.0)),
    TableSpec("few", 5, 16, ("c",)),
    TableSpec("wide", 10**6, 128, ("d",), data_type="fp16"),
    TableSpec("history", 1000, 32, ("e",), pooling="none", pooling_factors=(30.0,)),
]


def options_of(
    cluster: Cluster, distinct: bool, communication: TableCommunication = FULL_PRECISION
) -> list[ShardingOption]:
    left = topology(cluster)
    constraints = {
        table.name: ParameterConstraints(
            sharding_types=list(SHARDING_TYPES),
            pooling_factors=list(table.pooling_factors or [1.0]),
            min_partition=16,
            feature_names=list(table.features),
        )
        for table in TABLES
    }
    storage = TableStorageEstimator(
        left,
        constraints,
        {table.name: table for table in TABLES},
        "rowwise_adagrad",
        pipeline_type=PipelineType.TRAIN_SPARSE_DIST,
        run_embedding_at_peak_memory=True,
    )
    stock: Any = [EmbeddingPerfEstimator(left, constraints), storage]
    estimator = DistinctShardEstimator(left, constraints, [storage]) if distinct else stock
    enumerator = EmbeddingEnumerator(left, 512, constraints, estimator)
    return list(enumerator.enumerate(model_of(TABLES), sharders(communication)))


@pytest.mark.parametrize("communication", [FULL_PRECISION, TableCommunication("int8", "bf16")], ids=str)
@pytest.mark.parametrize("cluster", ["1x8xh100", "4x8xh100", "1x3xcpu"])
def test_every_shard_is_priced_as_torchrec_prices_it(cluster: str, communication: TableCommunication) -> None:
    where = Cluster.parse(cluster)
    ours, theirs = (options_of(where, distinct, communication) for distinct in (True, False))

    def by_key(options: list[ShardingOption]) -> dict[Any, Any]:
        return {
            (o.name, o.sharding_type, o.compute_kernel): [
                (s.size, s.offset, s.perf, s.storage) for s in o.shards
            ]
            for o in options
        }

    assert len(ours) > 20
    assert by_key(ours) == by_key(theirs)


def test_copies_of_shards_have_ranks_of_their_own() -> None:
    option = options_of(Cluster.parse("1x8xh100"), distinct=True)[0]
    again = copy.deepcopy(option)
    again.shards[0].rank = 5
    assert option.shards[0].rank is None
    assert again.shards[0].perf == option.shards[0].perf


def test_a_config_with_a_method_of_its_own_is_heard() -> None:
    class Measured(ListedPerfConfig):
        @forward_compute(sharding_type="table_wise")
        def measured(self, context: Any) -> float:
            return 7.0

    assert get_forward_compute(Measured(), "table_wise")(None) == 7.0
    assert get_forward_compute(Measured(), "row_wise") is None
    assert get_forward_compute(ListedPerfConfig(), "table_wise") is None
