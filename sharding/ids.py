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

from sharding.id_buckets import OOV_ROW, PADDING_ROW, BucketShape
from sharding.id_exchange import Brought, IdExchange, all_rows
from sharding.id_share import IdShare, TableIds, TableShare
from sharding.tables import TableSpec

Figures = dict[str, dict[str, float]]
_COUNTS = 4  # admitted, evicted, lookups, lookups without a row
_LOOKED_UP = 2  # lookups, and those without a row, outside training
_NO_TABLE = -1  # of features whose table has no `ids`


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
        self._shapes = [BucketShape.of(table.num_embeddings) for table in self.tables]
        self._share = IdShare(
            [self._own(*each) for each in zip(self.tables, self._shapes, strict=True)], device
        )
        self._per_rank_K = torch.tensor([self._per_rank(shape) for shape in self._shapes], device=device)
        rows = torch.tensor([0, *(table.num_embeddings for table in self.tables)], device=device)
        self._first_row_K = rows.cumsum(0)
        self._number = {f: number for number, table in enumerate(self.tables) for f in table.features}
        self._exchange = IdExchange(self._world_size, len(self.tables), device)
        self._step = torch.zeros((), dtype=torch.int64)
        self._counts = torch.zeros(len(self.tables), _COUNTS, dtype=torch.int64, device=device)
        self._looked_up = torch.zeros(len(self.tables), _LOOKED_UP, dtype=torch.int64, device=device)

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
        values = ids.values().clone()
        where_N, tables_N = self._asked(ids)
        asked, inverse_N = TableIds.of(tables_N, values[where_N], torch.ones_like(where_N))
        owner_U = self._share.bucket_of(asked.tables_U, asked.ids_U) // self._per_rank_K[asked.tables_U]
        brought = self._exchange.to_owners(owner_U, asked)
        answer_N, new_R = self._answer(brought, count=count)
        rows_U = self._exchange.back(brought, answer_N)
        told = self._counts[:, 2:] if count else self._looked_up
        told[:, 0].index_add_(0, asked.tables_U, asked.counts_U)
        told[:, 1].index_add_(0, asked.tables_U, asked.counts_U * (rows_U == OOV_ROW))
        values[where_N] = rows_U[inverse_N]
        rows = KeyedJaggedTensor(
            keys=ids.keys(), values=values, weights=ids.weights_or_none(), lengths=ids.lengths()
        )
        return rows, self._by_table(all_rows(new_R, self._world_size)) if count else {}

    def _asked(self, ids: KeyedJaggedTensor) -> tuple[Tensor, Tensor]:
        """Return where the batch has ids of the tables, without padding, and the table of each."""
        keys: list[str] = ids.keys()
        number_F = torch.tensor([self._number.get(key, _NO_TABLE) for key in keys], device=self.device)
        sizes_F = torch.tensor(ids.length_per_key(), device=self.device)
        table = number_F.repeat_interleave(sizes_F, output_size=len(ids.values()))
        where_N = ((table != _NO_TABLE) & (ids.values() != PADDING_ROW)).nonzero().squeeze(1)
        return where_N, table[where_N]

    def _answer(self, brought: Brought, *, count: bool) -> tuple[Tensor, Tensor]:
        """Answer what all ranks asked of this rank's buckets.

        Returns:
            The row of each id, and the rows with a new owner, numbered through over all tables.
        """
        ids, inverse_N = TableIds.of(brought.tables_N, brought.ids_N, brought.counts_N)
        if not count:
            return self._share.rows_of(ids, self.step)[inverse_N], inverse_N[:0]
        change = self._share.update(ids, self.step)
        tables_A, rows_A = ids.tables_U[change.admitted_A], change.rows_U[change.admitted_A]
        for column, tables in enumerate((tables_A, change.evicted_V)):
            self._counts[:, column] += torch.bincount(tables, minlength=len(self.tables))
        return change.rows_U[inverse_N], self._first_row_K[tables_A] + rows_A

    def _by_table(self, rows_R: Tensor) -> dict[str, Tensor]:
        """Return rising rows that are numbered through, by table."""
        ends = torch.searchsorted(rows_R, self._first_row_K).tolist()
        return {
            table.name: rows_R[start:stop] - self._first_row_K[number]
            for number, (table, start, stop) in enumerate(zip(self.tables, ends, ends[1:], strict=False))
        }

    def figures(self) -> Figures:
        """Return by table what happened since the last call, over all ranks; every rank calls it.

        Returns:
            `slots`, `owners` (ids with a slot), `occupancy` (owners by slots), `candidates` (ids that were
            seen and are kept in mind, without a slot), `admitted` and `evicted` (ids), `oov_share` (share of
            the ids looked up in training that had no row of their own).
        """
        held = torch.tensor(self._share.held(self.step), device=self.device).reshape(-1, 2)
        told = self._over_ranks(torch.cat([self._counts, held], dim=1))
        self._counts.zero_()
        figures = {}
        for table, shape, (admitted, evicted, asked, unknown, owners, candidates) in zip(
            self.tables, self._shapes, told, strict=True
        ):
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
        every = numbers.clone()
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
        for number, (table, buckets) in enumerate(zip(self.tables, self._shapes, strict=True)):
            shape = torch.Size((buckets.buckets, 2 * buckets.slots))
            state[table.name] = {
                key: DTensor.from_local(
                    local, mesh, [Shard(0)], run_check=False, shape=shape, stride=(shape[1], 1)
                )
                for key, local in self._share.state(number).items()
            }
        return state

    def _own(self, table: TableSpec, shape: BucketShape) -> TableShare:
        assert table.ids is not None
        first, last = (
            min(rank * self._per_rank(shape), shape.buckets) for rank in (self._rank, self._rank + 1)
        )
        return TableShare(shape, range(first, last), table.ids)

    def _per_rank(self, shape: BucketShape) -> int:
        """Return the buckets of a rank, as a DTensor is cut into shards."""
        return -(-shape.buckets // self._world_size)
