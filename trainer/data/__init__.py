"""Reading: prepared Parquet becomes batches, the same rows in every batch at every world size.

```python
reader = open_reader(folder, manifest, "train", global_batch_size=2048, num_lanes=32, rank=0, world_size=1,
                     seed=1, shuffle=True, tail="drop")
for batch in prefetched(reader.batches(epoch=0), depth=8):
    ...
```
"""

from __future__ import annotations

from typing import Literal

from trainer.data.arrow import ArrowReader
from trainer.data.policy import ReadPolicy
from trainer.data.prefetch import prefetched
from trainer.data.reader import BatchReader, Share, Tail, check_layout, check_ranks
from trainer.schema import Manifest
from trainer.storage import Place

__all__ = ["BatchReader", "ReadPolicy", "check_layout", "check_ranks", "open_reader", "prefetched"]


def open_reader(
    dataset: str | Place,
    manifest: Manifest,
    split: str,
    *,
    reader: Literal["arrow", "petastorm"] = "arrow",
    global_batch_size: int,
    num_lanes: int,
    rank: int,
    world_size: int,
    seed: int,
    shuffle: bool,
    tail: Tail,
    shuffle_window_row_groups: int = 4,
    policy: ReadPolicy | None = None,
) -> BatchReader:
    """Open one rank's share of a split.

    Args:
        dataset: data set folder, local or on a store (see `trainer.storage`).
        manifest: its manifest.
        split: `train`, `valid` or `test`.
        reader: `arrow`, or `petastorm` (make_batch_reader), which cannot resume inside an epoch.
        global_batch_size: rows per step over all ranks; a multiple of `num_lanes`.
        num_lanes: lanes that rows are dealt into; a multiple of `world_size`.
        rank: this rank, from 0.
        world_size: ranks.
        seed: of the order of rows.
        shuffle: another order in every epoch; False reads every lane from front to back.
        tail: `drop` leaves out the rows after the last full batch, `pad` fills it with zero-weight rows.
        shuffle_window_row_groups: row groups per lane whose rows are shuffled together, at most; wide rows
            in large row groups get smaller windows, so that one rank with all lanes needs about 1 GiB.
        policy: what to do about damaged part files and a slow or failing store; default `ReadPolicy()`.

    Raises:
        DataError: the split is empty or a part file is missing.
        StoreError: the store cannot be read.
        UserError: rows, lanes, batch size and ranks do not fit each other, or petastorm is not installed.
    """
    share = Share(rank, world_size, global_batch_size, num_lanes, tail)
    if reader == "petastorm":
        from trainer.data.petastorm import PetastormReader

        return PetastormReader(
            dataset,
            manifest,
            split,
            share,
            seed=seed,
            shuffle=shuffle,
            window_row_groups=shuffle_window_row_groups,
            policy=policy,
        )
    return ArrowReader(
        dataset,
        manifest,
        split,
        share,
        seed=seed,
        shuffle=shuffle,
        window_row_groups=shuffle_window_row_groups,
        policy=policy,
    )
