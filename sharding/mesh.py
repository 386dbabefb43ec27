"""Process groups for ranks in a table: one group of each column, one of each row."""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh


def replica_mesh(ranks: Tensor, device_type: str, timeout: timedelta) -> DeviceMesh:
    """Make the groups of a 2-D mesh; every rank of the default process group calls it.

    Args:
        ranks: [groups, ranks of a group]; those of a row hold one copy together, those of a column the same
            part.
        device_type: `cpu` or `cuda`.
        timeout: how long a rank waits for the others of its groups. Groups that DeviceMesh makes by itself
            wait for half an hour when a rank is lost.

    Returns:
        A mesh with the dimensions `replicate` and `shard`.
    """
    groups = [_own_group(rows, timeout) for rows in (ranks.T, ranks)]
    names = ("replicate", "shard")
    return DeviceMesh.from_group(groups, device_type, mesh=ranks, mesh_dim_names=names)


def _own_group(rows: Tensor, timeout: timedelta) -> dist.ProcessGroup:
    """Make a group of each row of ranks and return this rank's; every rank makes all of them."""
    groups = {tuple(row): dist.new_group(row, timeout=timeout) for row in rows.tolist()}
    (own,) = (group for row, group in groups.items() if dist.get_rank() in row)
    assert isinstance(own, dist.ProcessGroup)
    return own
