"""The what-if configs that ship hold the parameters that they speak of, and fit the clusters named here."""

from __future__ import annotations

from pathlib import Path

import pytest

import jobs
from jobs import RunConfig, plan
from sharding.topology import Cluster

CONFIGS = Path(jobs.__file__).parent / "configs"
CASES = {
    "criteo_1tb_dlrm": ("1x8xh100", 204_184_588 * 128),
    "whatif_dlrm_1_25t": ("16xp5.48xlarge", 1.25e12),
    "whatif_dlrm_3t": ("16xp5.48xlarge", 3e12),
    "whatif_dhen_hsdp": ("8xp5.48xlarge", None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_shipped_whatif_config_fits_its_cluster(name: str) -> None:
    cluster, parameters = CASES[name]
    made = plan(RunConfig.load(CONFIGS / f"{name}.yaml"), cluster=Cluster.parse(cluster))
    assert not made.warnings
    assert max(rank.memory_used for rank in made.memory) < 0.85 * 80 * 2**30
    if parameters is not None:
        found = sum(table.num_embeddings * table.embedding_dim for table in made.tables)
        assert found == pytest.approx(parameters, rel=1e-6)
