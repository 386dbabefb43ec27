"""Charts as inline SVG whose colours are the page's CSS variables, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from trainer.reporting.history import Curve
from trainer.reporting.svg import STANDIN, STYLE, svg_element, tick

Floats = NDArray[np.float64]
MAX_POINTS = 800
_ROUND = [1, 2, 5, 10]


@dataclass(frozen=True)
class Line:
    """One curve of a chart.

    Attributes:
        curve: the points.
        series: colour, 1 to `NUM_SERIES`.
        faint: thin and pale, for what a smoothed line runs through.
        marked: a dot on every point, for few points.
    """

    curve: Curve
    series: int = 1
    faint: bool = False
    marked: bool = False


def line_chart(
    lines: Sequence[Line],
    *,
    name: str,
    last_step: int,
    resumed_at: Sequence[int] = (),
    reference: float | None = None,
) -> Markup:
    """Draw curves against the step.

    Args:
        lines: curves, the one in front last; empty ones are left out.
        name: letters and digits, unique on the page.
        last_step: right end of the step axis, so that all charts of a run stand in line.
        resumed_at: steps marked by a dotted line.
        reference: a value marked by a dashed line where it is near the curves.
    """
    shown = [line for line in lines if len(line.curve)]
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(3.8, 2.2), layout="constrained")
        axes = figure.add_subplot()
        for line in shown:
            _draw(axes, line)
        _limit(axes, shown)
        for step in resumed_at:
            axes.axvline(step, color=STANDIN["muted"], linewidth=0.8, linestyle=(0, (1, 2)))
        low, high = axes.get_ylim()
        if reference is not None and low <= reference <= high:
            axes.axhline(reference, color=STANDIN["muted"], linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_xlim(-0.02 * last_step, max(1.02 * last_step, 1))
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=_ROUND))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=_ROUND))
        axes.xaxis.set_major_formatter(FuncFormatter(tick))
        axes.yaxis.set_major_formatter(FuncFormatter(tick))
        return svg_element(figure, name)


def stacked_bars(parts: Sequence[tuple[int, Floats]], *, name: str, unit: str) -> Markup:
    """Draw one bar per rank, stacked from parts.

    Args:
        parts: colour (1 to `NUM_SERIES`, 0 for the rest) and the value on each rank, lowest part first.
        name: letters and digits, unique on the page.
        unit: of the values.
    """
    num_ranks = len(parts[0][1])
    lying = num_ranks <= 16
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        height = 0.55 + 0.22 * num_ranks if lying else 2.2
        figure = Figure(figsize=(4.4, max(height, 1.1)), layout="constrained")
        axes = figure.add_subplot()
        base = np.zeros(num_ranks)
        for series, values in parts:
            _stack(axes, base, values, series, lying)
            base += values
        amount, rank = (axes.xaxis, axes.yaxis) if lying else (axes.yaxis, axes.xaxis)
        (axes.set_xlim if lying else axes.set_ylim)(0, max(float(base.max()) * 1.05, 1e-9))
        (axes.set_ylim if lying else axes.set_xlim)(
            *((num_ranks - 0.5, -0.5) if lying else (-0.5, num_ranks - 0.5))
        )
        axes.grid(visible=False)
        axes.grid(visible=True, axis="x" if lying else "y")
        amount.set_label_text(unit)
        amount.set_major_locator(MaxNLocator(5, steps=_ROUND))
        amount.set_major_formatter(FuncFormatter(tick))
        rank.set_label_text("rank")
        # Hosts have 2, 4 or 8 ranks: every second, fourth or eighth label stands at the first of a host.
        rank.set_ticks(range(0, num_ranks, 2 ** max(0, math.ceil(math.log2(num_ranks / 16)))))
        rank.set_tick_params(length=0)
        return svg_element(figure, name)


def smoothed(curve: Curve, restarts: Sequence[int] = ()) -> Curve:
    """Return the exponential moving average over a fiftieth of the points, without its bias to the start.

    Args:
        curve: what to smooth; fewer than three points are returned as they are.
        restarts: steps after which the average starts afresh, for what jumps when a run is resumed.
    """
    if len(curve) < 3:
        return curve
    keep = 1.0 - 1.0 / max(len(curve) / 50, 2.0)
    average, weight, values = 0.0, 0.0, []
    open_restarts = sorted(restarts)
    for step, value in zip(curve.steps, curve.values, strict=True):
        if open_restarts and step > open_restarts[0]:
            open_restarts = [restart for restart in open_restarts if restart >= step]
            average, weight = 0.0, 0.0
        average = keep * average + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        values.append(average / weight)
    return Curve(curve.steps, tuple(values))


def thinned(curve: Curve, max_points: int = MAX_POINTS) -> Curve:
    """Return at most `max_points` points: of every stretch its lowest and highest, so that spikes stay."""
    if len(curve) <= max_points:
        return curve
    values = np.asarray(curve.values)
    edges = np.linspace(0, len(curve), max_points // 2 + 1).astype(int)
    kept = set()
    for first, end in pairwise(edges):
        kept |= {first + int(values[first:end].argmin()), first + int(values[first:end].argmax())}
    order = sorted(kept)
    return Curve(tuple(curve.steps[i] for i in order), tuple(curve.values[i] for i in order))


def _draw(axes: Axes, line: Line) -> None:
    curve = thinned(line.curve)
    colour = STANDIN[f"series-{line.series}"]
    dots = line.marked and len(curve) <= 60
    axes.plot(
        curve.steps,
        curve.values,
        color=colour,
        alpha=0.3 if line.faint else 1.0,
        linewidth=0.9 if line.faint else 1.6,
        # A curve of one point has no line to be seen.
        marker="o" if dots or len(curve) == 1 else "",
        markersize=3.5,
        markeredgewidth=0,
    )


def _limit(axes: Axes, lines: Sequence[Line]) -> None:
    """Let the first steps of a long faint curve leave the chart, since they would flatten all the rest."""
    long = [line.curve.values for line in lines if line.faint and len(line.curve) >= 50]
    others = [
        value for line in lines if not line.faint for value in line.curve.values[len(line.curve) // 50 :]
    ]
    if not long or not others:
        axes.margins(y=0.12)
        return
    low = min(float(np.quantile(long[0], 0.002)), *others)
    high = max(float(np.quantile(long[0], 0.98)), *others)
    room = 0.06 * (high - low) or 1e-6
    axes.set_ylim(low - room, high + room)


def _stack(axes: Axes, base: Floats, values: Floats, series: int, lying: bool) -> None:
    colour = STANDIN[f"series-{series}" if series else "series-other"]
    if len(values) > 64:
        # Bars thinner than a line would leave gaps of chance: one stepped area instead.
        edges = np.arange(len(values) + 1) - 0.5
        axes.stairs(base + values, edges, baseline=base, fill=True, color=colour, linewidth=0)
        return
    ranks = np.arange(len(values))
    if lying:
        axes.barh(ranks, values, 0.66, left=base, color=colour, edgecolor=STANDIN["page"], linewidth=0.6)
    else:
        axes.bar(ranks, values, 0.8, bottom=base, color=colour, edgecolor=STANDIN["page"], linewidth=0.6)
