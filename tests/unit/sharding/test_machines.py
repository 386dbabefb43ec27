from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from sharding.errors import PlanError
from sharding.hardware import HARDWARE
from sharding.machines import CATALOGUE, MACHINES, Machine
from sharding.topology import Cluster

DATE = re.compile(r"\b20\d\d-\d\d-\d\d\b")


def test_every_machine_has_known_gpus_and_a_source() -> None:
    for name, machine in MACHINES.items():
        assert name == machine.name.lower()
        assert machine.gpu in HARDWARE
        assert min(machine.gpus, machine.host_memory_gib, machine.nvlink_gbps, machine.nic_gbps) > 0
        assert machine.name in machine.source


def test_every_price_has_a_source_with_a_date() -> None:
    priced = [machine for machine in MACHINES.values() if machine.price_per_hour is not None]
    assert len(priced) >= 15
    assert all(DATE.search(machine.price_source or "") for machine in priced)
    assert all(machine.price_source is None for machine in MACHINES.values() if machine not in priced)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=lambda machine: machine.name)
@pytest.mark.parametrize("spelt", [str, str.lower, str.upper])
def test_every_machine_makes_a_cluster_of_its_shares(machine: Machine, spelt: Callable[[str], str]) -> None:
    cluster = Cluster.parse(f"4x{spelt(machine.name)}")
    assert str(cluster) == f"4x{machine.name}"
    assert cluster.world_size == 4 * machine.gpus
    rank = cluster.rank_hardware
    shares = (rank.host_memory_gib, rank.nic_gbps, rank.ssd_gib)
    whole = (machine.host_memory_gib, machine.nic_gbps, machine.ssd_gib)
    assert [share * machine.gpus for share in shares] == pytest.approx(whole)
    price = machine.price_per_hour
    assert cluster.price_per_hour == (None if price is None else pytest.approx(4 * price))
    assert Cluster.from_dict(cluster.as_dict()) == cluster


@pytest.mark.parametrize(
    ("name", "host_gib", "gbits", "ssd_gib", "hbm_gib"),
    [
        # What the vendors write, for each GPU.
        ("a2-ultragpu-8g", 1360 / 8, 100 / 8, 375, 80),
        ("a3-megagpu-8g", 234, 200, 750, 80),
        ("a3-ultragpu-8g", 369, 400, 1500, 141),
        ("Standard_ND96asr_v4", 112.5, 200, 750, 40),
        ("Standard_ND96isr_H100_v5", 237.5, 400, 3.5 * 1024, 80),
        ("Standard_NC64as_T4_v3", 110, 8, 704, 15),
        ("g5.12xlarge", 48, 10, 950e9 / 2**30, 22.5),
    ],
)
def test_a_rank_has_its_share_of_what_the_vendor_writes(
    name: str, host_gib: float, gbits: float, ssd_gib: float, hbm_gib: float
) -> None:
    rank = Cluster.parse(f"1x{name}").rank_hardware
    assert (rank.host_memory_gib, rank.nic_gbps * 8, rank.hbm_gib) == (host_gib, gbits, hbm_gib)
    assert rank.ssd_gib == pytest.approx(ssd_gib, rel=1e-3)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=lambda machine: machine.name)
def test_host_memory_is_as_fast_as_the_channels_of_its_processors(machine: Machine) -> None:
    found = re.search(
        r"(\d) sockets? x (\d) channels x DDR\d-(\d+) \(.+\), (data sheet|guess)", machine.source
    )
    assert found, machine.source
    sockets, channels, megatransfers = map(int, found.groups()[:3])
    server = sockets * channels * 8 * megatransfers / 1000
    gpus = 4 * sockets  # of every server of the list
    assert (machine.gpus == gpus) == (found[4] == "data sheet")
    assert machine.host_memory_gbps == pytest.approx(server * machine.gpus / gpus)
    rank = CATALOGUE.rank_hardware(machine)
    assert rank.host_memory_gbps == pytest.approx(machine.host_memory_gbps / machine.gpus)


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
        ("1xh100", "--cluster 1x8xh100"),
        ("2xp5.49xlarge", "did you mean 'p5.48xlarge'?"),
        ("4x8xstandard_nd96isr_h100_v5", "--cluster 4xStandard_ND96isr_H100_v5"),
        ("4xstandard_nd96isr_h100", "did you mean 'Standard_ND96isr_H100_v5'?"),
        ("4xStandard_ND96isr_H200_v6", "did you mean 'Standard_ND96isr_H200_v5'?"),
    ],
)
def test_a_wrong_cluster_of_machines_says_what_to_write(text: str, fix: str) -> None:
    with pytest.raises(PlanError) as error:
        Cluster.parse(text)
    assert error.value.fixes == (fix,)


def test_ranks_of_a_gpu_without_nodes_may_be_meant_for_one_node() -> None:
    with pytest.raises(PlanError) as error:
        Cluster.parse("4xh100")
    assert error.value.fixes == ("--cluster 4x8xh100", "--cluster 1x4xh100 (all on one node)")
