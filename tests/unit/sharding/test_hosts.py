from __future__ import annotations

import os
import random
import socket
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from sharding import network
from sharding.errors import PlanError, UserError
from sharding.hosts import (
    Place,
    RankJoinError,
    Seat,
    arrange,
    exchange_seats,
    join_ranks,
    leave_ranks,
    restored_process,
)
from sharding.machine_cores import available_cores
from sharding.wrap import _check_local_world_size
from tests.unit.sharding.planning import plan_of, tables_of


def _places(*hosts: str) -> list[Place]:
    seats = [Seat(host) for host in hosts]
    return [arrange(seats, number) for number in range(len(seats))]


def test_ranks_dealt_round_robin_over_hosts_become_neighbours() -> None:
    places = _places("a", "b", "a", "b")
    assert [place.rank for place in places] == [0, 2, 1, 3]
    assert [place.local_rank for place in places] == [0, 0, 1, 1]
    assert {place.local_world_size for place in places} == {2}
    assert all(place.even for place in places)


def test_rank_0_keeps_its_number_wherever_it_runs() -> None:
    assert _places("z", "a", "a")[0].rank == 0
    assert _places("b", "a", "b", "a")[0].rank == 0


def test_ranks_in_order_keep_their_numbers() -> None:
    assert [place.rank for place in _places("a", "a", "b", "b")] == [0, 1, 2, 3]


@pytest.mark.parametrize("counts", [(1,), (3, 3), (2, 2, 2), (4, 1), (1, 5, 2), (2, 2, 2, 1)])
def test_ranks_dealt_in_any_order_are_numbered_host_by_host(counts: tuple[int, ...]) -> None:
    names = [f"host{number}" for number, count in enumerate(counts) for _ in range(count)]
    for seed in range(20):
        random.Random(seed).shuffle(names)
        places = _places(*names)
        assert places[0].rank == 0
        at_rank = sorted(zip(places, names, strict=True), key=lambda each: each[0].rank)
        assert [place.rank for place, _ in at_rank] == list(range(len(names)))
        ordered = [name for _, name in at_rank]
        for name in set(names):
            first, count = ordered.index(name), names.count(name)
            assert ordered[first : first + count] == [name] * count
            for local, (place, _) in enumerate(at_rank[first : first + count]):
                assert (place.local_rank, place.local_world_size) == (local, count)
                assert place.host_ranks == tuple((host, names.count(host)) for host in dict.fromkeys(names))
                assert place.even == (len(set(counts)) == 1)


def test_hosts_with_different_numbers_of_ranks_are_told_apart_from_even_ones() -> None:
    places = _places("a", "a", "b")
    assert [place.local_world_size for place in places] == [2, 2, 1]
    assert not any(place.even for place in places)
    assert {place.host_ranks for place in places} == {(("a", 2), ("b", 1))}


def test_two_machines_of_one_name_are_two_hosts() -> None:
    seats = [Seat("localhost", machine="1"), Seat("localhost", machine="2")]
    assert [arrange(seats, number).local_world_size for number in (0, 1)] == [1, 1]


def test_ranks_that_see_the_same_gpus_take_one_each() -> None:
    seats = [Seat("a", visible_gpus="0,1"), Seat("a", visible_gpus="0,1")]
    assert [arrange(seats, number).gpu for number in (0, 1)] == [0, 1]


def test_ranks_that_see_one_gpu_each_take_their_first() -> None:
    seats = [Seat("a", visible_gpus="0"), Seat("a", visible_gpus="1")]
    assert [arrange(seats, number).gpu for number in (0, 1)] == [0, 0]
    assert [arrange(seats, number).local_rank for number in (0, 1)] == [0, 1]


def test_ranks_that_share_a_task_take_its_gpus_and_are_numbered_with_those_of_the_host() -> None:
    tasks = [("a", "0,1"), ("b", "2,3"), ("a", "2,3"), ("b", "0,1")]
    seats = [Seat(host, visible_gpus=gpus) for host, gpus in tasks for _ in range(2)]
    places = [arrange(seats, number) for number in range(len(seats))]
    assert [place.gpu for place in places] == [0, 1] * 4
    assert [place.rank for place in places] == [0, 1, 4, 5, 2, 3, 6, 7]
    assert [place.local_rank for place in places] == [0, 1, 0, 1, 2, 3, 2, 3]
    assert {place.local_world_size for place in places} == {4}


def test_missing_ranks_are_named() -> None:
    store = dist.HashStore()
    store.set("seat/2", "{}")
    with pytest.raises(RankJoinError, match=r"2 of 4 ranks did not join") as caught:
        exchange_seats(store, 0, 4, Seat("a"), timedelta(seconds=0.2))
    assert caught.value.got == "missing: rank 1, rank 3"


