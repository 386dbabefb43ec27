"""Raw times of a form of their own, written in ISO 8601 before anything reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pyarrow as pa

from trainer.config.time_formats import TimeFormat
from trainer.features.raw_values import one_array, tokens

NUMBER = "[+-]?[0-9]+([.][0-9]*)?([eE][+-]?[0-9]+)?"
"""Text that would be read as seconds since 1970; Python and Java take the pattern."""


def with_iso_times(columns: Mapping[str, pa.Array], formats: Mapping[str, str]) -> dict[str, pa.Array]:
    """Return raw columns, those with a format rewritten; see `iso_times`."""
    return {
        name: iso_times(column, name, TimeFormat(formats[name])) if name in formats else column
        for name, column in columns.items()
    }


def iso_times(column: pa.Array, name: str, form: TimeFormat) -> pa.Array:
    """Return the times of a raw column as text in ISO 8601.

    Args:
        column: numbers, whose zeros at the beginning may be missing, or text. Timestamps, dates and columns
            of other types stay as they are, and so does text that is neither of the form nor a number.
        name: of the column, for errors.
        form: of the times.

    Returns:
        Text [N]; for a number that is not of the form, text that is no time and says so.
    """
    column = one_array(column)
    kind = column.type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not number and not pa.types.is_string(kind):
        return column
    found = tokens(column, name)
    texts = [_rewritten(text, form, number=number) for text in found.texts().to_pylist()]
    codes = pa.array(found.codes, mask=found.missing)
    return pa.array(texts, pa.string()).take(codes) if texts else pa.nulls(len(column), pa.string())


def _rewritten(text: str, form: TimeFormat, *, number: bool) -> str:
    plain = text.strip(" ")
    padded = plain.zfill(form.width) if number and plain.isdigit() else plain
    iso = form.iso(padded)
    if iso is not None:
        return iso
    return f"{plain} (not of the form {form.text})" if re.fullmatch(NUMBER, plain) else text
