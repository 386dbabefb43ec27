"""Bytes and counts for people."""

from __future__ import annotations

MIB = 1024**2
GIB = 1024**3
_UNITS = ("B", "KiB", "MiB", "GiB")


def byte_size(size: float) -> str:
    """Write bytes in the binary unit that suits them, with three significant digits: `1.5 MiB`."""
    power = min(len(_UNITS) - 1, max(0, (int(size).bit_length() - 1) // 10))
    value = size / 1024**power
    return f"{value:,.0f} {_UNITS[power]}" if value >= 100 else f"{value:.3g} {_UNITS[power]}"


def counted(number: int, what: str) -> str:
    """Write a number with its noun: `1 rank`, `2 ranks`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
