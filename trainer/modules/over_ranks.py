"""Tensors of all ranks in a forward pass that gradients flow back through; one process has its own alone.

The loss of a step is the mean over ranks, and so are the gradients that DDP and TorchRec apply: what ranks
exchange here needs no factor of its own.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather, all_reduce


def world() -> tuple[int, int]:
    """Return this rank and the number of ranks; 0 and 1 without a process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def summed(x: Tensor) -> Tensor:
    """Return the sum over ranks of tensors of one shape."""
    if world()[1] == 1:
        return x
    total: Tensor = all_reduce(x)  # type: ignore[no-untyped-call]
    return total


@torch.no_grad()
def largest(x: Tensor) -> Tensor:
    """Return the element-wise maximum over ranks of tensors of one shape, without gradients."""
    if world()[1] == 1:
        return x.detach()
    x = x.detach().clone()
    dist.all_reduce(x, op=dist.ReduceOp.MAX)
    return x


def gathered(x_RN: Tensor) -> tuple[Tensor, slice]:
    """Return the rows of all ranks, rank by rank, and where this rank's own are.

    Args:
        x_RN: [R, ...]; R may differ from rank to rank, and `x_RN` may be of whole numbers.
    """
    rank, ranks = world()
    rows = x_RN.shape[0]
    if ranks == 1:
        return x_RN, slice(0, rows)
    counts = [x_RN.new_zeros(1, dtype=torch.int64) for _ in range(ranks)]
    dist.all_gather(counts, torch.tensor([rows], device=x_RN.device))
    sizes = [int(count) for count in counts]
    padded = torch.cat([x_RN, x_RN.new_zeros(max(sizes) - rows, *x_RN.shape[1:])])
    if x_RN.requires_grad or padded.is_floating_point():
        parts = all_gather(padded)  # type: ignore[no-untyped-call]
    else:
        parts = [torch.empty_like(padded) for _ in range(ranks)]
        dist.all_gather(parts, padded)
    whole = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
    first = sum(sizes[:rank])
    return whole, slice(first, first + rows)
