"""The dense part in a plan: bytes, exchanges and time, against sums done by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sharding.dense import DenseLayout, dense_layout, shard_dense
from sharding.dense_part import DenseBytes, DensePart, DenseWork, dense_bytes, dense_part, dense_traffic
from sharding.memory import memory_budget
from sharding.rank_plan import RankMemory, RankStep
from sharding.step_time import step_time
from sharding.topology import Cluster
from sharding.traffic import Traffic
from sharding.units import GIB

CLUSTER = Cluster.parse("2x4xh100")
WEIGHTS = 4 * (64 * 32 + 64 + 32 * 64 + 32)


def model() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 32))


def part(parallel: Any = "ddp", group: int | None = None, **settings: Any) -> DensePart:
    layout = dense_layout(
        parallel,
        world_size=CLUSTER.world_size,
        local_world_size=CLUSTER.local_world_size,
        shard_group_size=group,
    )
    return dense_part(model(), CLUSTER, layout, parallel=parallel, **settings)


def test_bytes_are_those_of_the_rank_with_the_longest_part() -> None:
    # 10 rows of 3 over 4 ranks: 3, 3, 3 and 1; a single row lies on the first, and the others pad to it.
    parameters = [nn.Parameter(torch.empty(10, 3, device="meta")), nn.Parameter(torch.empty(1, 5))]
    elements = 3 * 3 + 5
    layout = DenseLayout(world_size=4, shard_group_size=4)
    assert dense_bytes(parameters, layout, "adam") == DenseBytes(4 * elements, 4 * elements, 8 * elements)
    assert dense_bytes(parameters, layout, "sgd").optimizer == 0
    assert dense_bytes(parameters, layout, "sgd", momentum=0.9).optimizer == 4 * elements
    assert dense_bytes(parameters, layout, "lamb", averaged=True).optimizer == 3 * 4 * elements
    assert dense_bytes(parameters, DenseLayout(4, 2), "adagrad").held == 3 * 4 * (5 * 3 + 5)
    assert dense_bytes(parameters, DenseLayout(4, 1), "adamw").held == 4 * 4 * 35


def test_a_copy_on_every_rank_has_gradients_and_two_moments() -> None:
    copy = part("ddp", optimizer="adam")
    assert (copy.weights, copy.gradients, copy.optimizer, copy.gathered) == (WEIGHTS, WEIGHTS, 2 * WEIGHTS, 0)
    assert copy.total == 4 * WEIGHTS
    assert part("ddp", optimizer="sgd").optimizer == 0


@pytest.mark.parametrize(
    ("parallel", "group", "ranks"), [("fsdp", None, 8), ("hsdp", None, 4), ("hsdp", 2, 2)]
)
def test_ranks_of_a_group_hold_parts_of_the_layers(parallel: str, group: int | None, ranks: int) -> None:
    shared = part(parallel, group)
    assert shared.shard_group_size == ranks
    assert (shared.weights, shared.gradients, shared.optimizer) == (
        WEIGHTS // ranks,
        WEIGHTS // ranks,
        2 * WEIGHTS // ranks,
    )
    # Both layers are gathered, and the larger one has its gradients.
    assert shared.gathered == WEIGHTS + 4 * (64 * 32 + 64)


SIDE = 256


class Square(nn.Module):
    """A unit of `rows` x `SIDE` weights."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(rows, SIDE))

    def forward(self, x_BD: Tensor) -> Tensor:
        return x_BD + (x_BD @ self.w.T).sum()


class Stack(nn.Module):
    """Units of so many `SIDE` x `SIDE` squares, and parameters of its own in no unit."""

    def __init__(self, units: tuple[int, ...], own: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Square(SIDE * size) for size in units])
        self.own = Square(SIDE * own).w if own else None

    def forward(self, x_BD: Tensor) -> Tensor:
        for layer in self.layers:
            x_BD = layer(x_BD)
        return x_BD if self.own is None else x_BD + (x_BD @ self.own.T).sum()


