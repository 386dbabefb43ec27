"""A heat map of tables by ranks as inline SVG: where each table lies, and how much of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

MAX_COLUMNS = 256
"""More ranks than this are shown by node."""
_LABEL, _WIDTH, _ROW, _TOP, _FOOT = 170, 1000, 15, 4, 34
_FAINTEST = 0.12
_SHORTEST = 24


@dataclass(frozen=True)
class HeatRow:
    """A row: a label, and a value for each rank."""

    label: str
    values: NDArray[np.float64]


def heat_map(rows: Sequence[HeatRow], *, local_world_size: int, least: float, unit: float) -> Markup:
    """Draw the rows below each other, a column for each rank, or for each node where ranks are many.

    Colours deepen with the logarithm of the value; a node shows its fullest rank. Neighbours of one value are
    one cell, whose tooltip names row, ranks and value.

    Args:
        rows: with a value for every rank; a value of 0 leaves its cell empty.
        local_world_size: ranks of a node; lines part the nodes.
        least: values up to this one are all drawn alike.
        unit: that tooltips divide values by; they say GiB.
    """
    ranks = len(rows[0].values)
    by_node = ranks > MAX_COLUMNS and local_world_size > 1
    columns = ranks // local_world_size if by_node else ranks
    width = (_WIDTH - _LABEL) / columns
    most = max(float(row.values.max()) for row in rows)
    parts = []
    for number, row in enumerate(rows):
        values = row.values.reshape(columns, -1).max(axis=1)
        y = _TOP + number * _ROW
        label = row.label if len(row.label) <= _SHORTEST else row.label[: _SHORTEST - 1] + "…"
        parts.append(f'<text x="{_LABEL - 8}" y="{y + 11}" text-anchor="end">{escape(label)}</text>')
        for first, last, value in _runs(values):
            where = _where(first, last, "node" if by_node else "rank")
            shade = _shade(value, least, most)
            parts.append(
                f'<rect x="{_LABEL + first * width:.2f}" y="{y}" width="{(last - first + 1) * width:.2f}" '
                f'height="{_ROW - 2}" fill="var(--series-1)" fill-opacity="{shade:.2f}">'
                f"<title>{escape(row.label)}, {where}: {value / unit:,.3g} GiB</title></rect>"
            )
    height = _TOP + len(rows) * _ROW
    parts += _axis(columns, width, height, 1 if by_node else local_world_size, by_node=by_node)
    box = f'viewBox="0 0 {_WIDTH} {height + _FOOT}"'
    head = f'<svg class="chart heat" aria-hidden="true" focusable="false" {box}>'
    # Every name above was escaped; the rest is numbers and the fixed words of this file.
    return Markup(head + "\n".join(parts) + "</svg>")  # noqa: S704


def _runs(values: NDArray[np.float64]) -> Iterator[tuple[int, int, float]]:
    """Yield first and last column and the value of neighbours that are alike, without the empty ones."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for first, end in pairwise(edges):
        if values[first] > 0:
            yield first, end - 1, float(values[first])


def _shade(value: float, least: float, most: float) -> float:
    if value <= least or most <= least:
        return _FAINTEST if most > least else 1.0
    return _FAINTEST + (1 - _FAINTEST) * math.log(value / least) / math.log(most / least)


def _where(first: int, last: int, what: str) -> str:
    return f"{what} {first}" if first == last else f"{what}s {first} to {last}"


def _axis(columns: int, width: float, height: int, step: int, *, by_node: bool) -> Iterator[str]:
    """Yield a line at the start of each node, and as many labels as have room."""
    between = step * 2 ** max(0, math.ceil(math.log2(max(1.0, columns / step / 16))))
    for column in range(0, columns + 1, step):
        x = _LABEL + column * width
        yield f'<line x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="{height}" stroke="var(--grid)"/>'
        if column % between == 0 and column < columns:
            yield f'<text x="{x:.2f}" y="{height + 12}">{column}</text>'
    middle = _LABEL + columns * width / 2
    name = "node" if by_node else "rank"
    yield f'<text x="{middle:.2f}" y="{height + 29}" text-anchor="middle">{name}</text>'