def test_every_rank_learns_every_seat_in_order() -> None:
    store, found = dist.HashStore(), {}

    def come(number: int) -> None:
        seat = Seat(f"host{number}")
        found[number] = exchange_seats(store, number, 3, seat, timedelta(seconds=20))

    threads = [threading.Thread(target=come, args=(number,)) for number in (2, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all([seat.host for seat in seats] == ["host0", "host1", "host2"] for seats in found.values())
    assert len(found) == 3


def test_the_only_rank_needs_no_launcher_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    environment, threads = dict(os.environ), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    with restored_process():
        context = join_ranks("cpu", 5, alone=True)
        assert (context.rank, context.world_size, context.local_world_size) == (0, 1, 1)
        assert os.environ["RANK"] == "0"
        assert os.environ["LOCAL_WORLD_SIZE"] == "1"
        assert dist.get_world_size() == 1
        leave_ranks()
    assert dict(os.environ) == environment
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)
    assert not dist.is_initialized()


def test_a_process_that_nobody_launched_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="not started as a rank"):
        join_ranks("cpu", 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_asking_for_a_gpu_where_there_is_none_names_the_host() -> None:
    with pytest.raises(UserError, match=socket.gethostname()):
        join_ranks("cuda", 1, alone=True)


@pytest.mark.parametrize(
    ("text", "cores"), [("150000 100000\n", 1), ("max 100000\n", None), ("50000 100000", 1)]
)
def test_cores_respect_the_quota_of_a_container(tmp_path: Path, text: str, cores: int | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    everything = len(os.sched_getaffinity(0))
    assert available_cores(tmp_path) == (everything if cores is None else min(everything, cores))


def test_cores_respect_the_quota_of_an_old_cgroup(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert available_cores(tmp_path) == 1


@pytest.mark.skipif(not os.path.isdir("/sys/class/net/lo"), reason="needs Linux")
def test_the_interface_of_an_address_is_found() -> None:
    assert network.interface_of("127.0.0.1") == "lo"
    assert network.interface_of("203.0.113.7") is None


@pytest.mark.parametrize("address", ["127.0.1.1", "203.0.113.7", None])
def test_gloo_is_pointed_at_the_way_to_other_hosts_when_the_hosts_name_leads_elsewhere(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(name: str) -> str:
        if address is None:
            raise socket.gaierror(-2, "Name or service not known")
        return address

    ways = {"10.77.0.10": "10.77.0.11", "localhost": "127.0.0.1"}
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that the test's end takes back what is set below
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setattr(socket, "gethostbyname", found)
    monkeypatch.setattr(network, "_address_towards", ways.get)
    monkeypatch.setattr(network, "interface_of", lambda address: "eth7" if address == "10.77.0.11" else None)
    assert network.use_reachable_interface(["localhost", "nowhere"]) is None
    assert network.use_reachable_interface(["localhost", "nowhere", "10.77.0.10"]) == "eth7"
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"


def test_a_chosen_gloo_interface_and_a_good_hosts_file_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network, "interface_of", lambda address: "eth7")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth1")
    assert network.use_reachable_interface(["10.77.0.10"]) is None
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    own = network._address_towards("203.0.113.7")
    if own is None:
        pytest.skip("this machine has loopback alone")
    monkeypatch.setattr(socket, "gethostbyname", lambda name: own)
    assert network.use_reachable_interface(["10.77.0.10"]) is None
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_a_plan_for_other_hosts_is_refused_with_hosts_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    # Hosts that hold different numbers of ranks are told to TorchRec as hosts of one rank.
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    uneven = (("node-a", 3), ("node-b", 1))
    inside = plan_of(tables_of(1, sharding_types=("table_row_wise",)), "2x2xcpu")
    for plan in (inside, plan_of(tables_of(1), "4x1xh100")):
        with pytest.raises(PlanError, match="spread over hosts otherwise") as error:
            _check_local_world_size(plan, uneven)
        assert error.value.got == "node-a: 3, node-b: 1"
        assert "start the same number of ranks on each host" in error.value.fixes
    with pytest.raises(PlanError) as error:
        _check_local_world_size(inside, (("node-a", 1), ("node-b", 1), ("node-c", 1), ("node-d", 1)))
    assert "--ranks-per-host 1" in error.value.fixes[0]
    # Table-wise tables on CPU lie on ranks, whatever hosts these are of.
    _check_local_world_size(plan_of(tables_of(1, sharding_types=("table_wise",)), "2x2xcpu"), uneven)
