"""The metrics of a split over all ranks: every row exactly once, in bounded memory.

Rows are added up one after another in an order of their own (by falling score, and group by group), so that
metrics are equal to the last bit at every world size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from trainer.data.kept import KeptColumns
from trainer.evaluation_settings import COUNTS, EvaluationSettings
from trainer.group_sums import GroupSums
from trainer.metrics import BinarySums, RatingSums, interval, resample_counts
from trainer.row_store import Rows, RowStore, folded, world_size
from trainer.segments import NO_GROUP, OTHER, Segments, group_keys

Floats = NDArray[np.float64]
MAX_SEGMENTS = 100
# Rows x sets of weights that are added up at once.
_NUMBERS_AT_ONCE = 1 << 19
# Numbers of rows that have no group, beside those of groups.
_ROW_UNITS = np.int64(0x5851F42D4C957F2D)


@dataclass(frozen=True)
class Evaluated:
    """The metrics of a split, the same on every rank.

    Attributes:
        rows: rows that were read, those of weight 0 included.
        metrics: by name.
        intervals: lower and upper end of each metric's confidence interval; empty where none was asked for.
        segments: `{"value", "rows", "metrics"}` of the segments with most rows, and `intervals` where asked
            for.
    """

    rows: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    segments: list[dict[str, Any]] = field(default_factory=list)


class ReadRows:
    """Collects rows whatever their weights are, and finds the largest segments of those of all ranks.

    Args:
        kept: raw columns of the split.
        by: the column whose values are the segments.
        device: where ranks exchange tensors.
    """

    def __init__(self, kept: KeptColumns, by: str, device: torch.device) -> None:
        self._kept, self._by = kept, by
        self._store = RowStore(["segment"], device)

    def add(self, rows_N: NDArray[np.int64]) -> None:
        """Add rows of this rank by their numbers in the split; negative ones are none."""
        rows = rows_N[rows_N >= 0]
        nothing = np.zeros(len(rows), np.float32)
        self._store.add(rows, nothing, nothing, nothing)

    def segments(self) -> Segments:
        """Return the segments, the largest of them found; every rank calls this.

        Raises:
            DataError: the column cannot be read.
        """
        segments = Segments()
        self._store.fill("segment", self._kept, self._by, segments.keys)
        segments.largest(MAX_SEGMENTS)
        return segments


class Evaluator:
    """Collects the predictions of one task on this rank, and computes metrics with the other ranks.

    Args:
        settings: what to compute.
        device: where ranks exchange tensors.
        kept: raw columns of the split; needed for groups and segments.
        rows_in_memory: see `RowStore`.
    """

    def __init__(
        self,
        settings: EvaluationSettings,
        device: torch.device,
        kept: KeptColumns | None = None,
        rows_in_memory: int | None = None,
    ) -> None:
        self._settings = settings
        self._device = device
        self._kept = kept
        fields = [*(["group"] if settings.group else []), *(["segment"] if settings.by else [])]
        self._store = RowStore(fields, device, rows_in_memory)
        self._rows = 0

    def add(
        self,
        rows_N: NDArray[np.int64],
        scores_N: NDArray[np.float32],
        labels_N: NDArray[np.float32],
        weights_N: NDArray[np.float32],
    ) -> None:
        """Add rows of this rank.

        Args:
            rows_N: their numbers in the split; negative ones are padding or could not be read.
            scores_N: logits, or predicted numbers of a rating task.
            labels_N: labels.
            weights_N: sample weights; rows of weight 0 do not count.
        """
        self._rows += int((rows_N >= 0).sum())
        counted = (rows_N >= 0) & (weights_N > 0)
        self._store.add(rows_N[counted], scores_N[counted], labels_N[counted], weights_N[counted])

    def result(self, segments: Segments | None = None) -> Evaluated:
        """Return the metrics of the rows of all ranks; every rank calls this.

        Args:
            segments: those of `ReadRows`, which several tasks share; default those of the rows that count.

        Raises:
            DataError: a kept column cannot be read, or no list is longer than a K of `metrics.at`.
        """
        settings = self._settings
        found = self._segments(segments) if settings.by else []
        rows, ungrouped = self._sum_over_ranks(self._rows, self._fill_groups())
        states = self._row_states(("place", "row"), 1)
        by_segment = self._row_states(("segment", "place", "row"), len(found)) if found else states[:0]
        metrics = [self._row_metrics(state) for state in (*states, *by_segment)]
        if settings.grouped:
            sums = self._group_sums(len(found))
            sums.check_lists()
            for number, of_rows in enumerate(metrics):
                of_rows |= sums.metrics(number, unknown=bool(np.isnan(of_rows["rmse"][0])))
            if ungrouped:
                metrics[0]["rows_without_group"] = np.array([float(ungrouped)])
        whole, *parts = [self._told(values) for values in metrics]
        return Evaluated(
            rows,
            whole["metrics"],
            whole.get("intervals", {}),
            [
                {"value": value, "rows": count, **told}
                for (value, count), told in zip(found, parts, strict=True)
            ],
        )

    def _segments(self, shared: Segments | None) -> list[tuple[Any, int]]:
        """Set the field `segment` and return the values of the segments with their rows."""
        assert self._kept is not None
        assert self._settings.by is not None
        segments = Segments() if shared is None else shared
        keys = partial(segments.keys, count=shared is None)
        self._store.fill("segment", self._kept, self._settings.by, keys)
        found = segments.largest(MAX_SEGMENTS) if shared is None else segments.found
        for part in self._store.parts():
            part["segment"] = segments.numbers(part["segment"])
        return found

    def _fill_groups(self) -> int:
        """Set the field `group` and return how many rows of this rank have none."""
        if self._settings.group is None:
            return 0
        assert self._kept is not None
        self._store.fill("group", self._kept, self._settings.group, group_keys)
        return sum(int((part["group"] == NO_GROUP).sum()) for part in self._store.parts())

    def _row_states(self, keys: tuple[str, ...], segments: int) -> Floats:
        """Return the sums over rows of each segment, or of all rows where `keys` name none."""
        settings = self._settings
        by_segment = keys[0] == "segment"
        empty = self._sums(None).state

        def add(states: Floats, block: Rows) -> Floats:
            numbers = block["segment"] if by_segment else np.zeros(len(block), np.int64)
            for segment, rows in _runs(numbers, settings.columns):
                sums = self._sums(states[segment])
                scores = block["score"][rows].astype(np.float64) + settings.logit_shift
                sums.add(scores, block["label"][rows].astype(np.float64), self._weights(block[rows]))
                states[segment] = sums.state
            return states

        blocks = self._store.in_order(keys, leave_out=OTHER if by_segment else None)
        return folded(blocks, np.repeat(empty[None], segments, axis=0), add, self._device)

    def _sums(self, state: Floats | None) -> BinarySums | RatingSums:
        settings = self._settings
        if settings.rating:
            return RatingSums(settings.columns, state)
        return BinarySums(settings.columns, settings.bins, state)

    def _row_metrics(self, state: Floats) -> dict[str, Floats]:
        return self._sums(state).metrics()

    def _weights(self, block: Rows) -> Floats:
        """Return the weights of rows, and those of each resample."""
        weights_N1 = block["weight"].astype(np.float64)[:, None]
        if self._settings.confidence is None:
            return weights_N1
        units_N = block["row"] ^ _ROW_UNITS
        if self._settings.group is not None:
            units_N = np.where(block["group"] == NO_GROUP, units_N, block["group"])
        counts_NR = resample_counts(units_N, self._settings.resamples, self._settings.seed)
        return np.concatenate([weights_N1, weights_N1 * counts_NR], axis=1)

    def _group_sums(self, segments: int) -> GroupSums:
        sums = GroupSums(self._settings, 1 + segments)
        blocks = self._store.in_order(("group", "place", "row"), uncut=1, leave_out=int(NO_GROUP))
        sums.states = folded(map(sums.of_block, blocks), sums.states, sums.add, self._device)
        if world_size() > 1:
            longest = torch.tensor(sums.longest, device=self._device)
            dist.all_reduce(longest, op=dist.ReduceOp.MAX)
            sums.longest = int(longest)
        return sums

    def _told(self, values: dict[str, Floats]) -> dict[str, Any]:
        """Return the metrics that are shown, and their intervals."""
        shown = {name: values_C for name, values_C in values.items() if self._settings.shows(name)}
        told: dict[str, Any] = {"metrics": {name: _number(name, v[0]) for name, v in shown.items()}}
        confidence = self._settings.confidence
        if confidence is not None:
            drawn = {name: values_C[1:] for name, values_C in shown.items() if name not in COUNTS}
            told["intervals"] = {name: interval(values_R, confidence) for name, values_R in drawn.items()}
        return told

    def _sum_over_ranks(self, *numbers: int) -> list[int]:
        if world_size() == 1:
            return list(numbers)
        total = torch.tensor(numbers, device=self._device)
        dist.all_reduce(total)
        return [int(number) for number in total.tolist()]


def _number(name: str, value: float) -> float:
    return int(value) if name in COUNTS and not math.isnan(value) else float(value)


def _runs(numbers_N: NDArray[np.int64], columns: int) -> Iterator[tuple[int, slice]]:
    """Yield each run of equal numbers, in pieces that fit memory."""
    step = max(1, _NUMBERS_AT_ONCE // columns)
    bounds = [0, *(np.flatnonzero(np.diff(numbers_N)) + 1).tolist(), len(numbers_N)]
    for begin, end in pairwise(bounds):
        for first in range(begin, end, step):
            yield int(numbers_N[first]), slice(first, min(first + step, end))
