"""Sums over groups of rows: GAUC, and the metrics of candidate lists."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError
from trainer.evaluation_settings import EvaluationSettings
from trainer.metrics import Groups, Ranked, group_values, ranking_values, resample_counts
from trainer.metrics.binary import running_sums
from trainer.metrics.grouped import summed
from trainer.metrics.ranking import AT_K
from trainer.row_store import Rows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_NUMBERS_AT_ONCE = 1 << 19


@dataclass(frozen=True)
class GroupTerms:
    """What each group adds to the sums of a segment.

    Attributes:
        segment_G: number of the segment, 0 for all rows.
        group_G: key of the group.
        terms_TG: see `GroupSums`.
    """

    segment_G: Ints
    group_G: Ints
    terms_TG: Floats


class GroupSums:
    """Sums over groups with both classes, and numbers of groups; lists are the groups where a K is named.

    A group counts in GAUC with the weight of its rows, and as a list with the mean weight of its positives.
    In a segment GAUC is that of the segment's rows, while a list is ranked as a whole and counts in each
    segment that one of its positives is in: without its other candidates it would be an easier one.

    Args:
        settings: what to compute.
        segments: 1 and the number of segments.

    Attributes:
        states: float64 [segments, T, C]: weight x AUC, weight, groups, groups left out, weight as a list, and
            that x each metric of lists.
        longest: candidates of the longest list seen.
    """

    def __init__(self, settings: EvaluationSettings, segments: int) -> None:
        self._settings = settings
        of_lists = ["mrr", *(f"{name}@{k}" for k in settings.at for name in AT_K)]
        self._of_lists = [name for name in of_lists if settings.at and settings.shows(name)]
        self.states: Floats = np.zeros((segments, 5 + len(self._of_lists), settings.columns))
        self.longest = 0

    def of_block(self, block: Rows) -> GroupTerms:
        """Return what whole groups add.

        Args:
            block: rows by group, falling score and row.
        """
        keys_G, group_N = np.unique(block["group"], return_inverse=True)
        terms_TG = np.zeros((self.states.shape[1], len(keys_G)))
        groups = _groups(group_N, block)
        terms_TG[:4] = _group_terms(groups)
        self.longest = max(self.longest, int(groups.rows_G[groups.has_both_classes].max(initial=0)))
        if self._of_lists:
            terms_TG[4:] = self._list_terms(group_N, block, groups)
        segment_G = np.zeros(len(keys_G), np.int64)
        if self._settings.by is None or not len(block):
            return GroupTerms(segment_G, keys_G, terms_TG)
        pairs = self._in_segments(group_N, block, terms_TG)
        return GroupTerms(
            np.concatenate([segment_G, pairs.segment_G]),
            np.concatenate([keys_G, keys_G[pairs.group_G]]),
            np.concatenate([terms_TG, pairs.terms_TG], axis=1),
        )

    def add(self, states: Floats, found: GroupTerms) -> Floats:
        """Return the sums with what a block adds."""
        columns, settings = self._settings.columns, self._settings
        step = max(1, _NUMBERS_AT_ONCE // columns)
        for segment in np.unique(found.segment_G).tolist():
            groups = np.flatnonzero(found.segment_G == segment)
            for first in range(0, len(groups), step):
                here = groups[first : first + step]
                counts_GC = np.ones((len(here), 1))
                if settings.confidence is not None:
                    drawn_GR = resample_counts(found.group_G[here], settings.resamples, settings.seed)
                    counts_GC = np.concatenate([counts_GC, drawn_GR], axis=1)
                for term in range(len(found.terms_TG)):
                    added_GC = found.terms_TG[term, here][:, None] * counts_GC
                    states[segment, term] = running_sums(states[segment, term], added_GC)[-1]
        return states

    def check_lists(self) -> None:
        """Refuse a K of the config's that no list is longer than.

        Raises:
            DataError: there is one.
        """
        too_large = [k for k in self._settings.at if k >= self.longest]
        if self._settings.at_given and too_large and self.longest:
            raise DataError(
                "every positive is among the first K places of lists that are no longer than K",
                where="metrics.at",
                got=list(self._settings.at),
                allowed=f"numbers below {self.longest}, the longest list of {self._settings.group!r}",
            )

    def metrics(self, segment: int, *, unknown: bool) -> dict[str, Floats]:
        """Return each metric of a segment by set of weights, [C].

        Args:
            segment: 0 for all rows.
            unknown: whether a score was not a number, which leaves no metric.
        """
        state = self.states[segment]
        with np.errstate(invalid="ignore", divide="ignore"):
            found = {"gauc": state[0] / state[1]}
            for name, total_C in zip(self._of_lists, state[5:], strict=True):
                _, at, k = name.partition("@")
                if not at or int(k) < self.longest:
                    found[name] = total_C / state[4]
        if unknown:
            found = {name: np.full_like(values_C, np.nan) for name, values_C in found.items()}
        return {**found, "groups": state[2], "groups_left_out": state[3]}

    def _list_terms(self, list_N: Ints, block: Rows, found: Groups) -> Floats:
        """Return the weight of each list and that x each metric, 0 for lists of one class."""
        weight_L = np.where(found.has_both_classes, found.positive_weight_G, 0.0)
        ranked = Ranked.from_scores(list_N, block["score"].astype(np.float64), block["label"])
        values = ranking_values(ranked, self._settings.at)
        return np.stack([weight_L, *(np.nan_to_num(values[name]) * weight_L for name in self._of_lists)])

    def _in_segments(self, group_N: Ints, block: Rows, terms_TG: Floats) -> GroupTerms:
        """Return what the groups of a block add to each segment; `group_G` are their places in the block."""
        known = np.flatnonzero(block["segment"] >= 0)
        segment_N = block["segment"][known] + 1
        # The order of score and row stays inside each pair of group and segment.
        order = np.lexsort((segment_N, group_N[known]))
        rows = known[order]
        pairs, pair_N = np.unique(np.stack([group_N[rows], segment_N[order]]), axis=1, return_inverse=True)
        group_P, segment_P = pairs
        pair_N = pair_N.reshape(-1)
        found_TP = np.zeros((len(terms_TG), len(group_P)))
        found_TP[:4] = _group_terms(_groups(pair_N, block[rows]))
        has_positive_P = summed(pair_N, block["label"][rows] > 0.5, len(group_P)) > 0
        found_TP[4:] = np.where(has_positive_P, terms_TG[4:, group_P], 0.0)
        return GroupTerms(segment_P, group_P, found_TP)


def _groups(group_N: Ints, block: Rows) -> Groups:
    columns = (block[name].astype(np.float64) for name in ("score", "label", "weight"))
    return group_values(group_N, *columns)


def _group_terms(found: Groups) -> Floats:
    """Return the first four terms of groups."""
    auc_G, weight_G = (
        np.where(found.has_both_classes, found.auc_G, 0.0),
        np.where(found.has_both_classes, found.weight_G, 0.0),
    )
    return np.stack([auc_G * weight_G, weight_G, found.has_both_classes, ~found.has_both_classes])
