"""The one form that every chart of a report has, however it is drawn."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Key:
    """An entry of a chart's legend: the colour's number and its meaning."""

    series: int
    label: str
    faint: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart with its title, the number to remember, and its contents in words."""

    title: str
    latest: str
    svg: Markup
    summary: str
    keys: tuple[Key, ...] = ()
