"""Measured figures, and their form for people and machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        name: what was measured.
        value: the number, in `unit`.
        unit: its unit; says `synthetic` where the rows are.
        ratio: `value` by that of `against` in the same run, where there is something to compare with.
        against: name of that other figure.
    """

    name: str
    value: float
    unit: str
    ratio: float | None = None
    against: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the figure as one entry of `rows`."""
        digits = 3 if abs(self.value) < 100 else 0
        ratio = None if self.ratio is None else round(self.ratio, 3)
        return asdict(self) | {"value": round(self.value, digits), "ratio": ratio}


def as_json(figures: Sequence[Figure]) -> dict[str, Any]:
    """Return the `--json` form of `bench`."""
    return {"rows": [figure.as_json() for figure in figures]}


def as_text(figures: Sequence[Figure]) -> str:
    """Return one line a figure."""
    width = max(len(figure.name) for figure in figures)
    lines = []
    for figure in figures:
        value = f"{figure.value:,.0f}" if abs(figure.value) >= 100 else f"{figure.value:.3g}"
        compared = "" if figure.ratio is None else f"  {figure.ratio:.2f} x {figure.against}"
        lines.append(f"{figure.name:<{width}}  {value:>12} {figure.unit}{compared}")
    return "\n".join(lines)
