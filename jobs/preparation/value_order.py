"""Values of vocabularies in the order of their ids: by frequency, ties by text."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.preparation.value_counts import Counts
from trainer.features.raw_values import one_array

Border = tuple[int, int, str]
"""Table, count and value of the last row before a border."""
_POWERS = 10 ** np.arange(1, 18, dtype=np.int64)


def ordered(counts: Counts) -> pa.Table:
    """Return table, value (text) and count: by table, falling count, and rising text in UTF-8."""
    numbers = counts.numbers
    with_text = pc.is_in(numbers["table"], pc.unique(counts.texts["table"]))
    alike = _as_texts(numbers.filter(with_text))
    texts = pa.concat_tables([alike, counts.texts])
    keys = [("table", "ascending"), ("count", "descending"), ("value", "ascending")]
    texts = texts.take(pc.sort_indices(texts, sort_keys=keys))
    numbers = numbers.filter(pc.invert(with_text))
    numbers = _as_texts(numbers.take(pa.array(_number_order(numbers))))
    both = pa.concat_tables([numbers, texts])
    if texts.num_rows == 0 or numbers.num_rows == 0:
        return both
    return both.take(pa.array(np.argsort(both["table"].to_numpy(), kind="stable")))


def _as_texts(numbers: pa.Table) -> pa.Table:
    return numbers.set_column(
        numbers.schema.get_field_index("value"), "value", numbers["value"].cast(pa.string())
    )


def _number_order(numbers: pa.Table) -> NDArray[np.int64]:
    """Return the order of whole numbers of up to 18 digits, as their texts are ordered."""
    value = numbers["value"].to_numpy()
    size = np.abs(value)
    digits = np.searchsorted(_POWERS, size, side="right")
    left = size * 10 ** (17 - digits)  # `7` and `70` differ in their length alone
    # Every key is another sort: below 10 ** 18, both fit one number.
    keys = [left.astype(np.uint64) * np.uint64(18) + digits.astype(np.uint64)]
    if (value < 0).any():
        keys.append(value >= 0)
    order: NDArray[np.int64] = np.lexsort((*keys, *_frequency_keys(numbers)))
    return order


def _frequency_keys(numbers: pa.Table) -> list[NDArray[np.int64]]:
    """Return what sorts by table and falling count, the last key first."""
    table, count = numbers["table"].to_numpy().astype(np.int64), numbers["count"].to_numpy()
    least, most = count.min(initial=0), count.max(initial=0)
    if least >= 0 and most < 2**40 and table.max(initial=0) < 2**20:
        return [(table << 40) | (most - count)]
    return [-count, table]


def sample(rows: pa.Table, size: int) -> list[Border]:
    """Return evenly spaced rows of an ordered table, at most `size`."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(size, len(rows))).astype(np.int64))
    chosen = rows.take(pa.array(places))
    columns = [chosen[name].to_pylist() for name in ("table", "count", "value")]
    return list(zip(*columns, strict=True))


def borders(samples: Sequence[Border], parts: int) -> list[Border]:
    """Return borders that cut the rows that samples stand for into about equal parts."""
    samples = sorted(samples, key=_key)
    return [samples[len(samples) * part // parts] for part in range(1, parts)] if samples else []


def cut(rows: pa.Table, at: Sequence[Border]) -> list[pa.Table]:
    """Cut an ordered table after each border."""
    tables, counts, values = (one_array(rows[name]) for name in ("table", "count", "value"))

    def key(row: int) -> tuple[int, int, bytes]:
        return _key((tables[row].as_py(), counts[row].as_py(), values[row].as_py()))

    stops = [bisect_right(range(len(rows)), _key(border), key=key) for border in at]
    return [rows.slice(a, b - a) for a, b in zip([0, *stops], [*stops, len(rows)], strict=True)]


def _key(row: Border) -> tuple[int, int, bytes]:
    table, count, value = row
    return table, -count, value.encode()
