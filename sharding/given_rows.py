"""Given rows of a table written into the blocks of it that lie on this rank, whatever its sharding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from sharding.errors import ShardrecError
from sharding.weights import local_parts

Counts = dict[tuple[int, int], int]
"""Rows given by block: its first row and its number of rows."""


class GivenRows:
    """Writes rows of a table, each at most once; takes a byte of memory for each row on this rank.

    Args:
        weight: of the table as `state_dict` gives it: sharded, or whole on every rank.
    """

    def __init__(self, weight: Tensor | ShardedTensor) -> None:
        self._blocks = [
            (tensor, row, column, np.zeros(len(tensor), dtype=np.bool_))
            for tensor, row, column in local_parts(weight)
            if tensor.numel()
        ]

    @property
    def is_empty(self) -> bool:
        """Return whether none of the table lies on this rank."""
        return not self._blocks

    @torch.no_grad()
    def write(self, rows_N: NDArray[np.int64], vectors_ND: NDArray[np.float32]) -> int | None:
        """Write what lies here of some rows.

        Args:
            rows_N: rows of the whole table; negative ones are left out.
            vectors_ND: their values, from the first column on; the columns behind D stay as they are.

        Returns:
            Which of the N came a second time, or None.
        """
        for tensor, first, column, given in self._blocks:
            chosen_K = np.flatnonzero((rows_N >= first) & (rows_N < first + len(given)))
            places_K = rows_N[chosen_K] - first
            if (twice := _second(places_K, given)) is not None:
                return int(chosen_K[twice])
            given[places_K] = True
            values_KC = torch.from_numpy(vectors_ND[chosen_K, column : column + tensor.shape[1]])
            block = tensor[:, : values_KC.shape[1]]
            block[torch.from_numpy(places_K).to(tensor.device)] = values_KC.to(tensor)
        return None

    def counts(self) -> Counts:
        """Return how many rows of each block were given."""
        return {(row, len(given)): int(given.sum()) for _, row, _, given in self._blocks}


def count_rows(every: Iterable[Counts]) -> int:
    """Return the rows of a table that were given, from the counts of all ranks."""
    # The same rows lie on several ranks where columns are split or a table has copies.
    return sum({block: count for counts in every for block, count in counts.items()}.values())


def in_step(steps: Iterator[None], device: torch.device) -> None:
    """Take the steps of every rank, each rank one at a time, until all have ended; every rank calls it.

    However long they take together, no rank waits for another longer than a step.

    Args:
        steps: of this rank.
        device: where the ranks reduce.

    Raises:
        ShardrecError: that of a rank whose step failed, on every rank.
    """
    while True:
        error, going = None, False
        try:
            going = next(steps, steps) is not steps
        except ShardrecError as found:
            error = found
        flags = torch.tensor([going, error is not None], dtype=torch.int64, device=device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        if flags[1]:
            errors: list[ShardrecError | None] = [None] * dist.get_world_size()
            dist.all_gather_object(errors, error)
            raise next(found for found in errors if found is not None)
        if not flags[0]:
            return


def _second(places_K: NDArray[np.int64], given: NDArray[np.bool_]) -> int | None:
    """Return which of some places was given before, or stands among them twice."""
    first_K = np.zeros(len(places_K), dtype=np.bool_)
    first_K[np.unique(places_K, return_index=True)[1]] = True
    again = np.flatnonzero(given[places_K] | ~first_K)
    return int(again[0]) if len(again) else None
