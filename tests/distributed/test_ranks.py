"""The spawner that the distributed tests stand on tells the truth about its ranks."""

from __future__ import annotations

import os
import time

import pytest
import torch
import torch.distributed as dist

from tests.support.ranks import RankError, run_distributed


def sum_over_ranks(rank: int, world_size: int, scale: float) -> tuple[float, str]:
    value = torch.tensor([scale * (rank + 1)])
    dist.all_reduce(value)
    return value.item(), f"{os.environ['LOCAL_RANK']}/{os.environ['LOCAL_WORLD_SIZE']}/{world_size}"


def fail_in_different_ways(rank: int, world_size: int) -> None:
    word = torch.zeros(1)
    if rank == 0:
        dist.send(word, 1)  # Rank 1 stays until this one has joined.
        raise ValueError("boom on zero")
    try:
        dist.recv(word, 0)
    finally:
        os._exit(7)


def hang_on_one(rank: int, world_size: int) -> str:
    if rank == 1:
        time.sleep(600)
    return "done"


def test_results_come_back_in_rank_order() -> None:
    assert run_distributed(sum_over_ranks, 2, 10.0, local_world_size=1) == [(30.0, "0/1/2"), (30.0, "0/1/2")]


def test_an_exception_and_a_death_are_both_told() -> None:
    with pytest.raises(RankError) as error:
        run_distributed(fail_in_different_ways, 2)
    assert "rank 0 failed" in str(error.value)
    assert "ValueError: boom on zero" in str(error.value)
    assert "rank 1 failed: died with exit code 7" in str(error.value)


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_and_ended() -> None:
    with pytest.raises(RankError, match=r"ranks \[1\] did not finish"):
        run_distributed(hang_on_one, 2, timeout=30)
