"""The chart of the label rate over time."""

from __future__ import annotations

from datetime import datetime, timezone

import matplotlib as mpl
import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from trainer.reporting import formats
from trainer.reporting.data.counted import Floats
from trainer.reporting.data.labels import LabelRates
from trainer.reporting.figures import Chart, Key
from trainer.reporting.svg import STANDIN, STYLE, svg_element, tick

_ERRORS = 2.0


def label_chart(rates: LabelRates) -> Chart:
    """Draw the label rate of each bucket with a band of two standard errors."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": "labels"}):
        figure = Figure(figsize=(7.6, 2.4), layout="constrained")
        axes = figure.add_subplot()
        for number, (times, values, errors) in enumerate(rates.curves.values(), start=1):
            colour = STANDIN[f"series-{number}"]
            x = _dates(times) if rates.dated else times
            axes.fill_between(
                x, values - _ERRORS * errors, values + _ERRORS * errors, color=colour, alpha=0.18, linewidth=0
            )
            axes.plot(x, values, color=colour, marker="o", markersize=2.6, markeredgewidth=0)
        if rates.dated:
            locator = AutoDateLocator(minticks=3, maxticks=8)
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(8))
            axes.xaxis.set_major_formatter(FuncFormatter(tick))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
        svg = svg_element(figure, "labels")
    every = np.concatenate([values for _, values, _ in rates.curves.values()])
    keys = tuple(Key(number, name) for number, name in enumerate(rates.curves, start=1))
    return Chart(
        "Label rate over time",
        f"{formats.percent(float(every.min()))} to {formats.percent(float(every.max()))}",
        svg,
        " ".join(_in_words(name, rates, *curve) for name, curve in rates.curves.items()),
        keys if len(keys) > 1 else (),
    )


def _in_words(name: str, rates: LabelRates, times: Floats, values: Floats, _errors: Floats) -> str:
    show = formats.moment if rates.dated else formats.general
    return (
        f"{name}: {len(values)} points, from {formats.percent(float(values[0]))} at {show(float(times[0]))} "
        f"to {formats.percent(float(values[-1]))} at {show(float(times[-1]))}."
    )


def _dates(times: Floats) -> NDArray[np.object_]:
    return np.array([datetime.fromtimestamp(seconds, tz=timezone.utc) for seconds in times.tolist()])
