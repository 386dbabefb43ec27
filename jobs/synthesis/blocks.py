"""Makes the columns of a block of rows, and the signal that their values carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.synthesis.draws import (
    BLOCK_ROWS,
    Floats,
    Ids,
    effects,
    power_law_ranks,
    salt,
    scrambled,
    signs,
    uniforms,
    with_missing,
)
from jobs.synthesis.shape import Shape

TASTES = 16
"""Every user has a taste, every item serves one."""
_TASTE_SHARE = 0.5
_INTERACTION_SHARE = 0.2
_LARGEST_COUNT = 1e9
_START = 1_704_067_200  # 2024-01-01 00:00 UTC
_DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Values:
    """One column of a block.

    Attributes:
        values: whole numbers; uint32 for ids. Of lists, the items one after another.
        missing: which rows have no value; None for none.
        lengths: of lists; 0 where missing.
    """

    values: NDArray[Any]
    missing: NDArray[np.bool_] | None = None
    lengths: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Block:
    """`BLOCK_ROWS` rows: every column but the label, and the unscaled signal of each row."""

    columns: dict[str, Values]
    signal: Floats


def make_block(shape: Shape, number: int) -> Block:
    """Return the rows from `number * BLOCK_ROWS`; they depend on shape, seed and number alone.

    The signal is a sum over what the row shows, so it can be reached: an effect for each id, hashed from
    (seed, column, id); for dense columns their logarithm; for lists the mean of their effects. A fifth of its
    variance are interactions that no sum over single columns can express.
    """
    return _Maker(shape, number).block()


def interacting_columns(shape: Shape) -> tuple[str, str] | None:
    """Return the two sparse columns of middle size that interact, or None for a single one."""
    names = list(shape.sparse_columns)
    return (names[len(names) // 2 - 1], names[len(names) // 2]) if len(names) > 1 else None


class _Maker:
    """Collects the columns of one block; additive effects and interactions apart."""

    def __init__(self, shape: Shape, number: int) -> None:
        self._shape, self._number = shape, number
        self._columns: dict[str, Values] = {}
        self._sum, self._terms = np.zeros(BLOCK_ROWS), 0
        self._joint, self._joint_terms = np.zeros(BLOCK_ROWS), 0

    def block(self) -> Block:
        shape = self._shape
        for place, name in enumerate(shape.dense_columns):
            self._dense(name, scale=0.5 + 2.0 * place / max(1, shape.dense - 1))
        for name, cardinality in shape.sparse_columns.items():
            self._sparse(name, cardinality)
        for name, cardinality in shape.list_columns.items():
            self._list(name, cardinality)
        pair = interacting_columns(shape)
        if pair is not None:
            self._pair(*pair)
        if shape.history:
            self._events()
        if shape.num_days:
            self._columns["event_time"] = Values(self._times())
        additive = self._sum * np.sqrt((1 - _INTERACTION_SHARE) / max(1, self._terms))
        return Block(
            self._columns, additive + self._joint * np.sqrt(_INTERACTION_SHARE / max(1, self._joint_terms))
        )

    def _dense(self, name: str, scale: float) -> None:
        """Draw counts whose log(1 + x) has an exponential distribution of mean `scale`, cut to whole ones."""
        u, missing = with_missing(self._uniforms(name), self._shape.missing_share)
        counts = np.floor(np.minimum(np.expm1(-scale * np.log1p(-u)), _LARGEST_COUNT))
        self._columns[name] = Values(counts.astype(np.int64), missing)
        sign = 1.0 if salt(self._shape.seed, name, "sign") % 2 else -1.0
        self._add(sign * (np.log1p(counts) / scale - 1.0), missing)

    def _sparse(self, name: str, cardinality: int) -> None:
        u, missing = with_missing(self._uniforms(name), self._shape.missing_share)
        ids = self._ids(name, power_law_ranks(u, cardinality, self._shape.alpha))
        self._columns[name] = Values(ids, missing)
        self._add(effects(ids, self._key(name, "effect")), missing)

    def _list(self, name: str, cardinality: int) -> None:
        u, missing = with_missing(self._uniforms(f"{name} length"), self._shape.missing_share)
        lengths = _geometric(u, self._shape.mean_length)
        if missing is not None:
            lengths[missing] = 0
        ranks = power_law_ranks(self._uniforms(name, int(lengths.sum())), cardinality, self._shape.alpha)
        ids = self._ids(name, ranks)
        self._columns[name] = Values(ids, missing, lengths)
        rows = np.repeat(np.arange(BLOCK_ROWS), lengths)
        sums = np.bincount(rows, effects(ids, self._key(name, "effect")), minlength=BLOCK_ROWS)
        # Means of longer lists vary less: the root makes them count as much as single ids do.
        self._add(sums / np.maximum(lengths, 1) * np.sqrt(self._shape.mean_length), missing)

    def _pair(self, first: str, second: str) -> None:
        """Let two columns interact: 1 where the hashed signs of their ids agree, else -1."""
        product = np.ones(BLOCK_ROWS)
        for name in (first, second):
            column = self._columns[name]
            product *= signs(column.values, self._key(name, "sign"))
            if column.missing is not None:
                product[column.missing] = 0.0
        self._joint += product
        self._joint_terms += 1

    def _events(self) -> None:
        """Draw who met which item: every other item is of the user's taste, and that is what users like."""
        shape = self._shape
        # Density falling as x^-0.5: some users are busy, none is everywhere.
        users = power_law_ranks(self._uniforms("user_id"), shape.num_users, alpha=0.5)
        user_ids = self._ids("user_id", users)
        tastes = scrambled(user_ids, self._key("user_id", "taste")) % np.uint32(TASTES)
        ranks = power_law_ranks(self._uniforms("item_id"), shape.num_items, shape.alpha)
        fitting = ranks - ranks % np.uint32(TASTES) + tastes
        follow = (self._uniforms("taste") < _TASTE_SHARE) & (fitting >= 1) & (fitting <= shape.num_items)
        ranks = np.where(follow, fitting, ranks)
        self._joint += np.where(ranks % np.uint32(TASTES) == tastes, 1.0, -1.0)
        self._joint_terms += 1
        for name, ids in (("user_id", user_ids), ("item_id", self._ids("item_id", ranks))):
            self._columns[name] = Values(ids)
            self._add(effects(ids, self._key(name, "effect")), None)

    def _times(self) -> NDArray[np.int64]:
        """Return seconds since 1970 that rise with the row, evenly over the days."""
        shape = self._shape
        share = np.minimum((np.arange(BLOCK_ROWS) + float(self._number * BLOCK_ROWS)) / shape.rows, 1.0)
        seconds = np.floor(share * (shape.num_days * _DAY_SECONDS))
        times: NDArray[np.int64] = _START + seconds.astype(np.int64)
        return times

    def _uniforms(self, purpose: str, count: int = BLOCK_ROWS) -> Floats:
        return uniforms(self._shape.seed, purpose, self._number, count)

    def _key(self, name: str, purpose: str) -> int:
        return salt(self._shape.seed, name, purpose)

    def _ids(self, name: str, ranks: Ids) -> Ids:
        """Hide the ranks: an id's number says nothing about how frequent it is."""
        return scrambled(ranks, self._key(name, "id"))

    def _add(self, effect: Floats, missing: NDArray[np.bool_] | None) -> None:
        if missing is not None:
            effect[missing] = 0.0
        self._sum += effect
        self._terms += 1


def _geometric(uniform: Floats, mean: float) -> NDArray[np.int64]:
    """Return lengths from 1 with a geometric distribution."""
    if mean == 1:
        return np.ones(len(uniform), dtype=np.int64)
    lengths: NDArray[np.int64] = 1 + np.floor(np.log1p(-uniform) / np.log1p(-1 / mean)).astype(np.int64)
    return lengths
