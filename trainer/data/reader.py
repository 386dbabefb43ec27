"""What every reader offers, and the rules that rows, lanes, batch size and ranks must keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from trainer.batch import Batch
from trainer.data.order import lane_bounds
from trainer.errors import UserError
from trainer.schema import Manifest

Tail = Literal["drop", "pad"]


class BatchReader(Protocol):
    """One rank's share of a split, as batches.

    Attributes:
        rows: rows of the split, all ranks together.
        steps_per_epoch: batches of an epoch, the same on every rank.
        resumes_exactly: whether `first_step` above 0 gives exactly the batches of the unbroken epoch.
    """

    rows: int
    steps_per_epoch: int
    resumes_exactly: bool

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches `first_step` to `steps_per_epoch - 1` of an epoch (both count from 0).

        Raises:
            DataError: a part file is missing, damaged, or holds values that cannot be used.
            UserError: the reader cannot start at `first_step`.
        """
        ...


@dataclass(frozen=True)
class Share:
    """What one rank reads at every step.

    Attributes:
        rank: this rank.
        world_size: ranks.
        global_batch_size: rows per step, all ranks together.
        num_lanes: lanes of the split.
        tail: whether leftover rows are dropped or padded.
    """

    rank: int
    world_size: int
    global_batch_size: int
    num_lanes: int
    tail: Tail

    @property
    def lanes(self) -> range:
        """Return the lanes of this rank, in the order of their rows in a batch."""
        return range(self.rank, self.num_lanes, self.world_size)

    @property
    def rows_per_lane(self) -> int:
        """Return the rows that a step takes from each lane."""
        return self.global_batch_size // self.num_lanes

    @property
    def batch_size_per_rank(self) -> int:
        """Return the rows of this rank's batch."""
        return self.global_batch_size // self.world_size


def check_layout(
    manifest: Manifest,
    split: str,
    *,
    global_batch_size: int,
    num_lanes: int,
    world_size: int,
    tail: Tail,
) -> int:
    """Check that the rows of a split can be dealt to the ranks, and return the steps of an epoch.

    Needs only the manifest, so that a launcher can call it before any rank starts.

    Args:
        manifest: of the data set.
        split: `train`, `valid` or `test`.
        global_batch_size: rows per step over all ranks.
        num_lanes: lanes that rows are dealt into.
        world_size: ranks.
        tail: `drop` leaves out the rows after the last full batch, `pad` fills it with zero-weight rows.

    Returns:
        Steps per epoch: with b rows per lane and step, floor(shortest lane / b) for `drop`, ceil(longest / b)
        for `pad`.

    Raises:
        DataError: the split is empty.
        UserError: a rule is broken; the message names numbers that work. More ranks than rows are allowed
            only where a split other than `train` is padded.
    """
    rows = manifest.split(split).rows
    # A rank without rows can evaluate, it reads padding alone; in training it is a mistake.
    padded = tail == "pad" and split != "train"
    check_ranks(max(rows, world_size) if padded else rows, split, num_lanes, world_size, global_batch_size)
    _check_batch_size(global_batch_size, num_lanes)
    lanes = lane_bounds(rows, num_lanes)
    sizes = lanes[1:] - lanes[:-1]
    rows_per_lane = global_batch_size // num_lanes
    if tail == "pad":
        return -(-int(sizes.max()) // rows_per_lane)
    steps = int(sizes.min()) // rows_per_lane
    if steps == 0:
        _refuse_short_split(rows, split, global_batch_size, num_lanes, world_size)
    return steps


def check_ranks(rows: int, split: str, num_lanes: int, world_size: int, global_batch_size: int) -> None:
    """Check that every rank gets rows and that all get the same number of lanes.

    Args:
        rows: of the split.
        split: `train`, `valid` or `test`.
        num_lanes: lanes that rows are dealt into.
        world_size: ranks.
        global_batch_size: rows per step over all ranks, for the suggested settings.

    Raises:
        UserError: they do not; the message names numbers that work.
    """
    fitting = [size for size in range(1, num_lanes + 1) if num_lanes % size == 0 and size <= rows]
    if world_size > rows:
        raise UserError(
            f"more ranks than rows: split {split!r} has {rows} rows for {world_size} ranks",
            where="world_size",
            got=world_size,
            allowed=f"at most {rows}",
            fixes=[f"use {fitting[-1]} ranks", f"prepare more rows for split {split!r}"],
        )
    if world_size > num_lanes:
        raise UserError(
            f"more ranks than lanes: {world_size} ranks share {num_lanes} lanes",
            where="data.num_lanes",
            got=num_lanes,
            allowed=f"a multiple of {world_size}",
            fixes=[_lanes_for(world_size, num_lanes, global_batch_size), f"use {fitting[-1]} ranks"],
        )
    if num_lanes % world_size:
        nearest = max(size for size in fitting if size <= world_size)
        raise UserError(
            "the number of lanes must be a multiple of the number of ranks",
            where="data.num_lanes",
            got=f"{num_lanes} lanes for {world_size} ranks",
            allowed=f"ranks: {', '.join(map(str, fitting))}",
            fixes=[f"use {nearest} ranks", _lanes_for(world_size, num_lanes, global_batch_size)],
        )


def _lanes_for(world_size: int, num_lanes: int, global_batch_size: int) -> str:
    """Return the settings for the next larger number of lanes that the ranks can share."""
    lanes = -(-num_lanes // world_size) * world_size
    fix = f"data.num_lanes: {lanes}"
    if global_batch_size % lanes == 0:
        return fix
    return f"{fix} and train.global_batch_size: {max(1, global_batch_size // lanes) * lanes}"


def _check_batch_size(global_batch_size: int, num_lanes: int) -> None:
    if global_batch_size % num_lanes:
        below = global_batch_size // num_lanes * num_lanes
        near = [size for size in (below, below + num_lanes) if size > 0]
        raise UserError(
            "the global batch size must be a multiple of the number of lanes",
            where="train.global_batch_size",
            got=f"{global_batch_size} rows for {num_lanes} lanes",
            allowed=f"multiples of data.num_lanes = {num_lanes}",
            fixes=[f"train.global_batch_size: {size}" for size in near],
        )


def _refuse_short_split(
    rows: int, split: str, global_batch_size: int, num_lanes: int, world_size: int
) -> None:
    largest = rows // num_lanes * num_lanes
    fix = f"train.global_batch_size: {largest}"
    if not largest:
        lanes = rows // world_size * world_size
        fix = f"data.num_lanes: {lanes} and train.global_batch_size: {lanes}"
    raise UserError(
        f"split {split!r} is too small for one batch: {rows} rows in {num_lanes} lanes give "
        f"{rows // num_lanes} rows per lane, a batch takes {global_batch_size // num_lanes}",
        where="train.global_batch_size",
        got=global_batch_size,
        allowed=f"at most {largest}" if largest else None,
        fixes=[fix, "train.tail: pad"],
    )


def check_step(epoch: int, first_step: int, steps_per_epoch: int) -> None:
    """Check a place in an epoch.

    Raises:
        UserError: it lies outside.
    """
    if epoch < 0 or not 0 <= first_step <= steps_per_epoch:
        raise UserError(
            "no such place in the data: the checkpoint's step lies outside the epoch",
            where=f"epoch {epoch}",
            got=f"step {first_step}",
            allowed=f"0 to {steps_per_epoch}",
            fixes=["resume with the data set, batch size and tail that the checkpoint was made with"],
        )
