"""The dense part as a plan reckons with it: bytes on a rank, work of a step, what ranks exchange for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sharding.dense import DenseLayout, dense_units, is_collection
from sharding.hardware import Hardware
from sharding.topology import Cluster
from sharding.traffic import Traffic, all_reduce_traffic, group_traffic

# Numbers that the dense optimizers keep for each parameter, in its own data type.
_STATES = {"sgd": 0, "adagrad": 1, "adam": 2, "adamw": 2, "lamb": 2}
# Weights are gathered for the forward and again for the backward pass; gradients are scattered once.
_FSDP_EXCHANGES = 3


@dataclass(frozen=True)
class DenseWork:
    """What the dense layers do.

    Attributes:
        forward_flops: of matrix products in the forward pass of one row.
        activation_bytes: of one row, kept for the backward pass.
        weight_copy_bytes: of bf16 copies of weights, kept for the backward pass whatever the rows.
    """

    forward_flops: float = 0.0
    activation_bytes: float = 0.0
    weight_copy_bytes: float = 0.0


@dataclass(frozen=True)
class DenseBytes:
    """Bytes of the dense part from step to step, on the rank that holds most.

    Attributes:
        weights: of the rank's copy or part.
        gradients: likewise.
        optimizer: likewise.
    """

    weights: int
    gradients: int
    optimizer: int

    @property
    def held(self) -> int:
        """Return the sum."""
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True)
class DensePart(DenseBytes):
    """The dense part on one rank.

    Attributes:
        parallel: `ddp`, `fsdp` or `hsdp`.
        shard_group_size: ranks that hold one copy together.
        optimizer_name: of the dense optimizer.
        gathered: bytes of weights and gradients that are whole while units compute, under `fsdp` and `hsdp`.
        activations: bytes kept for the backward pass, with the copies that autocast makes of weights.
        forward_flops: of one step's forward pass.
        peak_tflops: of matrix products in the precision of the run.
        efficiency: share of the peak that the dense layers are taken to reach.
        traffic: sent in a step.
    """

    parallel: str
    shard_group_size: int
    optimizer_name: str
    gathered: int
    activations: int
    forward_flops: float
    peak_tflops: float
    efficiency: float
    traffic: Traffic

    @property
    def total(self) -> int:
        """Return all bytes but the activations."""
        return self.held + self.gathered

    def exchange_ms(self, cluster: Cluster) -> float:
        """Return the time of exchanging weights and gradients: measured for `ddp`, else that of the links."""
        measured = cluster.rank_hardware.measured
        if measured is not None and self.parallel == "ddp":
            rate = measured.collective("all_reduce", cluster.world_size, cluster.nodes)
            if rate is not None:
                return rate.milliseconds(self.gradients)
        return self.traffic.milliseconds(cluster)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> DensePart:
        """Return what `dataclasses.asdict` described."""
        return cls(**{**record, "traffic": Traffic(**record["traffic"])})


def dense_part(
    model: nn.Module,
    cluster: Cluster,
    layout: DenseLayout,
    *,
    parallel: str = "ddp",
    optimizer: str = "adam",
    momentum: float = 0.0,
    averaged: bool = False,
    work: DenseWork | None = None,
    batch_size_per_rank: int = 0,
    bf16: bool = False,
    efficiency: float = 1.0,
) -> DensePart:
    """Return the dense part of a model on one rank of a cluster.

    Args:
        model: on any device; shapes suffice.
        cluster: the ranks.
        layout: which of them hold the dense part.
        parallel: name of the layout.
        optimizer: dense optimizer.
        momentum: of `sgd`.
        averaged: whether an average is kept beside the weights.
        work: of the layers; None counts neither activations nor time.
        batch_size_per_rank: rows of a step.
        bf16: whether matrix products run in bf16.
        efficiency: share of the peak that they are taken to reach, where nobody measured it.
    """
    parameters = list(dense_layers(model))
    held = dense_bytes(parameters, layout, optimizer, momentum, averaged=averaged)
    work = work or DenseWork()
    peak_tflops, efficiency = _matrix_speed(cluster.rank_hardware, bf16, efficiency)
    return DensePart(
        **vars(held),
        parallel=parallel if layout.is_sharded else "ddp",
        shard_group_size=layout.shard_group_size,
        optimizer_name=optimizer,
        gathered=_whole_bytes(model, layout.shard_group_size) if layout.is_sharded else 0,
        activations=round(work.activation_bytes * batch_size_per_rank + work.weight_copy_bytes),
        forward_flops=work.forward_flops * batch_size_per_rank,
        peak_tflops=peak_tflops,
        efficiency=efficiency,
        traffic=dense_traffic(sum(_size(p) for p in parameters), layout, cluster),
    )


def _matrix_speed(figures: Hardware, bf16: bool, efficiency: float) -> tuple[float, float]:
    """Return TFLOPS and the share of them that dense layers reach: all of what was measured."""
    if figures.measured is not None:
        found = figures.measured.bf16_tflops if bf16 else figures.measured.fp32_tflops
        if found is not None:
            return found, 1.0
    return (figures.bf16_tflops if bf16 else figures.fp32_tflops), efficiency


def dense_bytes(
    parameters: Iterable[Tensor],
    layout: DenseLayout,
    optimizer: str = "adam",
    momentum: float = 0.0,
    *,
    averaged: bool = False,
) -> DenseBytes:
    """Return what a rank holds from step to step; needs shapes alone, so `meta` will do.

    Args:
        parameters: outside the tables.
        layout: who holds them.
        optimizer: `sgd`, `adagrad`, `adam`, `adamw` or `lamb`.
        momentum: of `sgd`.
        averaged: whether an average is kept, which counts among the state of the optimizer.
    """
    states = _STATES[optimizer] + (1 if optimizer == "sgd" and momentum else 0) + averaged
    weights = sum(_part_bytes(parameter, layout.shard_group_size) for parameter in parameters)
    return DenseBytes(weights, weights, weights * states)


def _part_bytes(parameter: Tensor, ranks: int) -> int:
    """Return the bytes of a rank's part: FSDP2 splits the first dimension and pads the last parts."""
    rows = parameter.shape[0] if parameter.ndim else 1
    return -(-rows // ranks) * (parameter.numel() // max(1, rows)) * parameter.element_size()


def _whole_bytes(model: nn.Module, ranks: int) -> int:
    """Return the most bytes of whole weights and gradients at a time, in the backward pass of FSDP2.

    A unit's weights and gradients are whole while it computes, beside the next unit's weights and the
    gradients of the previous one, which are being scattered. Parameters in no unit are gathered from the
    forward pass on, and their gradients are scattered last.

    Source: `_fsdp_param_group.py` (`_backward_prefetch`, `post_backward`) and `_fsdp_state.py` (`_lazy_init`)
    of torch.distributed.fsdp.
    """
    units = [list(unit.parameters()) for unit in dense_units(model)]
    in_units = {parameter for unit in units for parameter in unit}
    others = [parameter for parameter in dense_layers(model) if parameter not in in_units]
    largest = sorted((_gathered_bytes(unit, ranks) for unit in units), reverse=True)
    # At most, whatever their order: the largest one computes between the two next in size.
    return sum(largest[:1] + largest[:3]) + 2 * _gathered_bytes(others, ranks)


def _gathered_bytes(parameters: Iterable[Tensor], ranks: int) -> int:
    return ranks * sum(_part_bytes(parameter, ranks) for parameter in parameters)


def dense_traffic(size: int, layout: DenseLayout, cluster: Cluster) -> Traffic:
    """Return what the rank that takes longest sends in a step for weights and gradients of the dense part.

    Under DDP gradients are summed over all ranks. Where groups share a copy, its weights are gathered twice
    and its gradients scattered once inside the group; then the groups sum their parts.

    Args:
        size: bytes of all dense weights.
        layout: who holds them.
        cluster: the ranks.
    """
    group = layout.shard_group_size
    sent = [
        group_traffic(size, group, mates)
        .times(_FSDP_EXCHANGES)
        .plus(all_reduce_traffic(size / group, copies, nodes))
        for mates, copies, nodes in sorted(_neighbours(layout, cluster.local_world_size))
    ]
    return max(sent, key=lambda traffic: traffic.milliseconds(cluster))


def _neighbours(layout: DenseLayout, local: int) -> set[tuple[int, int, int]]:
    """Return, by kind of rank: ranks of its group on its node, copies of its part there, nodes with one."""
    group, kinds = layout.shard_group_size, set()
    for place in range(group):
        ranks = range(place, layout.world_size, group)
        copies = Counter(rank // local for rank in ranks)
        for rank in ranks:
            node, first = rank // local, rank - place
            mates = min(first + group, (node + 1) * local) - max(first, node * local)
            kinds.add((mates, copies[node], len(copies)))
    return kinds


def dense_layers(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters outside the embedding collections."""
    if is_collection(model):
        return
    yield from model.parameters(recurse=False)
    for child in model.children():
        yield from dense_layers(child)


def _size(parameter: nn.Parameter) -> int:
    return parameter.numel() * parameter.element_size()
