"""Whether embedding tables learn: some rows that were looked up, before and after some steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharding.tables import TableSpec
from sharding.weights import local_parts, table_weights
from trainer.guard.findings import Finding, listed

ROWS = 32
"""Rows of a table that are looked at: those with the smallest ids, the most frequent of a vocabulary."""
LARGEST_COMPONENT = 10.0
# Growth over the first look that an explosion needs as well: pre-trained vectors may be large.
_GROWTH = 10.0
# Share of the sum of squares that is left around the mean, below which vectors are all the same.
_SPREAD, _LEAST_VECTORS = 1e-6, 8
# Ids per table and rank among which rows are chosen, and fewest steps between two looks.
_IDS_LOOKED_AT, LEAST_STEPS = 4096, 10
# Components, changed ones and sum of squares; then the sum of the vectors.
_FIGURES = 3


class TableWatch:
    """Looks at the same rows twice: when a batch looks them up, and some steps later.

    Every rank reads what it holds of these rows; sums over ranks tell of the whole, at every world size.
    Copies of a table count as often as there are copies, which no ratio shows.

    Args:
        tables: of the model; those with learning rate 0 are meant to stay and are left out.
        task: the sharded model.
        device: where the ranks reduce.
        first_sizes: what `first_sizes` was before the run was taken up again.

    Attributes:
        first_sizes: by table, root mean square of the components at the first look of the whole run.
    """

    def __init__(
        self,
        tables: Sequence[TableSpec],
        task: DistributedModelParallel,
        device: torch.device,
        first_sizes: Mapping[str, float] | None = None,
    ) -> None:
        self._tables = [table for table in tables if table.learning_rate != 0]
        self._task, self._device = task, device
        self._rows: list[Tensor] = []
        self._before: list[list[tuple[int, Tensor]]] = []
        self.first_sizes: dict[str, float] = dict(first_sizes or {})
        self.step = 0
        """Steps done at the first of the two looks."""

    def begin(self, sparse: KeyedJaggedTensor, step: int) -> None:
        """Choose rows that this step looks up, and keep them as they are; every rank calls it.

        Args:
            sparse: the batch, on its device, with rows for ids.
            step: steps done.
        """
        self.step = step
        chosen_TR = torch.full((len(self._tables), ROWS), -1, dtype=torch.int64)
        keys = set(sparse.keys())  # a model may look up more than the batch holds
        for number, table in enumerate(self._tables):
            held = [sparse[name].values()[:_IDS_LOOKED_AT] for name in table.features if name in keys]
            ids = torch.cat(held) if held else torch.zeros(0, dtype=torch.int64)
            rows = torch.unique(ids[ids > 0])[:ROWS].cpu()
            chosen_TR[number, : len(rows)] = rows
        mine_TR = chosen_TR.to(self._device)
        parts = [torch.empty_like(mine_TR) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine_TR)
        together = torch.cat(parts, dim=1).cpu()
        self._rows = [torch.unique(row[row >= 0])[:ROWS] for row in together]
        self._before = self._values()
        self._note_first_sizes()

    def _note_first_sizes(self) -> None:
        """Keep how large the components are of tables that have not been looked at before."""
        if all(table.name in self.first_sizes for table in self._tables):
            return
        sums_T2 = torch.zeros((len(self._tables), 2), dtype=torch.float64)
        for number, parts in enumerate(self._before):
            for _, values_RC in parts:
                sums_T2[number] += torch.tensor([values_RC.numel(), float(values_RC.square().sum())])
        sums_T2 = sums_T2.to(self._device)
        dist.all_reduce(sums_T2)
        for table, (count, squares) in zip(self._tables, sums_T2.tolist(), strict=True):
            if count:
                self.first_sizes.setdefault(table.name, math.sqrt(squares / count))

    def figures(self) -> Tensor:
        """Return the sums of this rank for all tables, one after another, float64 on CPU."""
        sums = []
        for table, before, after in zip(self._tables, self._before, self._values(), strict=True):
            figures, vector_D = torch.zeros(_FIGURES).double(), torch.zeros(table.embedding_dim).double()
            for (column, old_RC), (_, new_RC) in zip(before, after, strict=True):
                changed = (old_RC != new_RC).sum()
                sizes = (new_RC.numel(), changed, new_RC.square().sum())
                figures += torch.tensor([float(size) for size in sizes], dtype=torch.float64)
                vector_D[column : column + new_RC.shape[1]] += new_RC.sum(0)
            sums += [figures, vector_D]
        return torch.cat(sums) if sums else torch.zeros(0).double()

    def findings(self, figures: Tensor, step: int, *, at_rate_0: bool = False) -> list[Finding]:
        """Return which tables are dead, explode or have collapsed.

        Args:
            figures: of all ranks together.
            step: steps done.
            at_rate_0: whether the schedule has come to 0 since the first look: nothing is dead by that.
        """
        dead, exploding, collapsed = {}, {}, {}
        for table, rows_R, part in zip(self._tables, self._rows, self._split(figures), strict=True):
            (count, changed, after), vector_D = part[:_FIGURES].tolist(), part[_FIGURES:]
            if not count:
                continue
            size, first = math.sqrt(after / count), self.first_sizes[table.name]
            if not changed and not at_rate_0:
                dead[table.name] = f"{table.name} ({len(rows_R)} rows)"
            if not size <= LARGEST_COMPONENT and not size <= _GROWTH * first:
                exploding[table.name] = f"{table.name} ({size:.3g}, {first:.3g} at the first look)"
            around_mean = after - float(vector_D.square().sum()) / (count / table.embedding_dim)
            if len(rows_R) >= _LEAST_VECTORS and around_mean <= _SPREAD * after:
                collapsed[table.name] = f"{table.name} ({len(rows_R)} rows, size {size:.3g})"
        steps = f"steps {self.step + 1:,} to {step:,}"
        told = {
            "table_dead": (dead, f"rows that were looked up have not changed over {steps}"),
            "table_exploding": (
                exploding,
                f"components are larger than {LARGEST_COMPONENT:g} (root mean square)",
            ),
            "table_collapsed": (collapsed, "all vectors looked at are the same"),
        }
        return [
            Finding(code, step, f"tables whose {what}: {listed(list(found.values()))}", tuple(found))
            for code, (found, what) in told.items()
            if found
        ]

    def not_finite(self) -> list[str]:
        """Return the tables of which this rank holds rows that are no finite numbers."""
        return [
            name
            for name, weight in self._weights().items()
            if any(
                not bool(torch.isfinite(part.sum(dtype=torch.float32))) for part, _, _ in local_parts(weight)
            )
        ]

    def _values(self) -> list[list[tuple[int, Tensor]]]:
        """Return, for each table, this rank's blocks of the chosen rows: first column and float64 [R, C]."""
        weights = self._weights()
        return [
            [
                (column, part[(rows_R[here_R] - row).to(part.device)].double().cpu())
                for part, row, column in local_parts(weights[table.name])
                for here_R in [(rows_R >= row) & (rows_R < row + part.shape[0])]
            ]
            for table, rows_R in zip(self._tables, self._rows, strict=True)
        ]

    def _weights(self) -> dict[str, Any]:
        # Asked for every time: it writes back the rows that a cache in front of a table holds.
        return table_weights(self._task.state_dict(), {table.name for table in self._tables})

    def _split(self, figures: Tensor) -> Sequence[Tensor]:
        ends = accumulate(_FIGURES + table.embedding_dim for table in self._tables)
        return torch.tensor_split(figures, list(ends)[:-1]) if self._tables else ()