class Live(TorchDispatchMode):
    """Follows the bytes of all tensors that operators touch; `peak` is the most at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._storages: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, result)):
            if type(tensor) in (Tensor, nn.Parameter):
                storage = tensor.untyped_storage()
                self._storages.setdefault(storage._cdata, StorageWeakRef(storage))
        self._storages = {key: ref for key, ref in self._storages.items() if not ref.expired()}
        held = (torch.UntypedStorage._new_with_weak_ptr(ref.cdata) for ref in self._storages.values())
        self.peak = max(self.peak, sum(storage.nbytes() for storage in held))
        return result


@pytest.fixture
def sixty_four_ranks() -> Iterator[DenseLayout]:
    """A process group of which this process is one rank, and which exchanges nothing."""
    dist.init_process_group("fake", rank=0, world_size=64, store=FakeStore())
    yield DenseLayout(64, 64)
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("units", "own", "squares"),
    [
        ((4,), 0, 2 * 4),  # weights and gradients
        ((4, 2), 0, 2 * 4 + 2),  # the next one's weights as well
        ((4, 4, 4, 4), 0, 2 * 4 + 4 + 4),  # and the gradients of the one before, on their way
        ((2, 4, 1), 0, 2 * 4 + 2 + 1),
        ((2, 2, 2), 3, 4 * 2 + 2 * 3),
        ((), 3, 2 * 3),
    ],
)
def test_what_is_whole_at_a_time_is_what_fsdp_holds_in_a_step(
    units: tuple[int, ...], own: int, squares: int, sixty_four_ranks: DenseLayout
) -> None:
    cluster = Cluster.parse("8x8xh100")
    with torch.device("meta"):
        reckoned = dense_part(Stack(units, own), cluster, sixty_four_ranks, parallel="fsdp")
    assert reckoned.gathered == squares * 4 * SIDE**2
    model = Stack(units, own)
    shard_dense(model, sixty_four_ranks, torch.device("cpu"))
    with Live() as live:
        model(torch.ones(1, SIDE)).sum().backward()
    # Besides parts of weights and gradients there are a few rows, and buffers of parts.
    assert reckoned.gathered <= live.peak <= reckoned.gathered + 2 * reckoned.held


def test_gradients_of_copies_cross_the_network_once_for_each_node() -> None:
    # Inside a node 2 * 3/4 of the gradients; between the 2 nodes each rank sums a quarter.
    assert part("ddp").traffic == Traffic(2 * WEIGHTS * 3 / 4, 2 * WEIGHTS / 4 / 2)


def test_parts_are_gathered_twice_and_scattered_once() -> None:
    assert part("fsdp").traffic == Traffic(3 * WEIGHTS * 3 / 8, 3 * WEIGHTS * 4 / 8)


def test_groups_of_a_node_keep_weights_off_the_network() -> None:
    # Between nodes only gradients of a quarter.
    assert part("hsdp").traffic == Traffic(3 * WEIGHTS * 3 / 4, 2 * WEIGHTS / 4 / 2)
    # Groups of 2: two copies on a node sum their halves there, then across.
    halves = part("hsdp", 2).traffic
    assert halves.nvlink == pytest.approx(3 * WEIGHTS / 2 + 2 * (WEIGHTS / 2) / 2)
    assert halves.nic == pytest.approx(2 * (WEIGHTS / 2) / 2 / 2)


def test_groups_across_the_edge_of_a_node_gather_over_the_network() -> None:
    # Ranks 6 and 7 are on the first node; rank 8 of their group is alone on the second and sends two thirds
    # of the weights over the network. Its node has three of the eight copies of its part.
    sent = dense_traffic(900, DenseLayout(24, 3), Cluster.parse("3x8xh100"))
    assert sent.nic == pytest.approx(3 * 600 + 2 * 100 * 2 / 3)
    assert sent.nvlink == pytest.approx(2 * 300 * 2 / 3)


def test_activations_and_work_grow_with_the_batch() -> None:
    busy = part(work=DenseWork(1e6, 500.0), batch_size_per_rank=20, bf16=True, efficiency=0.5)
    assert (busy.activations, busy.forward_flops, busy.peak_tflops) == (10_000, 2e7, 989)


def test_the_budget_takes_the_part_and_its_activations_off() -> None:
    shared = part("fsdp", work=DenseWork(0, 2.0**20), batch_size_per_rank=1024)
    assert memory_budget(shared, CLUSTER, 0.25).left_bytes == 60 * GIB - shared.total - 1 * GIB
    assert memory_budget(part("ddp"), CLUSTER, 0.25).left_bytes == 60 * GIB - 4 * WEIGHTS


def test_a_part_survives_json() -> None:
    from dataclasses import asdict

    assert DensePart.from_record(asdict(part("hsdp"))) == part("hsdp")


def rank(number: int, compute: float, exchange: float, ids: float = 0.0) -> RankMemory:
    return RankMemory(number, *[0] * 15, RankStep(compute, exchange, ids, Traffic(0, 0)))


def timed(parallel: str, flops: float, exchange: Traffic) -> DensePart:
    return DensePart(0, 0, 0, parallel, 1, "adam", 0, 0, flops, 100.0, 0.5, exchange)


def test_a_step_is_the_slowest_ranks_tables_and_three_forward_passes() -> None:
    # 1e9 FLOPs forward, 3e9 in all, at half of 100 TFLOPS: 0.06 ms.
    step = step_time([rank(0, 1, 2), rank(1, 3, 1)], CLUSTER, timed("ddp", 1e9, Traffic(0, 0)))
    assert (step.table_compute_ms, step.table_exchange_ms) == (3, 1)
    assert step.dense_ms == pytest.approx(0.06)
    assert step.total_ms == pytest.approx(4.06)


def test_what_the_dense_passes_hide_is_not_counted() -> None:
    exchange = Traffic(450e6, 0)  # 1 ms
    # A dense pass of 0.9 ms hides 0.6 ms behind its backward pass under ddp, all of itself under fsdp.
    for parallel, exposed in (("ddp", 0.4), ("fsdp", 0.1)):
        step = step_time([rank(0, 1, 0)], CLUSTER, timed(parallel, 15e9, exchange))
        assert step.dense_ms == pytest.approx(0.9)
        assert step.exposed_dense_ms == pytest.approx(exposed)


def test_ids_come_before_the_step_on_the_rank_that_waits_longest_for_them() -> None:
    step = step_time([rank(0, 1, 0, ids=0.9), rank(1, 0.5, 0, ids=1.5)], CLUSTER, None)
    assert step.exposed_input_ms == pytest.approx(1.5)
    assert step.total_ms == pytest.approx(2.5)


def test_copies_of_weights_do_not_grow_with_the_batch() -> None:
    work = DenseWork(activation_bytes=3, weight_copy_bytes=1000)
    cluster = Cluster.parse("1x1xh100")
    held = [
        dense_part(model(), cluster, DenseLayout(1), work=work, batch_size_per_rank=rows).activations
        for rows in (10, 20)
    ]
    assert held == [1030, 1060]
