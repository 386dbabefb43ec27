"""Tables whose ids come and go: each id of the data gets a row of its own, for as long as it is worth one.

```python
id_map = IdMap(tables, device)                       # one for all tables with `TableSpec.ids`
rows, changed = id_map.train(batch.sparse)           # every rank, once a step, before the lookup
for table, rows_R in changed.items():
    fresh_rows.write(table, rows_R)                  # `sharding.fresh_rows`
rows = id_map.look_up(batch.sparse)                  # evaluation: changes nothing
```

Each rank holds an equal share of every table's buckets, whatever the sharding of the tables. Ids go to the
rank of their bucket, which counts them once for all ranks, in the order of the ids: the rows depend on the
rows of the global batch alone, not on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharding.id_buckets import OOV_ROW, PADDING_ROW, BucketShape, IdBuckets
from sharding.id_exchange import IdExchange, all_rows
from sharding.tables import TableSpec

Figures = dict[str, dict[str, float]]
_STATE = {"ids": "ids_BE", "counts": "counts_BE", "seen": "seen_BE"}
_COUNTS = 4  # admitted, evicted, lookups, lookups without a row
_LOOKED_UP = 2  # lookups, and those without a row, outside training


class IdMap:
    """The ids of all tables that have `ids`, shared out over the ranks of the process group.

    Args:
        tables: of the model; those without `ids` are left alone.
        device: of this rank.

    Attributes:
        tables: those with `ids`.
        step: training steps seen.
    """

    def __init__(self, tables: Sequence[TableSpec], device: torch.device) -> None:
        self.tables = [table for table in tables if table.ids is not None]
        self.device = device
        self._world_size, self._rank = dist.get_world_size(), dist.get_rank()
        self._buckets = {table.name: self._own_buckets(table) for table in self.tables}
        self._exchange = IdExchange(self._world_size, len(self.tables), device)
        self._step = torch.zeros((), dtype=torch.int64)
        self._counts = torch.zeros(len(self.tables), _COUNTS, dtype=torch.int64)
        self._looked_up = torch.zeros(len(self.tables), _LOOKED_UP, dtype=torch.int64)

    @property
    def step(self) -> int:
        """Return the training steps seen."""
        return int(self._step)

    def train(self, ids: KeyedJaggedTensor) -> tuple[KeyedJaggedTensor, dict[str, Tensor]]:
        """Count the ids of a global batch, admit and evict, and return the batch with rows for ids.

        Args:
            ids: this rank's part of the batch; every rank of the group brings its own.

        Returns:
            The batch for the tables, and by table the rows that have a new owner, on every rank alike.
        """
        self._step += 1
        return self._translated(ids, count=True)

    def look_up(self, ids: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """Return a batch with rows for ids; unknown ids get `OOV_ROW`, and no count of an id changes.

        Args:
            ids: this rank's part; every rank calls it as often as the others.
        """
        return self._translated(ids, count=False)[0]

    def _translated(
        self, ids: KeyedJaggedTensor, *, count: bool
    ) -> tuple[KeyedJaggedTensor, dict[str, Tensor]]:
        if not self.tables:
            return ids, {}
        spans = _spans(ids)
        asked = [torch.cat([ids.values()[spans[f]] for f in table.features]) for table in self.tables]
        distinct = [_distinct(values) for values in asked]
        sent = [
            (self._owner(table, ids_U), ids_U, counts_U)
            for table, (ids_U, counts_U, _) in zip(self.tables, distinct, strict=True)
        ]
        brought = self._exchange.to_owners(sent)
        answers, changed = [], []
        for number, table in enumerate(self.tables):
            rows, new = self._answer(number, table, *brought.of(number), count=count)
            answers.append(rows)
            changed.append(new)
        values = ids.values().clone()
        for number, rows_U in enumerate(self._exchange.back(brought, answers)):
            table, (_, counts_U, inverse) = self.tables[number], distinct[number]
            told = self._counts[number, 2:] if count else self._looked_up[number]
            told += torch.stack([counts_U.sum(), counts_U[rows_U == OOV_ROW].sum()]).cpu()
            _write(values, spans, table.features, rows_U, inverse)
        rows = KeyedJaggedTensor(
            keys=ids.keys(), values=values, weights=ids.weights_or_none(), lengths=ids.lengths()
        )
        if not count:
            return rows, {}
        everywhere = all_rows(changed, self._world_size)
        return rows, {table.name: rows for table, rows in zip(self.tables, everywhere, strict=True)}

    def _answer(
        self, number: int, table: TableSpec, ids_N: Tensor, counts_N: Tensor, *, count: bool
    ) -> tuple[Tensor, Tensor]:
        """Answer what all ranks asked of this rank's buckets: a row for each id; and rows that changed."""
        buckets = self._buckets[table.name]
        ids_U, inverse_N = torch.unique(ids_N, return_inverse=True)
        if not count:
            return buckets.rows_of(ids_U, self.step)[inverse_N], ids_N[:0]
        counts_U = torch.zeros_like(ids_U).index_add_(0, inverse_N, counts_N)
        change = buckets.update(ids_U, counts_U, self.step)
        self._counts[number, 0] += len(change.renewed_R)
        self._counts[number, 1] += change.evicted
        return change.rows_N[inverse_N], change.renewed_R

    def figures(self) -> Figures:
        """Return by table what happened since the last call, over all ranks; every rank calls it.

        Returns:
            `slots`, `owners` (ids with a slot), `occupancy` (owners by slots), `candidates` (ids that were
            seen and are kept in mind, without a slot), `admitted` and `evicted` (ids), `oov_share` (share of
            the ids looked up in training that had no row of their own).
        """
        held = [self._buckets[table.name].held(self.step) for table in self.tables]
        told = self._over_ranks(torch.cat([self._counts, torch.tensor(held).reshape(-1, 2)], dim=1))
        self._counts.zero_()
        figures = {}
        for table, (admitted, evicted, asked, unknown, owners, candidates) in zip(
            self.tables, told, strict=True
        ):
            shape = self._buckets[table.name].shape
            slots = shape.buckets * shape.slots
            figures[table.name] = {
                "slots": slots,
                "owners": owners,
                "occupancy": owners / slots,
                "candidates": candidates,
                "admitted": admitted,
                "evicted": evicted,
                "oov_share": unknown / asked if asked else 0.0,
            }
        return figures

    def lookup_figures(self) -> Figures:
        """Return by table what `look_up` was asked since the last call, over all ranks; every rank calls it.

        Returns:
            `lookups` (ids, without padding) and `oov_share` (share of them that had no row of their own).
        """
        told = self._over_ranks(self._looked_up)
        self._looked_up.zero_()
        return {
            table.name: {"lookups": asked, "oov_share": unknown / asked if asked else 0.0}
            for table, (asked, unknown) in zip(self.tables, told, strict=True)
        }

    def _over_ranks(self, numbers: Tensor) -> list[list[int]]:
        every = numbers.to(self.device, copy=True)
        dist.all_reduce(every)
        found: list[list[int]] = every.tolist()
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the state in place: `torch.distributed.checkpoint` loads it at any world size."""
        if not self.tables:
            return {}
        world = dist.group.WORLD
        assert world is not None
        mesh = DeviceMesh.from_group(world, self.device.type)
        state: dict[str, Any] = {"step": self._step}
        for name, buckets in self._buckets.items():
            shape = torch.Size((buckets.shape.buckets, 2 * buckets.shape.slots))
            state[name] = {
                key: DTensor.from_local(
                    getattr(buckets, field),
                    mesh,
                    [Shard(0)],
                    run_check=False,
                    shape=shape,
                    stride=(shape[1], 1),
                )
                for key, field in _STATE.items()
            }
        return state

    def _own_buckets(self, table: TableSpec) -> IdBuckets:
        assert table.ids is not None
        shape = BucketShape.of(table.num_embeddings)
        share = self._share(shape)
        mine = range(min(self._rank * share, shape.buckets), min((self._rank + 1) * share, shape.buckets))
        return IdBuckets(shape, mine, table.ids, self.device)

    def _share(self, shape: BucketShape) -> int:
        """Return the buckets of a rank, as a DTensor is cut into shards."""
        return -(-shape.buckets // self._world_size)

    def _owner(self, table: TableSpec, ids_U: Tensor) -> Tensor:
        shape = self._buckets[table.name].shape
        return shape.bucket_of(ids_U) // self._share(shape)


def _spans(ids: KeyedJaggedTensor) -> dict[str, slice]:
    """Return where the values of each feature lie."""
    offsets = ids.offset_per_key()
    return {key: slice(offsets[i], offsets[i + 1]) for i, key in enumerate(ids.keys())}


def _distinct(ids_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct ids without padding, their counts, and for each id its place among them.

    The place of padding is -1.
    """
    ids_U, inverse_N, counts_U = torch.unique(ids_N, return_inverse=True, return_counts=True)
    padding = int(ids_U[:1].eq(PADDING_ROW).sum())
    return ids_U[padding:], counts_U[padding:], inverse_N - padding


def _write(
    values: Tensor, spans: dict[str, slice], features: Sequence[str], rows_U: Tensor, inverse: Tensor
) -> None:
    # Place -1 is the last: padding.
    rows_N = torch.cat([rows_U, rows_U.new_full((1,), PADDING_ROW)])[inverse]
    start = 0
    for feature in features:
        span = spans[feature]
        size = span.stop - span.start
        values[span] = rows_N[start : start + size]
        start += size
