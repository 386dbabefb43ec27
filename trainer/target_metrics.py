"""Metrics of user rows from the ranks of their targets and the lists of their best items."""

from __future__ import annotations

from collections.abc import Iterator
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
from trainer.list_terms import ListTerms, RowTerms
from trainer.metrics import Ranked, interval, ranking_values, resample_counts
from trainer.metrics.binary import running_sums
from trainer.segments import Segments

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# Rows x sets of weights, or x places of their lists, that are taken at once.
_NUMBERS_AT_ONCE = 1 << 19


def target_metrics(
    ranks: TargetRanks,
    settings: EvaluationSettings,
    kept: KeptColumns | None,
    counts_N: Tensor | None,
    categories: ItemCategories | None = None,
) -> Evaluated:
    """Return the metrics of all rows and of each segment.

    Rows are taken block by block and added up in their order: on every rank to the same bits. Memory beside
    what comes in: a few numbers for each row and target, and all that it takes for a block of rows.

    Args:
        ranks: of all ranks.
        settings: what to compute; a row counts with its weight.
        kept: raw columns, where there are segments.
        counts_N: how often each id is in the training rows, from the first row of the items' table on; needed
            for metrics of popularity.
        categories: of the items, where `intra_list_diversity` goes by them; else it goes by the vectors of
            `ranks.figures`, and is left out where there are none.

    Returns:
        `hr@K` and so on, `rows` with targets and `rows_without_targets`, which count in metrics of the lists
        alone. `coverage` and `gini` have no intervals.

    Raises:
        DataError: a kept column cannot be read.
    """
    lists = None
    if settings.of_recommended:
        assert counts_N is not None
        lists = ListTerms(ranks, settings, counts_N, categories)
    of_rows = _OfRows(ranks, settings, lists)
    metrics, intervals = of_rows.metrics(np.arange(len(ranks.rows_L)))
    segments = []
    if settings.by is not None:
        assert kept is not None
        for value, rows in _segments(kept, settings.by, ranks.rows_L):
            inside, ends = of_rows.metrics(rows)
            told: dict[str, Any] = {"value": value, "rows": len(rows), "metrics": inside}
            segments.append(told | ({"intervals": ends} if ends else {}))
    return Evaluated(len(ranks.rows_L), metrics, intervals, segments)


class _OfRows:
    """Computes the metrics of any of the rows."""

    def __init__(self, ranks: TargetRanks, settings: EvaluationSettings, lists: ListTerms | None) -> None:
        self._ranks, self._settings, self._lists = ranks, settings, lists
        self._order_P = np.argsort(ranks.list_P, kind="stable")
        targets_L = np.bincount(ranks.list_P, minlength=len(ranks.rows_L))
        self._begins_L1 = np.concatenate([[0], np.cumsum(targets_L)])

    def metrics(self, rows: Ints) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
        """Return metrics and intervals of rows, which are places in the arrays of the ranks."""
        positives, weights = self._ranks.positives_L[rows], self._ranks.weights_L[rows]
        counted = rows[weights > 0]
        found = self._means(counted)
        if self._lists is not None:
            exposure_N = self._exposure(counted) if self._lists.exposes else None
            found |= self._lists.made_of(found, exposure_N)
        found = {name: values_C for name, values_C in found.items() if self._settings.shows(name)}
        metrics = {name: float(values_C[0]) for name, values_C in found.items()}
        metrics["rows"] = int(((weights > 0) & (positives > 0)).sum())
        if without := int((positives == 0).sum()):
            metrics["rows_without_targets"] = without
        level = self._settings.confidence
        drawn = {name: values_C[1:] for name, values_C in found.items() if len(values_C) > 1}
        return metrics, {} if level is None else {name: interval(v, level) for name, v in drawn.items()}

    def _means(self, counted: Ints) -> dict[str, Floats]:
        """Return the weighted mean of each metric over the rows that it counts, by set of weights."""
        columns = self._settings.columns
        sums: dict[str, Floats] = {}
        counts: dict[str, Floats] = {}
        nothing = np.zeros(columns)
        for rows_B in self._blocks(counted):
            weights_BC = self._weights(rows_B)
            for terms in self._terms(rows_B):
                first = next(iter(terms.values_B))
                through_C = _added(counts.get(first, nothing), terms.counts_B, weights_BC)
                for name, values_B in terms.values_B.items():
                    counts[name] = through_C
                    sums[name] = _added(sums.get(name, nothing), values_B, weights_BC)
        with np.errstate(invalid="ignore"):
            return {name: sum_C / counts[name] for name, sum_C in sums.items()}

    def _blocks(self, rows: Ints) -> Iterator[Ints]:
        """Yield the rows in blocks that fit memory, at least one."""
        targets = -(-len(self._order_P) // max(1, len(self._ranks.rows_L)))
        width = max(self._settings.columns, self._ranks.top_LK.shape[1], targets)
        step = max(1, _NUMBERS_AT_ONCE // width)
        for first in range(0, max(1, len(rows)), step):
            yield rows[first : first + step]

    def _terms(self, rows_B: Ints) -> list[RowTerms]:
        """Return what rows add to each metric that is a mean."""
        begins_B = self._begins_L1[rows_B]
        sizes_B = self._begins_L1[rows_B + 1] - begins_B
        list_P = np.repeat(np.arange(len(rows_B)), sizes_B)
        places_P = np.arange(len(list_P)) + np.repeat(begins_B - (np.cumsum(sizes_B) - sizes_B), sizes_B)
        rank_P = self._ranks.rank_P[self._order_P[places_P]]
        ranked = Ranked.from_ranks(list_P, rank_P, self._ranks.positives_L[rows_B])
        values = ranking_values(ranked, self._settings.at)
        shown = {name: values_B for name, values_B in values.items() if self._settings.shows(name)}
        found = [RowTerms.of_known(shown)] if shown else []
        return found if self._lists is None else found + self._lists.of(rows_B)

    def _exposure(self, counted: Ints) -> Ints:
        assert self._lists is not None
        exposure_N = self._lists.exposure(counted[:0])
        for rows_B in self._blocks(counted):
            exposure_N += self._lists.exposure(rows_B)
        return exposure_N

    def _weights(self, rows_B: Ints) -> Floats:
        """Return the weights of rows, and those of each resample."""
        weights_B1: Floats = self._ranks.weights_L[rows_B, None]
        if self._settings.confidence is None:
            return weights_B1
        drawn_BR = resample_counts(self._ranks.rows_L[rows_B], self._settings.resamples, self._settings.seed)
        return np.concatenate([weights_B1, weights_B1 * drawn_BR], axis=1)


def _added(before_C: Floats, terms_B: Floats, weights_BC: Floats) -> Floats:
    through: Floats = running_sums(before_C, weights_BC * terms_B[:, None])[-1]
    return through


def _segments(kept: KeptColumns, column: str, rows_L: Ints) -> Iterator[tuple[Any, Ints]]:
    """Yield the values with most rows, and the places of their rows."""
    segments, keys_L, starts = Segments(), np.zeros(len(rows_L), np.int64), kept.starts
    bounds = np.searchsorted(rows_L, starts)
    groups = np.flatnonzero(np.diff(bounds))
    for group, values in zip(groups, kept.read(column, groups.tolist()), strict=True):
        here = slice(bounds[group], bounds[group + 1])
        keys_L[here] = segments.keys(values.take(pa.array(rows_L[here] - starts[group])))
    largest = segments.largest(MAX_SEGMENTS)
    numbers_L = segments.numbers(keys_L)
    for number, (value, _) in enumerate(largest):
        yield value, np.flatnonzero(numbers_L == number)
