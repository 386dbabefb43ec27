"""A checkpoint written anew for tables with other rows: each new row takes what its old row had learnt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharding.id_buckets import BucketShape
from sharding.moved_ids import FRESH, IdEntries, move_ids
from sharding.tables import TableSpec
from sharding.weights import uniform_rows
from trainer.errors import CheckpointError
from trainer.stored_tensors import NewTensor, Rows, StoredTensors, write_tensors

_ID_KEYS = ("ids", "counts", "seen")


@dataclass(frozen=True)
class RowOrigins:
    """Where the rows of a new table come from.

    Attributes:
        origin_R: int64 [rows of the new table]: the old row of each, or `FRESH`.
        kept: values (or buckets of a hash, or ids) that keep what was learnt.
        new: values that the old table had no row for.
        dropped: values of the old table that have no row in the new one.
        entries: the ids of a table with `ids`.
    """

    origin_R: Tensor
    kept: int
    new: int
    dropped: int
    entries: IdEntries | None = None


@dataclass(frozen=True)
class TablePair:
    """A table before and after."""

    old: TableSpec
    new: TableSpec


def check_tables(old: Sequence[TableSpec], new: Sequence[TableSpec], where: str) -> dict[str, TablePair]:
    """Pair the tables of two runs by name.

    Args:
        old: of the run that was trained.
        new: of the run to start.
        where: the checkpoint.

    Raises:
        CheckpointError: a table is in one run alone, or has other columns, another data type, or `ids` in
            one of them alone.
    """
    before, after = {table.name: table for table in old}, {table.name: table for table in new}
    if alone := sorted(before.keys() ^ after.keys()):
        raise CheckpointError(
            f"table {alone[0]!r} is in one of the two runs alone: a changed model cannot be remapped",
            where=where,
            got=sorted(after),
            allowed=sorted(before),
            fixes=["name the tables in the config as the run did", "train anew"],
        )
    for name, table in after.items():
        for key, was, now in (
            ("embedding_dim", before[name].embedding_dim, table.embedding_dim),
            ("data_type", before[name].data_type, table.data_type),
            ("ids", before[name].ids is not None, table.ids is not None),
        ):
            if was != now:
                raise CheckpointError(
                    f"the rows of table {name!r} were learnt with another {key}",
                    where=f"tables.{name}.{key}",
                    got=now,
                    allowed=was,
                    fixes=[f"set tables.{name}.{key} as in the config of the run", "train anew"],
                )
    return {name: TablePair(before[name], table) for name, table in after.items()}


def check_dense(stored: StoredTensors, shapes: Mapping[str, Sequence[int]], where: str) -> None:
    """Check that the parameters outside the tables have the shapes of the checkpoint.

    Args:
        stored: the checkpoint.
        shapes: by name, of the new model's tensors outside its tables.
        where: the checkpoint.

    Raises:
        CheckpointError: naming a parameter that differs.
    """
    found = {
        place[1]: stored.shape(name)
        for name, place in stored.places.items()
        if place[0] == "model" and not _is_table(place[1])
    }
    wanted = {name: tuple(shape) for name, shape in shapes.items() if not _is_table(name)}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise CheckpointError(
                f"parameter {name} has another shape in the new run: a changed model cannot be remapped",
                where=where,
                got=list(wanted[name]) if name in wanted else "no such parameter",
                allowed=list(found[name]) if name in found else "no such parameter",
                fixes=["set `model` and `features` as in the config of the run", "train anew"],
            )


def ids_moved(stored: StoredTensors, pair: TablePair) -> RowOrigins:
    """Move the ids of a table with `ids` to their buckets in the new one.

    Args:
        stored: the checkpoint.
        pair: the table.
    """
    assert pair.old.ids is not None
    assert pair.new.ids is not None
    found = IdEntries(*(stored.read(f"ids.{pair.old.name}.{key}") for key in _ID_KEYS))
    step = int(stored.read("ids.step"))
    rows = pair.old.num_embeddings, pair.new.num_embeddings
    moved = move_ids(found, *rows, pair.old.ids, pair.new.ids, step)
    return RowOrigins(moved.origin_R, moved.kept, 0, moved.dropped, moved.entries)


def write_remapped(
    stored: StoredTensors,
    target: Path,
    tables: Mapping[str, TablePair],
    origins: Callable[[str], RowOrigins],
    seed: int,
) -> dict[str, RowOrigins]:
    """Write the tensors of a checkpoint for other tables; one table at a time is in memory.

    Args:
        stored: the checkpoint.
        target: folder to write to.
        tables: by name.
        origins: returns where the rows of a table come from; called once for each.
        seed: of the new run: a fresh row starts as it would in a run that starts anew.

    Returns:
        What `origins` told, by table, without its tensors.
    """
    open_tables = _OneAtATime(origins)
    by_table: dict[str | None, list[str]] = {None: [], **{name: [] for name in tables}}
    for name, place in stored.places.items():
        by_table[_table_of(place, tables)].append(name)
    tensors = [_copied(stored, name) for name in by_table.pop(None)]
    for table, names in by_table.items():
        assert table is not None
        for name in names:
            tensors.append(_remapped(stored, name, tables[table], open_tables, seed))
    write_tensors(target, tensors)
    return open_tables.told


class _OneAtATime:
    """Holds the origins of the table at hand, and the numbers of all."""

    def __init__(self, origins: Callable[[str], RowOrigins]) -> None:
        self._origins = origins
        self._open: tuple[str, RowOrigins] | None = None
        self.told: dict[str, RowOrigins] = {}

    def __call__(self, table: str) -> RowOrigins:
        if self._open is None or self._open[0] != table:
            self._open = None
            found = self._origins(table)
            self._open = table, found
            self.told[table] = RowOrigins(torch.empty(0), found.kept, found.new, found.dropped)
        return self._open[1]


def _is_table(parameter: str) -> bool:
    parts = parameter.split(".")
    return len(parts) >= 3 and parts[-1] == "weight" and parts[-3] in ("embedding_bags", "embeddings")


def _table_of(place: tuple[Any, ...], tables: Mapping[str, TablePair]) -> str | None:
    """Return the table that a tensor belongs to; None for the dense part and what is one for all tables."""
    if place[0] == "ids":
        return place[1] if place[1] in tables and len(place) == 3 else None
    parameter = place[2] if place[0] == "optimizer" else place[1]
    return parameter.split(".")[-2] if _is_table(parameter) else None


def _copied(stored: StoredTensors, name: str) -> NewTensor:
    shape = stored.shape(name)

    def opened() -> Rows:
        whole = stored.read(name)
        return lambda start, stop: whole[start:stop] if shape else whole

    return NewTensor(name, stored.places[name], shape, stored.dtype(name), opened)


def _remapped(
    stored: StoredTensors, name: str, pair: TablePair, origins: _OneAtATime, seed: int
) -> NewTensor:
    """Return a tensor of a table: its weights, its ids, or an optimizer state."""
    place, shape, dtype = stored.places[name], stored.shape(name), stored.dtype(name)
    old_rows, new_rows = pair.old.num_embeddings, pair.new.num_embeddings
    if place[0] == "ids":
        buckets = BucketShape.of(new_rows)
        shape = (buckets.buckets, 2 * buckets.slots)
        return NewTensor(name, place, shape, dtype, partial(_entries, origins, pair.new.name, place[2]))
    if not shape or shape[0] % old_rows:
        return _copied(stored, name)  # a number for the whole table
    # Of a table cut by columns, states of one number for a row lie end to end, shard after shard.
    shape = (shape[0] // old_rows * new_rows, *shape[1:])

    def opened() -> Rows:
        origin_R, old = origins(pair.new.name).origin_R, stored.read(name)

        def rows(start: int, stop: int) -> Tensor:
            shard_R, row_R = _divmod(torch.arange(start, stop), new_rows)
            from_R = origin_R[row_R]
            values = old[shard_R * old_rows + from_R.clamp(min=0)]
            fresh_R = from_R == FRESH
            values[fresh_R] = _fresh(row_R[fresh_R], pair.new, shape, seed, dtype, place[0])
            return values

        return rows

    return NewTensor(name, place, shape, dtype, opened)


def _divmod(number_R: Tensor, by: int) -> tuple[Tensor, Tensor]:
    return number_R // by, number_R % by


def _fresh(
    row_R: Tensor, table: TableSpec, shape: tuple[int, ...], seed: int, dtype: torch.dtype, kind: str
) -> Tensor:
    """Return what rows start with: initial weights, or no optimizer state."""
    if kind != "model":
        return torch.zeros(len(row_R), *shape[1:], dtype=dtype)
    size = (shape[0], shape[1])
    columns, end = range(shape[1]), table.weight_init_max
    return uniform_rows(seed, table.name, row_R, columns, table_shape=size, weight_init_max=end).to(dtype)


def _entries(origins: _OneAtATime, table: str, key: str) -> Rows:
    entries = origins(table).entries
    assert entries is not None
    values: Tensor = getattr(entries, f"{key}_BE")
    return lambda start, stop: values[start:stop]
