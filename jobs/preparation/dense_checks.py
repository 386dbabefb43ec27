"""What can be wrong with numbers and times on their way through the ops of a feature."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from jobs.preparation.columns import LARGEST_FLOAT
from jobs.preparation.planned import PlannedFeature
from jobs.preparation.row_checks import ErrorOf
from trainer.errors import DataError
from trainer.features.chains import Read, reads_time
from trainer.features.ops import entries
from trainer.features.registry import FeatureOp, Refusal, Statistics
from trainer.features.values import Floats
from trainer.schema import FittedOp, numbers_per_row

# Which values are missing or infinite does not depend on the numbers that fitting adds.
_STAND_IN = Statistics(mean=0.0, std=1.0, min=0.0, max=1.0, sample=np.array([0.0, 1.0]))

Found = tuple[str, NDArray[np.bool_], Floats]
"""A key of `dense_errors`, which rows it holds for, and the values to quote."""


def dense_findings(feature: PlannedFeature, read: Read) -> Iterator[Found]:
    """Yield what is wrong with the values of a dense feature whose ops are not fitted yet.

    Ops that refuse values behind ops with fitted numbers are left to `refusals_after_fitting`.
    """
    assert isinstance(read.value, np.ndarray)
    if read.wrong is None and read.lengths is None and _extremes_are_fine(feature, read.value):
        return
    yield from _findings(feature, read)


def _findings(feature: PlannedFeature, read: Read) -> Iterator[Found]:
    assert isinstance(read.value, np.ndarray)
    x, told = read.value, np.zeros(read.value.shape, dtype=bool)
    wrong = read.wrong if read.wrong is not None else told
    if read.lengths is not None:  # rows that hold nothing because of their length are told as such
        wrong = wrong | (read.lengths != x.shape[1])[:, None]
    waiting = _after_fitting(feature)
    for place, (op, entry) in enumerate(entries(feature.ops, feature.kind)):
        if place in waiting:
            continue
        if entry.needs_fit(op.params):
            bad = _infinite(x) & ~told
            told = told | bad
            yield f"{place}.finite", bad, x
        if entry.refuses is not None:
            yield f"{place}.refused", entry.refuses.of(x), x
        params = entry.fitted(op.params, _STAND_IN) if entry.needs_fit(op.params) else op.params
        with np.errstate(all="ignore"):
            x = entry.function(x, **params)
    yield "missing", np.isnan(x) & ~wrong & ~told, x
    yield "infinite", _infinite(x) & ~told, x


def _extremes_are_fine(feature: PlannedFeature, x: Floats) -> bool:
    """Return whether the least and largest value, and a missing one, show that nothing can be wrong."""
    if not len(x) or not all(entry.rising for _, entry in entries(feature.ops, feature.kind)):
        return False
    x = x.reshape(-1)
    ends = [np.fmin.reduce(x), np.fmax.reduce(x)]  # NaN where all are
    probe = np.array([*ends, np.nan] if np.isnan(x).any() else ends)
    return not any(bad.any() for _, bad, _ in _findings(feature, Read(probe)))


def id_findings(feature: PlannedFeature, read: Read) -> Iterator[Found]:
    """Yield the values that the fitted ops of a sparse or sequence feature refuse."""
    x = read.value
    for place, (op, entry) in enumerate(entries(feature.ops, feature.kind)):
        if not isinstance(x, np.ndarray) or entry.takes == "token":
            return
        if entry.refuses is not None:
            yield f"{place}.refused", entry.refuses.of(x), x
        with np.errstate(all="ignore"):
            x = entry.function(x, **op.params)


def refusals_after_fitting(
    feature: PlannedFeature, fitted: tuple[FittedOp, ...], x: Floats
) -> Iterator[Found]:
    """Yield the values that refusing ops get from fitted ones."""
    waiting = _after_fitting(feature)
    for place, (op, entry) in enumerate(entries(fitted, feature.kind)):
        if place in waiting:
            assert entry.refuses is not None
            yield f"{place}.refused", entry.refuses.of(x), x
        x = entry.function(x, **op.params)


def _wrong_error(feature: PlannedFeature, name: str, place: str) -> ErrorOf:
    what, fix = "numbers", "move the column to features.sparse"
    if reads_time(feature):
        what, fix = "times", "name another column"
    return lambda n, value: DataError(
        f"{name} has {n} value(s) that are no {what}", where=place, got=value, fixes=[fix, "mend the source"]
    )


def _length_error(feature: PlannedFeature, name: str, place: str) -> ErrorOf:
    return lambda n, length: DataError(
        f"{name} has {n} row(s) whose list has another length",
        where=place,
        got=f"{length} numbers",
        allowed=f"{numbers_per_row(feature.ops)} (`dim`), or null where the list is missing",
        fixes=[f"dim: {length}, if that is their length", "mend the source"],
    )


def waits_for_fitting(feature: PlannedFeature) -> bool:
    """Return whether `refusals_after_fitting` has something to check."""
    return feature.kind == "dense" and bool(_after_fitting(feature))


def number_errors(feature: PlannedFeature) -> dict[str, ErrorOf]:
    """Return, by key, what makes the error of a number of bad values and one of them."""
    place, name = f"{feature.where}: column {feature.column!r}", f"{feature.kind} feature {feature.name!r}"
    clip = "clip: {min: ..., max: ...}"
    errors: dict[str, ErrorOf] = {"wrong": _wrong_error(feature, name, place)}
    if numbers_per_row(feature.ops) is not None:
        errors["length"] = _length_error(feature, name, place)
    for number, (op, entry) in enumerate(entries(feature.ops, feature.kind)):
        if entry.needs_fit(op.params):
            what = f"{name} has {{}} infinite value(s) where `{op.name}` needs its statistics"
            errors[f"{number}.finite"] = _finite_error(what, place, f"put `{clip}` before `{op.name}`")
        if entry.refuses is not None:
            errors[f"{number}.refused"] = partial(_refused, name, place, op.name, entry.refuses)
    if feature.kind != "dense":
        return errors
    missing, infinite = "missing (null or NaN) value(s)", "infinite value(s)"
    fill = "fill: 0 (or mean, median)"
    if "length" in errors:
        missing = "row(s) where the list, or a number in it, is missing (null or NaN)"
        infinite, fill = "row(s) with infinite numbers", "fill: 0"
    errors["missing"] = _finite_error(f"{name} has {{}} {missing}", place, fill)
    errors["infinite"] = _finite_error(f"{name} has {{}} {infinite}", place, clip)
    return errors


def _after_fitting(feature: PlannedFeature) -> set[int]:
    """Return the places of refusing ops that get values which depend on fitted numbers."""
    chain: list[tuple[FittedOp, FeatureOp]] = list(entries(feature.ops, feature.kind))
    moved = [n for n, (_, entry) in enumerate(chain) if entry.from_train]
    first = moved[0] if moved else len(chain)
    return {n for n, (_, entry) in enumerate(chain) if n > first and entry.refuses is not None}


def _infinite(x: Floats) -> NDArray[np.bool_]:
    """Return whether a value is beyond what a 32-bit float holds."""
    found: NDArray[np.bool_] = np.abs(x) > LARGEST_FLOAT
    return found


def _refused(name: str, place: str, op: str, refuses: Refusal, count: int, value: str) -> DataError:
    return DataError(
        f"{name} has {count} value(s) that `{op}` cannot take: {refuses.because}",
        where=place,
        got=value,
        fixes=[refuses.fix],
    )


def _finite_error(text: str, place: str, fix: str) -> Callable[[int, str], DataError]:
    return lambda n, value: DataError(
        text.format(n),
        where=place,
        got=value or None,
        allowed=f"finite numbers up to {LARGEST_FLOAT}",
        fixes=[fix],
    )
