"""Crosses: several columns of ids as one, whose values are the combinations that occur."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.features.values import MISSING, Tokens

_JOINT = " & "


def crossed(columns: Sequence[Tokens]) -> Tokens:
    r"""Join the tokens of each row, such as `Berlin & mobile`; missing where one of them is.

    An `&` inside a token becomes `\&`, so that rows share a token only where all their parts are equal.

    Args:
        columns: two or more, of the same number of rows, with one token per row.
    """
    assert not any(column.is_list for column in columns), "a cross joins single tokens"
    there = ~np.logical_or.reduce([column.missing for column in columns])
    codes = [column.codes[there] for column in columns]
    places = codes[0]
    for column, others in zip(columns[1:], codes[1:], strict=True):
        # Numbered anew after each column, so that the products stay small.
        pairs = places * len(column.values) + others
        _, first_rows, places = np.unique(pairs, return_index=True, return_inverse=True)
    parts = [
        pc.replace_substring(column.texts(), "&", "\\&").take(pa.array(own[first_rows]))
        for column, own in zip(columns, codes, strict=True)
    ]
    joined = np.full(columns[0].num_rows, MISSING)
    joined[there] = places
    return Tokens(pc.binary_join_element_wise(*parts, _JOINT), joined)
