"""The baselines by name, and what can be set of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from trainer.config.base import Section
from trainer.config.messages import did_you_mean
from trainer.errors import ConfigError


class PopularitySection(Section):
    """`popularity`: every user gets the items of most users."""


class ItemKnnSection(Section):
    """`item_knn`: items like those that a user met."""

    neighbours: int = Field(default=100, ge=1)
    """Items kept beside each item: those most like it."""
    shrinkage: float = Field(default=0.0, ge=0)
    """Added to the denominator of the cosine, which holds down items of few users."""


class AlsSection(Section):
    """`als`: factors of users and items by alternating least squares, Spark MLlib's."""

    rank: int = Field(default=64, ge=1)
    """Numbers of a user or an item."""
    iterations: int = Field(default=15, ge=1)
    """Times that both sides are solved."""
    regularisation: float = Field(default=0.01, ge=0)
    """Weight of the squared factors, times the number of a user's or an item's events."""
    alpha: float = Field(default=1.0, gt=0)
    """How much more an event counts than none (implicit feedback); ratings do without."""


BASELINES: dict[str, type[Section]] = {
    "popularity": PopularitySection,
    "item_knn": ItemKnnSection,
    "als": AlsSection,
}


def baseline_section(name: str, options: Mapping[str, Any]) -> Section:
    """Return what is set of a baseline.

    Args:
        name: of the baseline.
        options: by name; values may be text, as a command line has it.

    Raises:
        ConfigError: there is no such baseline or option, or a value is out of range.
    """
    if name not in BASELINES:
        near = did_you_mean(name, list(BASELINES))
        raise ConfigError(
            "there is no such baseline",
            where="--model",
            got=name,
            allowed=list(BASELINES),
            fixes=[near] if near else [],
        )
    section, allowed = BASELINES[name], list(BASELINES[name].model_fields)
    for option in options:
        if option not in allowed:
            near = did_you_mean(option, allowed)
            raise ConfigError(
                f"{name} has no such option",
                where=f"--option {option}",
                got=option,
                allowed=allowed or "none: it has no options",
                fixes=[near] if near else [],
            )
    try:
        return section.model_validate(dict(options), strict=False)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(
            first["msg"], where=f"--option {first['loc'][0]}", got=str(first["input"])
        ) from error
