"""Rows that change their owner start anew: initial weights and zeroed optimizer state, on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import KeyedOptimizer

from sharding.tables import TableSpec
from sharding.weights import local_parts, table_weights, uniform_rows


@dataclass(frozen=True)
class _Block:
    """Rows of one tensor on this rank: [rows, columns], or [rows] where it holds one number for a row."""

    values: Tensor
    first_row: int
    first_column: int

    def places(self, rows_R: Tensor) -> tuple[Tensor, Tensor]:
        """Return which of some rows of the table lie here, and where."""
        here_R = (rows_R >= self.first_row) & (rows_R < self.first_row + self.values.shape[0])
        chosen = rows_R[here_R]
        return chosen, chosen - self.first_row


class FreshRows:
    """Writes into the local blocks of tables with ids that come and go.

    The blocks are looked up once: weights and optimizer states keep their memory as long as the model lives.

    Args:
        dmp: the sharded model.
        optimizer: of its tables.
        tables: with `ids`.
        seed: of the run: a row's fresh weights are those that it started with.
    """

    def __init__(
        self,
        dmp: DistributedModelParallel,
        optimizer: KeyedOptimizer,
        tables: Sequence[TableSpec],
        seed: int,
    ) -> None:
        self._seed, self._tables = seed, {table.name: table for table in tables}
        self._weights = {
            name: [_Block(*part) for part in local_parts(weight)]
            for name, weight in table_weights(dmp.state_dict() if tables else {}, self._tables).items()
        }
        states = table_weights(optimizer.state_dict()["state"] if tables else {}, self._tables)
        self._states = {name: list(self._state_blocks(name, state)) for name, state in states.items()}

    def write(self, table: str, rows_R: Tensor) -> None:
        """Start rows of a table anew.

        Args:
            table: its name.
            rows_R: int64, rows of the whole table, wherever they lie.
        """
        spec = self._tables[table]
        shape = (spec.num_embeddings, spec.embedding_dim)
        with torch.no_grad():
            for block in self._weights[table]:
                rows, places = block.places(rows_R.to(block.values.device))
                columns = range(block.first_column, block.first_column + block.values.shape[1])
                fresh = uniform_rows(
                    self._seed,
                    table,
                    rows,
                    columns,
                    table_shape=shape,
                    weight_init_max=spec.weight_init_max,
                )
                block.values[places] = fresh.to(block.values.dtype)
            for block in self._states.get(table, []):
                _, places = block.places(rows_R.to(block.values.device))
                block.values[places] = 0

    def _state_blocks(self, table: str, state: dict[str, Any]) -> list[_Block]:
        rows = self._tables[table].num_embeddings
        return [
            # Of a table cut by columns, states of one number for a row lie end to end, shard after shard.
            _Block(tensor, row % rows, column)
            for value in state.values()
            if value.ndim > 0 and value.shape[0] % rows == 0
            for tensor, row, column in local_parts(value)
        ]
