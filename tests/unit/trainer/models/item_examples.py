"""Rows of events and rows of users for tests of models that score queries against items."""

from __future__ import annotations

from dataclasses import replace

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from tests.unit.trainer.models.examples import NUM_EMBEDDINGS, table
from trainer.batch import Batch
from trainer.registry import ModelInputs

ITEMS = NUM_EMBEDDINGS - 2  # ids 0 and 1 are padding and unknown items


def event_inputs(dim: int = 8, batch_size: int = 12) -> ModelInputs:
    """A user, an item, and the user's items before it."""
    tables = (table("user", ["user"], dim), table("item", ["item", "seen"], dim, "none"))
    return ModelInputs(0, ("user", "item", "seen"), tables, frozenset({"seen"}), global_batch_size=batch_size)


def user_inputs(dim: int = 8, batch_size: int = 12) -> ModelInputs:
    """A user and the list of its items."""
    tables = (table("user", ["user"], dim), table("item", ["seen"], dim, "none"))
    return ModelInputs(0, ("user", "seen"), tables, frozenset({"seen"}), global_batch_size=batch_size)


def genre_inputs() -> ModelInputs:
    """Return those of events, and the genres of the item."""
    events = event_inputs()
    return replace(
        events,
        features=(*events.features, "genres"),
        tables=(*events.tables, table("genres", ["genres"])),
        lists=events.lists | {"genres"},
    )


def item_batch(
    inputs: ModelInputs, rows: int, seed: int = 0, targets: int = 0, *, planted: bool = False
) -> Batch:
    """Make rows of random ids, lists of 0 to 5 of them, the last row padding.

    Args:
        inputs: features.
        rows: B.
        seed: of the ids.
        targets: most of the further feature `targets`; none of them is in `seen`.
        planted: whether users have only items of the parity of their own id; all rows are positives.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator)

    lists: dict[str, list[torch.Tensor]] = {name: [] for name in inputs.features}
    if targets:
        lists["targets"] = []
    for _ in range(rows):
        order = torch.randperm(ITEMS, generator=generator) + 2
        user, item = drawn(1, NUM_EMBEDDINGS, 1), drawn(1, NUM_EMBEDDINGS, 1)
        length, wanted = int(drawn(0, 6, 1)), int(drawn(0, targets + 1, 1))
        if planted:
            order = order[order % 2 == user % 2]
            item = order[-1:]
        of_row = {
            "user": user,
            "item": item,
            "seen": order[:length],
            "targets": order[length : length + wanted],
            "genres": order[:2],
        }
        for name, ids in lists.items():
            ids.append(of_row[name])
    lengths = torch.tensor([len(ids) for column in lists.values() for ids in column])
    values = torch.cat([ids for column in lists.values() for ids in column])
    real = torch.arange(rows) < rows - 1
    positive = real if planted else real & (drawn(0, 4, rows) > 0)
    return Batch(
        dense_BF=torch.zeros(rows, 0),
        sparse=KeyedJaggedTensor.from_lengths_sync(list(lists), values, lengths),
        labels_BT=positive.float().unsqueeze(1),
        weights_B=real.float() * (1 + drawn(0, 3, rows)),
        rows_B=torch.where(real, torch.arange(rows) + 100 * seed, -1),
    )


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Return some rows of a batch."""
    parts = {key: ids.to_dense()[rows] for key, ids in batch.sparse.to_dict().items()}
    lengths = torch.tensor([len(ids) for lists in parts.values() for ids in lists])
    values = torch.cat([ids for lists in parts.values() for ids in lists])
    return replace(
        batch,
        dense_BF=batch.dense_BF[rows],
        sparse=KeyedJaggedTensor.from_lengths_sync(list(parts), values, lengths),
        labels_BT=batch.labels_BT[rows],
        weights_B=batch.weights_B[rows],
        rows_B=batch.rows_B[rows],
    )
