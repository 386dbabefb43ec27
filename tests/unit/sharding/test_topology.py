from __future__ import annotations

from dataclasses import replace

import pytest

from sharding.errors import PlanError
from sharding.hardware import find_hardware
from sharding.topology import Cluster, topology
from sharding.units import GIB


@pytest.mark.parametrize(
    ("text", "world_size", "local_world_size", "device"),
    [("2x8xh100", 16, 8, "cuda"), ("1x2xcpu", 2, 2, "cpu"), (" 3x4xA100-80 ", 12, 4, "cuda")],
)
def test_a_cluster_is_read_as_nodes_times_ranks_times_hardware(
    text: str, world_size: int, local_world_size: int, device: str
) -> None:
    cluster = Cluster.parse(text)
    assert (cluster.world_size, cluster.local_world_size, cluster.device) == (
        world_size,
        local_world_size,
        device,
    )
    assert str(cluster) == text.strip().lower()


@pytest.mark.parametrize("text", ["8xh100", "2x8", "0x8xh100", "2x0xcpu", "2x8xh9000z", "x", "-1x2xcpu"])
def test_a_cluster_in_another_form_is_refused_by_name(text: str) -> None:
    with pytest.raises(PlanError) as error:
        Cluster.parse(text)
    assert error.value.got is not None
    assert str(error.value.got) in text


def test_half_a_description_of_a_gpu_cluster_is_refused() -> None:
    with pytest.raises(PlanError, match="both `gpu` and `gpus_per_node`"):
        Cluster(nodes=2, gpus_per_node=8)
    with pytest.raises(PlanError, match="both `gpu` and `gpus_per_node`"):
        Cluster(nodes=2, gpu="h100")
    with pytest.raises(PlanError, match="one rank for each GPU"):
        Cluster(gpus_per_node=8, gpu="h100", ranks_per_node=4)


def test_figures_of_the_catalogue_can_be_replaced() -> None:
    bigger = replace(find_hardware("h100"), hbm_gib=94)
    cluster = Cluster(gpus_per_node=8, gpu="h100", hardware=bigger)
    assert cluster.rank_hardware.hbm_gib == 94
    assert topology(cluster).devices[0].storage.hbm == 94 * GIB


def test_a_cluster_survives_json() -> None:
    for cluster in (
        Cluster.parse("2x8xh100"),
        Cluster.this_machine(2),
        Cluster(gpus_per_node=1, gpu="t4", hardware=replace(find_hardware("t4"), nic_gbps=3)),
    ):
        assert Cluster.from_dict(cluster.as_dict()) == cluster


def test_the_planner_sees_what_is_left_and_the_speeds() -> None:
    described = topology(Cluster.parse("2x4xh100"), memory_left_bytes=10 * GIB, host_left_bytes=3 * GIB)
    assert (described.world_size, described.local_world_size) == (8, 4)
    assert {(device.storage.hbm, device.storage.ddr) for device in described.devices} == {(10 * GIB, 3 * GIB)}
    assert described.hbm_mem_bw == pytest.approx(3350e9 / 1000)
    on_cpu = topology(Cluster.parse("1x2xcpu"), memory_left_bytes=5 * GIB)
    assert {(device.storage.hbm, device.storage.ddr) for device in on_cpu.devices} == {(0, 5 * GIB)}


def test_ranks_of_this_machine_share_its_memory() -> None:
    one, four = Cluster.this_machine(1), Cluster.this_machine(4)
    assert one.rank_hardware.memory_gib == pytest.approx(4 * four.rank_hardware.memory_gib, abs=0.05)
    assert four.world_size == 4


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("8xh100+8xa100-80", "--cluster 2x8xa100-80"),
        ("2x8xh100, 1x8xa100-40", "--cluster 3x8xa100-40"),
        ("2xp5.48xlarge+2xp4d.24xlarge", "--cluster 4xp4d.24xlarge"),
        ("2xa3-megagpu-8g+2xa2-highgpu-8g", "--cluster 4xa2-highgpu-8g"),
        ("8xh100+4xa100-80", "plan for the hosts of one kind alone"),
        ("8xh100+8xa100", "did you mean 'a100-"),
    ],
)
def test_hosts_of_several_kinds_are_refused_with_a_way_out(text: str, fix: str) -> None:
    with pytest.raises(PlanError, match="all hosts of a cluster must be of one kind") as error:
        Cluster.parse(text)
    assert any(fix in line for line in error.value.fixes), error.value.fixes
    assert any("one kind alone" in line for line in error.value.fixes)
