"""Ids beyond a table end the run or get the first row of a shard: `bounds_check_mode`, under every type."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torchrec.sparse.jagged_tensor import JaggedTensor

from sharding.plan import Plan
from sharding.sharders import SEQUENCE_TYPES, SHARDING_TYPES
from sharding.tables import Pooling, TableSpec, pooled_vectors
from sharding.topology import Cluster
from sharding.weights import uniform_block
from sharding.wrap import initialise_tables, shard_model
from tests.distributed.sharding_cases import Case, save_plans
from tests.support.ranks import run_distributed
from tests.support.reference_tables import SEED, TableModel, to_kjt

RANKS, ROWS, DIM = 2, 21, 8
FIRST_ROWS = {0, 11}
# One of them goes to each rank's rows, so that both ranks stop before they wait for the other.
BEYOND = [[2 * ROWS], [2 * ROWS + 1]]
# The dense kernel of data_parallel checks nothing.
KINDS: list[tuple[Pooling, str]] = [
    (pooling, kind)
    for pooling in get_args(Pooling)
    for kind in (SEQUENCE_TYPES if pooling == "none" else SHARDING_TYPES)
    if kind != "data_parallel"
]


def case_of(pooling: Pooling, kind: str, mode: str) -> Case:
    tables = [
        TableSpec(f"t{n}", ROWS, DIM, (f"f{n}",), pooling, sharding_types=(kind,), bounds_check_mode=mode)
        for n in range(RANKS)
    ]
    return Case(f"{pooling}-{kind}-{mode}", tuple(tables), "sgd")


def looked_up(rank: int, world_size: int, folder: str) -> dict[str, str | NDArray[np.float32]]:
    """Return for each case the error, or the vectors of the first feature."""
    found: dict[str, str | NDArray[np.float32]] = {}
    for pooling, kind in KINDS:
        for mode in ("fatal", "ignore"):
            case = case_of(pooling, kind, mode)
            plan = Plan.load(Path(folder) / f"{case.name}.json")
            dmp = shard_model(
                TableModel(case.tables), plan, case.tables, case.fused, device=torch.device("cpu")
            )
            initialise_tables(dmp, case.tables, SEED)
            try:
                found[case.name] = vectors(dmp.module, case)
            except RuntimeError as error:
                found[case.name] = str(error)
    return found


def vectors(model: Any, case: Case) -> NDArray[np.float32]:
    ids = to_kjt({feature: BEYOND for table in case.tables for feature in table.features}, range(2))
    if case.tables[0].pooling == "none":
        sequence: JaggedTensor = model.rows(ids)["f0"]
        return sequence.values().detach().numpy()
    return pooled_vectors(model.bags(ids), ids, case.tables)["f0"].detach().numpy()


def test_ids_beyond_a_table_end_the_run_or_get_the_first_row_of_a_shard(tmp_path: Path) -> None:
    cases = [case_of(*kind, mode) for kind in KINDS for mode in ("fatal", "ignore")]
    save_plans(cases, Cluster(ranks_per_node=RANKS), tmp_path)
    table = uniform_block(SEED, "t0", range(ROWS), range(DIM), table_shape=(ROWS, DIM)).numpy()
    for found in run_distributed(looked_up, RANKS, str(tmp_path)):
        for pooling, kind in KINDS:
            error = found[f"{pooling}-{kind}-fatal"]
            assert isinstance(error, str), (pooling, kind)
            assert "idx < num_rows" in error  # FBGEMM's words
            rows = found[f"{pooling}-{kind}-ignore"]
            for row in rows:
                assert any(np.array_equal(row, table[first]) for first in FIRST_ROWS), (pooling, kind)
