"""What feature ops take and give: numbers and times as float64 arrays, ids as `Tokens`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Floats = NDArray[np.float64]
"""float64 [N], NaN where the value is missing. Times are seconds since 1970 in UTC."""
Codes = NDArray[np.int64]
Offsets = NDArray[np.int64]

MISSING = -1


def spans(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> tuple[Offsets, Codes]:
    """Lay spans of an array one after another.

    Args:
        starts: int64 [N], first place of each span.
        lengths: int64 [N], places in each span.

    Returns:
        int64 [N + 1] offsets of the spans in the result, and int64 [sum of lengths] places to take.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return offsets, np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)


@dataclass(frozen=True)
class Tokens:
    """Ids as text: one token per row, or a list of tokens per row.

    Most values repeat a lot, so ops work on `values`, which hold each about once per batch.

    Attributes:
        values: Arrow array without nulls, of text, or of int64 that stands for its decimal text; values may
            repeat and need not all be used.
        codes: int64 [M], place in `values`; `MISSING` where the token is missing.
        offsets: int64 [N + 1]: row i holds the codes from `offsets[i]` to `offsets[i + 1]`. None: one code
            per row, M = N.
    """

    values: pa.Array
    codes: Codes
    offsets: Offsets | None = None

    @property
    def num_rows(self) -> int:
        """Return N."""
        return len(self.codes) if self.offsets is None else len(self.offsets) - 1

    @property
    def is_list(self) -> bool:
        """Return whether a row holds a list."""
        return self.offsets is not None

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Return bool [M], true where the token is missing."""
        return self.codes < 0

    def texts(self) -> pa.Array:
        """Return `values` as text."""
        return self.values if pa.types.is_string(self.values.type) else self.values.cast(pa.string())

    def mapped(self, function: Callable[[pa.Array], pa.Array]) -> Tokens:
        """Apply a function of texts to texts (null or empty: missing), value by value.

        Args:
            function: takes an Arrow array of text and returns one of the same length.
        """
        made = function(self.texts())
        keep = pc.fill_null(pc.not_equal(made, ""), False).to_numpy(zero_copy_only=False)
        values = pc.fill_null(made, "").cast(pa.string())
        return replace(self, values=values, codes=self._where(keep))

    def split(self, function: Callable[[pa.Array], pa.Array]) -> Tokens:
        """Make a list of each token; a missing one becomes an empty list.

        Args:
            function: takes an Arrow array of text and returns one of lists of text.
        """
        assert self.offsets is None, "lists of lists are no tokens"
        lists = function(self.texts())
        starts = lists.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
        lengths = np.append(np.diff(starts), 0)  # the last one is that of missing tokens, code -1
        offsets, places = spans(starts[self.codes], lengths[self.codes])
        parts = Tokens.of(lists.values)
        return Tokens(parts.values, parts.codes[places], offsets)

    def compacted(self) -> Tokens:
        """Return lists without their missing tokens; single tokens stay as they are."""
        if self.offsets is None or not self.missing.any():
            return self
        there = ~self.missing
        kept = np.concatenate([[0], np.cumsum(there)])
        return Tokens(self.values, self.codes[there], kept[self.offsets])

    def counts(self) -> NDArray[np.int64]:
        """Return how often each of `values` is used."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.values)).astype(np.int64)

    def take(self, rows: NDArray[Any]) -> Tokens:
        """Return some rows, named by a bool mask or by their numbers."""
        if self.offsets is None:
            return replace(self, codes=self.codes[rows])
        chosen = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        offsets, places = spans(self.offsets[:-1][chosen], np.diff(self.offsets)[chosen])
        return Tokens(self.values, self.codes[places], offsets)

    @classmethod
    def of(cls, column: pa.Array) -> Tokens:
        """Return one token per row of a column of text or whole numbers; null and empty text are missing."""
        found = column.dictionary_encode()
        codes = pc.fill_null(found.indices, MISSING).to_numpy(zero_copy_only=False).astype(np.int64)
        values = found.dictionary
        if pa.types.is_integer(values.type):
            return cls(values.cast(pa.int64()), codes)
        values = values.cast(pa.string())
        tokens = cls(values, codes)
        empty = pc.equal(values, "").to_numpy(zero_copy_only=False)
        return replace(tokens, codes=tokens._where(~empty)) if empty.any() else tokens

    def _where(self, keep: NDArray[np.bool_]) -> Codes:
        """Return the codes, `MISSING` where the value is not to be kept."""
        if keep.all():
            return self.codes
        return np.where(np.append(keep, False)[self.codes], self.codes, MISSING)
