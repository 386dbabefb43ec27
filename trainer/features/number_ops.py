"""Feature ops on numbers: float64 [N], NaN where the value is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from trainer.features.registry import (
    FITTED,
    Example,
    FromTrain,
    Refusal,
    Statistic,
    Statistics,
    feature_op,
)
from trainer.features.values import Floats


def _clip_bounds(params: Mapping[str, Any]) -> str | None:
    low, high = params["min"], params["max"]
    if low is None and high is None:
        return "`clip` needs `min`, `max` or both"
    return "`clip` needs min < max" if low is not None and high is not None and low >= high else None


@feature_op(
    "number",
    rising=True,
    examples=(
        Example({"fill": 0}, train=[1.5, None, 4.0, 2.0], gives=[1.5, 0.0, 4.0, 2.0]),
        Example({"fill": "median"}, train=[1.0, None, 4.0, 10.0], gives=[1.0, 4.0, 4.0, 10.0]),
        Example({"fill": "mode"}, train=[2.0, None, 2.0, 7.0], gives=[2.0, 2.0, 2.0, 7.0]),
    ),
)
def fill(x: Floats, value: float | Statistic) -> Floats:
    """Put a number, or the mean, median or mode of the training rows, where the value is missing.

    Median and mode are those of a sample: all training rows up to 50,000, and between 50,000 and 1,000,000 of
    more rows, the fewer the more features are fitted at once.
    """
    return np.where(np.isnan(x), value, x)


@feature_op(
    "number",
    rising=True,
    rule=_clip_bounds,
    examples=(
        Example({"clip": {"min": 0, "max": 10}}, train=[-3.0, 4.0, 10.0, 25.0], gives=[0.0, 4.0, 10.0, 10.0]),
    ),
)
def clip(x: Floats, min: float | None = None, max: float | None = None) -> Floats:
    """Move values below `min` up to it and values above `max` down to it."""
    return np.clip(x, min, max)


@feature_op(
    "number",
    rising=True,
    refuses=Refusal(
        lambda x: x <= -1, "log1p(x) = log(1 + x) needs x > -1", "put `clip: {min: 0}` before `log1p`"
    ),
    examples=(Example("log1p", train=[0.0, 1.0, 9.0, 99.0], gives=[0.0, 0.6931472, 2.3025851, 4.6051702]),),
)
def log1p(x: Floats) -> Floats:
    """Take log(1 + x); a value of -1 or less is an error, so clip such columns first."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log1p(x)


@feature_op(
    "number",
    rising=True,
    examples=(Example("standardise", train=[1.0, 5.0, 1.0, 5.0], gives=[-1.0, 1.0, -1.0, 1.0]),),
)
def standardise(x: Floats, mean: FromTrain, std: FromTrain) -> Floats:
    """Subtract the mean and divide by the standard deviation of the training rows (by 1 where that is 0)."""
    return (x - mean) / (std if std > 0 else 1.0)


@feature_op(
    "number",
    rising=True,
    examples=(
        Example("min_max", train=[10.0, 15.0, 17.5, 20.0], gives=[0.0, 0.5, 0.75, 1.0]),
        Example(
            ["min_max", {"clip": {"min": 0, "max": 1}}],
            train=[10.0, 15.0, 17.5, 20.0],
            rows=[5.0, 12.5, 30.0],
            gives=[0.0, 0.25, 1.0],
        ),
    ),
)
def min_max(x: Floats, min: FromTrain, max: FromTrain) -> Floats:
    """Move and scale the values so that those of the training rows reach from 0 to 1.

    Values of other rows beyond theirs become less than 0 or more than 1; `clip` behind it stops that. A
    column of one value becomes 0.
    """
    return (x - min) / (max - min if max > min else 1.0)


@feature_op(
    "number",
    rising=True,
    name="round",
    examples=(
        Example({"round": 1}, train=[1.26, -0.04, 2.0, 0.25], gives=[1.3, 0.0, 2.0, 0.2]),
        Example(["round", "vocabulary"], train=[3.2, 2.9, 7.0, None], gives=[2, 2, 3, 0]),
    ),
)
def rounded(x: Floats, digits: Annotated[int, Field(ge=-15, le=15)] = 0) -> Floats:
    """Round to so many digits behind the point (before it where negative); halves go to the even digit."""
    return np.round(x, digits) + 0.0  # no -0.0


def _one_of_edges_and_quantiles(params: Mapping[str, Any]) -> str | None:
    edges, quantiles = params["edges"], params["quantiles"]
    if (edges is None) == (quantiles is None):
        return "`bucketise` needs exactly one of `edges` and `quantiles`"
    return "`bucketise` needs edges that rise" if edges is not None and (np.diff(edges) <= 0).any() else None


def _quantile_edges(params: Mapping[str, Any], found: Statistics) -> dict[str, Any]:
    inner = np.arange(1, params["quantiles"]) / params["quantiles"]
    edges = np.unique(np.quantile(found.sample, inner)) if len(found.sample) else np.empty(0)
    # Nothing lies below an edge at the smallest value.
    return {"edges": edges[edges > found.min].tolist()}


@feature_op(
    "number",
    rising=True,
    fit=_quantile_edges,
    rule=_one_of_edges_and_quantiles,
    largest=lambda params: len(params["edges"]) + 1,
    examples=(
        Example({"bucketise": [0, 18, 65]}, train=[-1.0, 0.0, 18.0, None], gives=[1, 2, 3, 0]),
        Example(
            [{"bucketise": {"quantiles": 4}}, {"fill": 0}],
            train=[1.0, 2.0, 3.0, 4.0],
            rows=[-7.0, 2.0, 3.0, 80.0, None],
            gives=[1.0, 2.0, 3.0, 4.0, 0.0],
        ),
    ),
)
def bucketise(
    x: Floats,
    edges: Annotated[Annotated[list[float], Field(min_length=1)] | None, FITTED] = None,
    quantiles: Annotated[int | None, Field(ge=2)] = None,  # noqa: ARG001 - read by `fit`
) -> Floats:
    """Take the number of the value's bucket: 1 below the first edge, and one more from each edge on.

    So an edge belongs to the bucket that it opens. Either `edges` are given, in rising order, or they are the
    quantiles of the training rows that cut these into as many parts of equal size; equal ones are merged, so
    there may be fewer parts. Quantiles are those of a sample: all training rows up to 50,000, and between
    50,000 and 1,000,000 of more rows, the fewer the more features are fitted at once. In a sparse feature the
    numbers are ids, and 0 is left to missing values.
    """
    return np.where(np.isnan(x), x, np.searchsorted(edges or (), x, side="right") + 1.0)
