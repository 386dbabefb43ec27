from __future__ import annotations

import re

import pytest

from sharding.errors import PlanError
from sharding.hardware import HARDWARE
from sharding.machines import CATALOGUE, MACHINES
from sharding.topology import Cluster


def test_every_machine_has_known_gpus_and_a_price_with_source_and_date() -> None:
    assert len(MACHINES) >= 8
    for machine in MACHINES.values():
        assert machine.gpu in HARDWARE
        assert min(machine.gpus, machine.host_memory_gib, machine.nvlink_gbps, machine.nic_gbps) > 0
        assert machine.price_per_hour is not None
        assert re.search(r"\b20\d\d-\d\d-\d\d\b", machine.price_source or "")


def test_ranks_of_a_machine_share_host_network_and_price() -> None:
    p5 = CATALOGUE.rank_hardware(MACHINES["p5.48xlarge"])
    # 2,048 GiB and 3,200 Gb/s for 8 GPUs.
    assert (p5.host_memory_gib, p5.nic_gbps) == (256, 50)
    assert p5.price_per_hour == pytest.approx(55.04 / 8)
    assert (p5.hbm_gib, p5.bf16_tflops) == (80, 989)
    # EC2 shows 1,432 GiB of the 1,440 that NVIDIA lists.
    assert CATALOGUE.rank_hardware(MACHINES["p6-b200.48xlarge"]).hbm_gib == 179


def test_a_cluster_of_machines_costs_what_its_machines_cost() -> None:
    cluster = Cluster.parse("2xP5.48xlarge")
    assert (cluster.world_size, cluster.local_world_size, cluster.gpu) == (16, 8, "h100")
    assert str(cluster) == "2xp5.48xlarge"
    assert cluster.price_per_hour == pytest.approx(110.08)
    assert cluster.with_nodes(3).price_per_hour == pytest.approx(165.12)
    assert Cluster.from_dict(cluster.as_dict()) == cluster
    assert Cluster.parse("2x8xh100").price_per_hour is None


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("2x8xp5.48xlarge", "--cluster 2xp5.48xlarge"),
        ("2xh100", "--cluster 2x8xh100"),
        ("2xp5.49xlarge", "did you mean 'p5.48xlarge'?"),
    ],
)
def test_a_wrong_cluster_of_machines_says_what_to_write(text: str, fix: str) -> None:
    with pytest.raises(PlanError) as error:
        Cluster.parse(text)
    assert error.value.fixes == (fix,)
