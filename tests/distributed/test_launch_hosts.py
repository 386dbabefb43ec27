"""Ranks that Spark has dealt round robin over two (pretended) hosts."""

from __future__ import annotations

import os
import socket
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
import torch.distributed as dist

from sharding.hosts import RankJoinError, join_ranks, leave_ranks
from tests.support.ranks import rank_processes

pytestmark = pytest.mark.thorough


def _rank(pipe: Connection, number: int, hosts: list[str], port: int, come: bool) -> None:
    """Join as TorchDistributor's rank would: told that it is local rank 0 of 1."""
    os.environ |= {
        "RANK": str(number),
        "WORLD_SIZE": str(len(hosts)),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
    }
    # The pretended host names lead nowhere; gloo must not look them up.
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # The store is torchrun's, here the test's.
    socket.gethostname = lambda: hosts[number]
    if not come:
        return
    try:
        context = join_ranks("cpu", 60 if "absent" not in hosts else 8)
    except RankJoinError as error:
        pipe.send(error.message())
        return
    gathered = [torch.zeros(1) for _ in hosts]
    dist.all_gather(gathered, torch.tensor([float(number)]))
    names = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    pipe.send(
        {
            "group_rank": dist.get_rank(),
            "rank": context.rank,
            "local": (context.local_rank, context.local_world_size),
            "exported": tuple(int(os.environ[name]) for name in names),
            "order": [int(value) for value in gathered],
        }
    )
    leave_ranks()


def _join(hosts: list[str], absent: int | None = None) -> list[Any]:
    context = rank_processes()
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipes, ranks = [], []
    for number in range(len(hosts)):
        ours, theirs = context.Pipe(duplex=False)
        rank = context.Process(
            target=_rank, args=(theirs, number, hosts, store.port, number != absent), daemon=True
        )
        rank.start()
        theirs.close()
        pipes.append(ours)
        ranks.append(rank)
    try:
        return [
            pipe.recv() if pipe.poll(240) else None for number, pipe in enumerate(pipes) if number != absent
        ]
    finally:
        for rank in ranks:
            rank.join(30)
            if rank.is_alive():
                rank.kill()


def test_ranks_of_one_host_become_neighbours_and_torchrec_is_told() -> None:
    found = _join(["a", "b", "a", "b"])
    assert [values["rank"] for values in found] == [0, 2, 1, 3]
    assert [values["group_rank"] for values in found] == [0, 2, 1, 3]
    assert [values["local"] for values in found] == [(0, 2), (0, 2), (1, 2), (1, 2)]
    assert [values["exported"] for values in found] == [(0, 0, 2), (2, 0, 2), (1, 1, 2), (3, 1, 2)]
    # Collectives follow the new numbers.
    assert all(values["order"] == [0, 2, 1, 3] for values in found)


@pytest.mark.slow
def test_uneven_hosts_are_told_to_torchrec_as_hosts_of_one_rank() -> None:
    found = _join(["a", "b", "a"])
    assert [values["rank"] for values in found] == [0, 2, 1]
    assert {values["local"] for values in found} == {(0, 1)}
    assert {values["exported"][1:] for values in found} == {(0, 1)}


def test_a_rank_that_never_comes_is_named_instead_of_waited_for() -> None:
    (message,) = _join(["a", "absent"], absent=1)
    assert "1 of 2 ranks did not join within 8 s" in message
    assert "missing: rank 1" in message
