"""matplotlib figures as inline SVG whose colours are CSS variables, so that they follow light and dark."""

from __future__ import annotations

import io
import re

from markupsafe import Markup
from matplotlib.figure import Figure

from trainer.reporting.formats import compact

NUM_SERIES = 6
# matplotlib knows no CSS variables: each stands in as a colour that nothing else uses.
_COLOURS = {
    "#010000": "var(--ink)",
    "#010001": "var(--muted)",
    "#010002": "var(--grid)",
    "#010003": "var(--page)",
    "#0100ff": "var(--series-other)",
    **{f"#02000{number}": f"var(--series-{number})" for number in range(1, NUM_SERIES + 1)},
}
STANDIN = {variable[6:-1]: colour for colour, variable in _COLOURS.items()}
STYLE = {
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "font.size": 8,
    "axes.edgecolor": STANDIN["grid"],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelcolor": STANDIN["muted"],
    "axes.labelsize": 8,
    "grid.color": STANDIN["grid"],
    "grid.linewidth": 0.6,
    "text.color": STANDIN["ink"],
    "xtick.color": STANDIN["grid"],
    "ytick.color": STANDIN["grid"],
    "xtick.labelcolor": STANDIN["muted"],
    "ytick.labelcolor": STANDIN["muted"],
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


def tick(value: float, _position: int) -> str:
    """Return an axis label; a rounding error of the axis is 0."""
    return compact(0.0 if abs(value) < 1e-12 else value)


def svg_element(figure: Figure, name: str) -> Markup:
    """Return the figure as an SVG element for use inside HTML."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # matplotlib's own style sheet would style the whole page.
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]+;? ?", "", text)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    text = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    # Groups need no id; what is referred to needs one that no other chart has.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    for colour, variable in _COLOURS.items():
        text = text.replace(colour, variable)
    text = text.replace("<svg ", '<svg class="chart" aria-hidden="true" focusable="false" ', 1)
    # Every character above came from numbers and the fixed words of this file.
    return Markup(re.sub(r"\s*\n\s*", "\n", text))  # noqa: S704
