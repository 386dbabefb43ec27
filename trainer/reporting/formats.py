"""Numbers as a reader wants them: aligned digits, units, and a dash where there is no number."""

from __future__ import annotations

import math
from datetime import datetime, timezone

DASH = "\u2013"
_SPACE = "\u202f"  # narrow and unbreakable: a number stays beside its unit


def finite_number(value: object) -> float | None:
    """Return a JSON value as a float, or None when it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def decimal(value: object, digits: int = 4) -> str:
    """Return a number with fixed digits: `0.7912`."""
    number = finite_number(value)
    return DASH if number is None else f"{number:,.{digits}f}"


def signed(value: object, digits: int = 4) -> str:
    """Return a difference with its sign: `+0.0123`."""
    number = finite_number(value)
    # The minus sign is as wide as the plus sign; the hyphen is not.
    return DASH if number is None else f"{number:+.{digits}f}".replace("-", "\u2212")


def count(value: object) -> str:
    """Return a whole number with thousands separated: `1,234,567`."""
    number = finite_number(value)
    return DASH if number is None else f"{round(number):,}"


def percent(value: object, digits: int = 1) -> str:
    """Return a share as percent: `12.3 %`."""
    number = finite_number(value)
    return DASH if number is None else f"{100 * number:.{digits}f}{_SPACE}%"


def general(value: object, scale: float = 0.0) -> str:
    """Return a number of unknown size with four figures or more: `0.001`, `12.34`, `1,234,567`.

    Args:
        value: the number.
        scale: size of the numbers beside it; what is below a hundred-thousandth of that is a rounding error
            and shows as 0.
    """
    number = finite_number(value)
    if number is None:
        return DASH
    if abs(number) < 1e-5 * scale:
        return "0"
    return f"{number:,.0f}" if 1e3 <= abs(number) < 1e12 else f"{number:.4g}"


def byte_size(value: object) -> str:
    """Return bytes in a binary unit: `1.5 GiB`."""
    number = finite_number(value)
    if number is None:
        return DASH
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{number:.0f}{_SPACE}{unit}" if unit == "B" else f"{number:.1f}{_SPACE}{unit}"
        number /= 1024
    return f"{number:,.1f}{_SPACE}TiB"


def duration(value: object) -> str:
    """Return seconds as `48.2 s`, `3 min 12 s` or `2 h 05 min`."""
    seconds = finite_number(value)
    if seconds is None:
        return DASH
    if 0 < seconds < 0.05:
        return f"under 0.1{_SPACE}s"
    if seconds < 59.95:
        return f"{seconds:.1f}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min {rest:02d}{_SPACE}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}{_SPACE}h {minutes:02d}{_SPACE}min"


def moment(value: object) -> str:
    """Return a time as `2026-01-31 09:05 UTC`.

    Args:
        value: seconds since 1970, an aware `datetime`, or ISO 8601 text with its zone; other text is returned
            as it is.
    """
    seconds = finite_number(value)
    if seconds is not None:
        value = datetime.fromtimestamp(seconds, tz=timezone.utc)
    if isinstance(value, str):
        try:
            # Python 3.10 does not know the Z.
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            return str(value)
    return f"{value.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC" if isinstance(value, datetime) else DASH


def compact(value: float) -> str:
    """Return an axis label: `950`, `1.5k`, `2M`, `0.001`."""
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.6g}"
