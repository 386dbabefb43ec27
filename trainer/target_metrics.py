"""Metrics of user rows from the ranks of their targets and the lists of their best items."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.kept import KeptColumns
from trainer.evaluation_settings import EvaluationSettings
from trainer.evaluator import MAX_SEGMENTS, Evaluated
from trainer.item_categories import ItemCategories
from trainer.item_ranking import TargetRanks
from trainer.metrics import (
    Ranked,
    average_popularity,
    catalogue_coverage,
    category_diversity,
    gini_index,
    interval,
    novelty,
    popular_share,
    ranking_values,
    resample_counts,
)
from trainer.segments import Segments

Floats = NDArray[np.float64]


def target_metrics(
    ranks: TargetRanks,
    settings: EvaluationSettings,
    kept: KeptColumns | None,
    counts_N: Tensor | None,
    categories: ItemCategories | None = None,
) -> Evaluated:
    """Return the metrics of all rows and of each segment.

    Args:
        ranks: of all ranks.
        settings: what to compute; a row counts with its weight.
        kept: raw columns, where there are segments.
        counts_N: how often each id is in the training rows, from the first row of the items' table on; needed
            for metrics of popularity.
        categories: of the items, where `intra_list_diversity` goes by them; else it goes by the vectors of
            `ranks.figures`, and is left out where there are none.

    Returns:
        `hr@K` and so on, `rows` with targets and `rows_without_targets`, which do not count.
    """
    lists = len(ranks.rows_L)
    ranked = Ranked.from_ranks(ranks.list_P, ranks.rank_P, ranks.positives_L)
    values = {
        name: values_L
        for name, values_L in ranking_values(ranked, settings.at).items()
        if settings.shows(name)
    }
    weights_L = np.where(ranks.positives_L > 0, ranks.weights_L, 0.0)
    found = _means(values, weights_L, ranks.rows_L, settings)
    if settings.of_recommended:
        found.metrics.update(_of_lists(ranks, settings, counts_N, categories))
    segments = []
    if settings.by is not None:
        assert kept is not None
        for value, chosen_L in _segments(kept, settings.by, ranks.rows_L):
            inside = {name: values_L[chosen_L] for name, values_L in values.items()}
            one = _means(inside, weights_L[chosen_L], ranks.rows_L[chosen_L], settings)
            told: dict[str, Any] = {"value": value, "rows": int(chosen_L.sum()), "metrics": one.metrics}
            segments.append(told | ({"intervals": one.intervals} if one.intervals else {}))
    return replace(found, rows=lists, segments=segments)


def _means(
    values: dict[str, Floats], weights_L: Floats, rows_L: NDArray[np.int64], settings: EvaluationSettings
) -> Evaluated:
    counted = weights_L > 0
    weights_G, total = weights_L[counted], weights_L[counted].sum()
    metrics: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    drawn_GR = None
    if settings.confidence is not None:
        drawn_GR = weights_G[:, None] * resample_counts(rows_L[counted], settings.resamples, settings.seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        for name, values_L in values.items():
            values_G = values_L[counted]
            metrics[name] = float(np.divide((weights_G * values_G).sum(), total))
            if drawn_GR is not None and settings.confidence is not None:
                means_R = (drawn_GR * values_G[:, None]).sum(axis=0) / drawn_GR.sum(axis=0)
                intervals[name] = interval(means_R, settings.confidence)
    metrics["rows"] = int(counted.sum())
    if left_out := len(counted) - int(counted.sum()):
        metrics["rows_without_targets"] = left_out
    return Evaluated(len(counted), metrics, intervals)


def _of_lists(
    ranks: TargetRanks,
    settings: EvaluationSettings,
    counts_N: Tensor | None,
    categories: ItemCategories | None,
) -> dict[str, float]:
    assert counts_N is not None
    counts = counts_N.numpy()
    # Ids below the first item are in no list; the catalogue counts what training rows had.
    lists_UK = np.where(ranks.top_LK > 0, ranks.top_LK, -1)
    items, total = int((counts > 0).sum()), max(int(counts.sum()), 1)
    shown = np.flatnonzero(counts > 0)
    place = np.full(len(counts), -1)
    place[shown] = np.arange(len(shown))
    numbered_UK = np.where(lists_UK >= 0, place[np.maximum(lists_UK, 0)], -1)
    found = {
        "coverage": catalogue_coverage(numbered_UK, items),
        "gini": gini_index(numbered_UK, items),
        "novelty": novelty(numbered_UK, counts[shown], total),
        "popularity": average_popularity(numbered_UK, counts[shown]),
        "popular_share": popular_share(numbered_UK, counts[shown]),
    }
    figures = ranks.figures
    if "history_popularity" in figures:
        # Lists and histories each by their own mean: users differ in how long both are.
        before = _mean_of(figures["history_popularity"])
        found["popularity_lift"] = found["popularity"] / before - 1 if before > 0 else np.nan
    if "serendipity" in figures:
        found["serendipity"] = _mean_of(figures["serendipity"][ranks.positives_L > 0])
    if categories is not None:
        begins, kinds = categories.begins_E1, categories.categories_H
        found["intra_list_diversity"] = category_diversity(lists_UK, begins, kinds)
    elif "diversity" in figures:
        found["intra_list_diversity"] = _mean_of(figures["diversity"])
    return {name: value for name, value in found.items() if settings.shows(name)}


def _mean_of(values_L: Floats) -> float:
    """Return the mean of those that are numbers; NaN without any."""
    known = values_L[~np.isnan(values_L)]
    return float(known.mean()) if known.size else float("nan")


def _segments(
    kept: KeptColumns, column: str, rows_L: NDArray[np.int64]
) -> list[tuple[Any, NDArray[np.bool_]]]:
    values_N = pa.concat_arrays(list(kept.read(column, range(len(kept.starts) - 1))))
    segments = Segments()
    keys_L = segments.keys(values_N.take(pa.array(rows_L)))
    largest = segments.largest(MAX_SEGMENTS)
    numbers_L = segments.numbers(keys_L)
    return [(value, numbers_L == number) for number, (value, _) in enumerate(largest)]
