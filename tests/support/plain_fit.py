"""Fitting of feature ops with plain Python: what the training rows say, and the values of all rows."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.support.plain_ops import IDS, Op, PlainVocabulary, Token, hash_id, read, through, tokens_of

FITTED = {"fill", "standardise", "min_max", "bucketise"}


@dataclass(frozen=True)
class PlainFeature:
    """The values of a feature for all rows: a float or, for ids, a list of them.

    Attributes:
        values: of each row.
        exact: whether nothing in them is rounded: no mean, no deviation, no logarithm.
    """

    values: list[Any]
    exact: bool


def made(raw: Sequence[Any], train: Sequence[bool], ops: Sequence[Op], kind: str) -> PlainFeature:
    """Return what a feature holds for some raw values, fitted on those of the training rows."""
    current, _ = before_ids(raw, train, ops, kind)
    name, params = ops[-1] if ops else ("", {})
    if name in IDS:
        return PlainFeature(_ids([tokens_of(value) for value in current], train, name, params), True)
    rounded = any(name == "log1p" or _is_mean(name, params) for name, params in ops)
    return PlainFeature(current, not rounded)


def before_ids(
    raw: Sequence[Any], train: Sequence[bool], ops: Sequence[Op], kind: str
) -> tuple[list[Any], list[Op]]:
    """Return the values before the op that makes ids, and the ops up to there, fitted."""
    current = [read(value, ops, kind) for value in raw]
    fitted: list[Op] = []
    for name, given in ops:
        if name in IDS:
            break
        params = given
        if name in FITTED and _needs_fit(given):
            seen = [x for x, own in zip(current, train, strict=True) if own and not math.isnan(x)]
            params = {**given, **_fitted(name, given, seen)}
        current = [through(value, [(name, params)]) for value in current]
        fitted.append((name, params))
    return current, fitted


def _is_mean(name: str, params: Mapping[str, Any]) -> bool:
    return name in ("standardise", "min_max") or params.get("value") == "mean"


def _needs_fit(params: Mapping[str, Any]) -> bool:
    return params.get("value") in ("mean", "median", "mode") or not ({"value", "edges"} & params.keys())


def _fitted(name: str, params: Mapping[str, Any], seen: list[float]) -> Mapping[str, Any]:
    if name == "fill":
        return {"value": _statistic(params["value"], seen)}
    if name == "bucketise":
        inner = [number / params["quantiles"] for number in range(1, params["quantiles"])]
        edges = sorted(set(np.quantile(seen, inner).tolist())) if seen else []
        return {"edges": [edge for edge in edges if edge > min(seen)]}
    if name == "min_max":
        return {"min": min(seen, default=0.0), "max": max(seen, default=0.0)}
    std = statistics.pstdev(seen) if seen else 0.0
    return {"mean": _statistic("mean", seen), "std": std}


def _statistic(name: str, seen: list[float]) -> float:
    if not seen:
        return 0.0
    if name == "mean":
        return math.fsum(seen) / len(seen)
    if name == "median":
        return statistics.median(seen)
    counts = Counter(seen)
    return min(seen, key=lambda x: (-counts[x], x))


def _ids(
    tokens: list[list[Token]], train: Sequence[bool], name: str, params: Mapping[str, Any]
) -> list[list[int]]:
    if name == "hash":
        return [[hash_id(t, params["num_buckets"], params["seed"]) for t in row] for row in tokens]
    seen = (t for row, own in zip(tokens, train, strict=True) if own for t in row)
    ids = ranked(seen, params["min_count"], params["max_size"], params["oov_buckets"])
    vocabulary = PlainVocabulary(ids, params["oov_buckets"], params["missing"])
    return [[vocabulary.id_of(t) for t in row] for row in tokens]


def ranked(tokens: Iterable[Token], min_count: int, max_size: int | None, oov_buckets: int) -> dict[str, int]:
    """Number the tokens of the training rows: most frequent first, ties by their UTF-8 text."""
    counts = Counter(t for t in tokens if t is not None)
    kept = sorted((t for t in counts if counts[t] >= min_count), key=lambda t: (-counts[t], t.encode()))
    return {t: n for n, t in enumerate(kept[:max_size], start=oov_buckets + 1)}
