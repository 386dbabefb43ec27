"""Pictures of single features: small, many, and drawn as bare paths.

A chart by matplotlib takes some ten milliseconds and kilobytes, which a page with a picture for each of a
hundred features has no room for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from trainer.reporting.data.counted import Counted, Floats

WIDTH, HEIGHT = 240, 60
MAX_LENGTH_BINS = 40
# A bar this many times the second highest is cut, since it would flatten all the rest.
_OUTSTANDING = 3.0


@dataclass(frozen=True)
class Picture:
    """A picture with the words around it.

    Attributes:
        svg: the picture.
        low: what its left end stands for.
        high: what its right end stands for.
        note: what cannot be seen, such as the height of a bar that was cut.
    """

    svg: Markup
    low: str
    high: str
    note: str = ""


def histogram(splits: Sequence[Floats], low: str, high: str) -> Picture:
    """Draw the first histogram as an area and the others as lines over it.

    Args:
        splits: shares of the bins, the same bins for all.
        low: left end in words.
        high: right end in words.
    """
    peak = max(float(np.sort(shares)[-1]) for shares in splits)
    second = max((float(np.sort(shares)[-2]) for shares in splits if len(shares) > 1), default=peak)
    cut = second > 0 and peak > _OUTSTANDING * second
    top = _OUTSTANDING * second if cut else peak
    drawn = [_steps(shares, top, "area s1", closed=True) for shares in splits[:1]]
    drawn += [_steps(shares, top, f"line s{n}") for n, shares in enumerate(splits[1:], start=2)]
    return Picture(_svg(drawn), low, high, f"the highest bar is cut: {100 * peak:.0f} %" if cut else "")


def lengths_histogram(lengths: Counted) -> Picture:
    """Draw how many rows have how many ids; the last bar takes in the longest half percent."""
    last = max(1, int(lengths.quantiles(np.array([0.995]))[0]))
    bins = np.minimum(lengths.values * min(last + 1, MAX_LENGTH_BINS) // (last + 1), MAX_LENGTH_BINS - 1)
    count = min(last + 1, MAX_LENGTH_BINS)
    shares = np.bincount(np.minimum(bins, count - 1), weights=lengths.counts, minlength=count) / lengths.total
    beyond = "" if int(lengths.values[-1]) == last else " and more"
    return histogram([shares], "no id", f"{last:,} id{'s' if last > 1 else ''}{beyond}")


def coverage_curve(coverage: Floats, distinct: int) -> Picture:
    """Draw the share of all occurrences that the most frequent ids have; the axis of ids is logarithmic."""
    ranks = np.append(2.0 ** np.arange(len(coverage) - 1), distinct)
    x = np.log2(ranks) / max(np.log2(distinct), 1e-9) * WIDTH
    points = list(zip(x.tolist(), coverage.tolist(), strict=True))
    if len(points) == 1:
        points = [(0.0, 1.0), (float(WIDTH), 1.0)]
    line = "L".join(f"{at:.1f} {_height(share, 1.0):.1f}" for at, share in points)
    area = f'<path class="area s1" d="M0 {HEIGHT}L{line}V{HEIGHT}Z"/>'
    return Picture(_svg([area]), "most frequent id", f"all {distinct:,}" if distinct > 1 else "the only id")


def _steps(shares: Floats, top: float, kind: str, *, closed: bool = False) -> str:
    width = WIDTH / len(shares)
    steps = "".join(
        f"V{_height(share, top):.1f}H{width * number:.1f}"
        for number, share in enumerate(shares.tolist(), start=1)
    )
    return f'<path class="{kind}" d="M0 {HEIGHT}{steps}V{HEIGHT}{"Z" if closed else ""}"/>'


def _height(share: float, top: float) -> float:
    return HEIGHT - min(share / max(top, 1e-12), 1.0) * (HEIGHT - 2)


def _svg(paths: Iterable[str]) -> Markup:
    # Every character comes from numbers and the fixed words of this file.
    text = f'<svg class="mini" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" aria-hidden="true">'
    return Markup(text + "".join(paths) + "</svg>")  # noqa: S704
