"""What the lists of best items of user rows add to metrics, whatever the targets are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trainer.evaluation_settings import EvaluationSettings
from trainer.item_categories import ItemCategories
from trainer.item_ranking import TargetRanks
from trainer.metrics.recommended import (
    category_distances,
    covered_share,
    exposure,
    information,
    list_means,
    popular_head,
    unevenness,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_HISTORY = "history_popularity"


@dataclass(frozen=True)
class RowTerms:
    """What rows add to metrics that are means over the same rows.

    Attributes:
        counts_B: how much each row counts, beside its weight; 0 where it has no value.
        values_B: by metric, each row's value times its count.
    """

    counts_B: Floats
    values_B: dict[str, Floats]

    @classmethod
    def of_known(cls, values_B: dict[str, Floats]) -> RowTerms:
        """Take values that are NaN in the same rows, which do not count."""
        known_B = ~np.isnan(next(iter(values_B.values())))
        return cls(known_B.astype(np.float64), {name: np.nan_to_num(v) for name, v in values_B.items()})


class ListTerms:
    """Finds out what rows add to the metrics of recommended lists that are asked for.

    Args:
        ranks: of all ranks, with lists.
        settings: what to compute.
        counts_N: how often each id is in the training rows.
        categories: of the items, where `intra_list_diversity` goes by them; else it goes by the vectors of
            `ranks.figures`, and is left out where there are none.
    """

    def __init__(
        self,
        ranks: TargetRanks,
        settings: EvaluationSettings,
        counts_N: Tensor,
        categories: ItemCategories | None,
    ) -> None:
        self._ranks, self._settings, self._categories = ranks, settings, categories
        counts = counts_N.numpy()
        # The catalogue counts what training rows had, numbered from 0; other ids are -1.
        shown = np.flatnonzero(counts > 0)
        self._number_E = np.full(len(counts), -1)
        self._number_E[shown] = np.arange(len(shown))
        self._counts_N = counts[shown]
        self._bits_N = information(self._counts_N, max(int(counts.sum()), 1))
        self._popular_N = popular_head(self._counts_N)

    def of(self, rows_B: Ints) -> list[RowTerms]:
        """Return what rows add.

        Args:
            rows_B: their places in the arrays of the ranks.
        """
        lists_BK, found = self._numbered(rows_B), []
        if self._settings.shows("novelty"):
            # A mean over the items of all lists: a longer list counts for more.
            size_B = (lists_BK >= 0).sum(axis=1).astype(np.float64)
            bits_B = np.nan_to_num(list_means(self._bits_N, lists_BK)) * size_B
            found.append(RowTerms(size_B, {"novelty": bits_B}))
        of_lists = {}
        if self._settings.names & {"popularity", "popularity_lift"}:
            of_lists["popularity"] = list_means(self._counts_N.astype(np.float64), lists_BK)
        if self._settings.shows("popular_share"):
            of_lists["popular_share"] = list_means(self._popular_N, lists_BK)
        found += [RowTerms.of_known(of_lists)] if of_lists else []
        for name, values_B in self._figures(rows_B).items():
            found.append(RowTerms.of_known({name: values_B}))
        return found

    def exposure(self, rows_B: Ints) -> Ints:
        """Return in how many of the rows' lists each item of the catalogue is, [N]."""
        return exposure(self._numbered(rows_B), len(self._counts_N))

    @property
    def exposes(self) -> bool:
        """Return whether a metric is of how many lists each item is in, and so no mean over rows."""
        return bool(self._settings.names & {"coverage", "gini"})

    def made_of(self, means: dict[str, Floats], exposure_N: Ints | None) -> dict[str, Floats]:
        """Return the metrics that are made of means over rows, or of the exposure of items.

        Args:
            means: by set of weights, [C].
            exposure_N: of the rows' lists, where `exposes`.

        Returns:
            [C], and [1] of those of the exposure: a resample has fewer distinct rows than the split, so its
            lists cover fewer items, and an interval would lie beside the value.
        """
        found = {}
        if _HISTORY in means:
            # Lists and histories each by their own mean: users differ in how long both are.
            before_C = np.where(means[_HISTORY] > 0, means[_HISTORY], np.nan)
            found["popularity_lift"] = means["popularity"] / before_C - 1
        if exposure_N is not None:
            found["coverage"] = np.array([covered_share(exposure_N)])
            found["gini"] = np.array([unevenness(exposure_N)])
        return found

    def _numbered(self, rows_B: Ints) -> Ints:
        top_BK = self._ranks.top_LK[rows_B]
        return np.where(top_BK > 0, self._number_E[top_BK], -1)

    def _figures(self, rows_B: Ints) -> dict[str, Floats]:
        """Return what `ListFigures` found of the rows, and their diversity by categories; NaN for nothing."""
        shows = self._settings.shows
        figures = {name: values_L[rows_B] for name, values_L in self._ranks.figures.items()}
        found: dict[str, Floats] = {}
        if shows("popularity_lift") and _HISTORY in figures:
            found[_HISTORY] = figures[_HISTORY]
        if shows("serendipity") and "serendipity" in figures:
            has_targets_B = self._ranks.positives_L[rows_B] > 0
            found["serendipity"] = np.where(has_targets_B, figures["serendipity"], np.nan)
        if not shows("intra_list_diversity"):
            return found
        if self._categories is not None:
            begins, kinds = self._categories.begins_E1, self._categories.categories_H
            top_BK = self._ranks.top_LK[rows_B]
            found["intra_list_diversity"] = category_distances(
                np.where(top_BK > 0, top_BK, -1), begins, kinds
            )
        elif "diversity" in figures:
            found["intra_list_diversity"] = figures["diversity"]
        return found
