"""Tokens as plain lists of text."""

from __future__ import annotations

from typing import Any

from trainer.features.values import Tokens


def plain(tokens: Tokens) -> list[Any]:
    """Return a text (None: missing) per row, or a list of them where a row holds a list."""
    values = tokens.texts().to_pylist()
    flat = [values[code] if code >= 0 else None for code in tokens.codes]
    if tokens.offsets is None:
        return flat
    return [flat[start:end] for start, end in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]
