"""What the first batches hold: numbers and ids that a model cannot learn from, or learns too well from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.batch import SKIPPED_ROW, Batch
from trainer.guard.findings import Finding, listed
from trainer.schema import OUT_OF_VOCABULARY_ID, PADDING_ID, FeatureSpec, FeatureStatistics

LARGEST_NUMBER = 1e3
"""Dense inputs beyond it are not scaled: logarithms and standardised values stay far below."""
MISSING_SHARE = 0.99
OUT_OF_VOCABULARY_SHARE = 0.9
# Fewer rows tell nothing about constant values; fewer rows of a label nothing about features that equal it.
_LEAST_ROWS, _LEAST_OF_LABEL = 256, 20


@dataclass(frozen=True)
class _Counts:
    """The sums of all ranks; of groups of rows see `FirstBatches`."""

    rows_G: Tensor
    broken_F: Tensor
    ids_S3: Tensor


class FirstBatches:
    """Looks at batches on the CPU, before their ids become rows; `findings` adds all ranks up.

    There are G groups of rows: all that have a weight, and for each binary label those with 0 and those with
    1; a row that lacks the label is in neither.

    Args:
        spec: of the data set.
        statistics: of its training rows, by feature.
        raw: features whose ids are not those of a vocabulary, so that 0 and 1 mean nothing.
        device: where the ranks reduce.
        binary: columns of the labels that are 0 or 1 and to be learnt.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        statistics: dict[str, FeatureStatistics],
        raw: frozenset[str],
        device: torch.device,
        binary: Sequence[int],
    ) -> None:
        self._statistics, self._raw, self._device = statistics, raw, device
        self._binary = tuple(binary)
        self._dense = [
            f"{f.name}[{i}]" if f.dim else f.name
            for f in (*spec.dense, *spec.vectors)
            for i in range(f.dim or 1)
        ]
        self._sparse = spec.looked_up
        self._task_names = [task.name for task in spec.labels] if spec.labels else None
        # Of ids too: float64 holds them exactly up to 2^53.
        columns = len(self._dense) + len(self._sparse)
        groups = 1 + 2 * len(self._binary)
        self._low_GC = torch.full((groups, columns), torch.inf, dtype=torch.float64)
        self._high_GC = -self._low_GC
        self._weight, self._read = 0.0, 0
        self._rows_G = torch.zeros(groups, dtype=torch.float64)
        self._broken_F = torch.zeros(len(self._dense), dtype=torch.float64)
        # Rows without an id, ids, and ids out of vocabulary.
        self._ids_S3 = torch.zeros((len(self._sparse), 3), dtype=torch.float64)

    def add(self, batch: Batch) -> None:
        """Count a batch of this rank."""
        self._weight += float(batch.weights_B.double().sum())
        self._read += int((batch.rows_B != SKIPPED_ROW).sum())
        real_B = batch.weights_B > 0
        groups_GB = torch.stack([real_B, *self._labelled(batch, real_B)])
        self._rows_G += groups_GB.sum(dim=1)
        dense_BF = batch.dense_BF.double()
        self._broken_F += (~torch.isfinite(dense_BF[real_B])).sum(0)
        for group, rows_B in enumerate(groups_GB):
            self._widen(group, slice(0, len(self._dense)), dense_BF[rows_B])
        for number, feature in enumerate(self._sparse):
            ids = batch.sparse[feature.name]
            self._add_ids(number, ids.values(), ids.lengths().long(), groups_GB)

    def _labelled(self, batch: Batch, real_B: Tensor) -> list[Tensor]:
        """Return which rows have label 0 and which have label 1, one binary label after the other."""
        labels = [batch.labels_BT[:, column] for column in self._binary]
        # A comparison with NaN, the label of a row that does not count, holds for neither.
        return [real_B & half for labels_B in labels for half in (labels_B <= 0.5, labels_B > 0.5)]

    def _add_ids(self, number: int, ids: Tensor, lengths_B: Tensor, groups_GB: Tensor) -> None:
        real_B = groups_GB[0]
        of_row = torch.repeat_interleave(torch.arange(len(lengths_B)), lengths_B)
        known = real_B[of_row]
        if self._sparse[number].name not in self._raw:
            known = known & (ids != PADDING_ID)
        filled_B = torch.zeros_like(lengths_B).index_add_(0, of_row, known.long()) > 0
        counts = [(real_B & ~filled_B).sum(), known.sum(), (ids[known] == OUT_OF_VOCABULARY_ID).sum()]
        self._ids_S3[number] += torch.stack(counts).double()
        column = len(self._dense) + number
        # Of single ids a missing one is a value too: a feature may be there for one label alone.
        told = known if self._sparse[number].is_list else real_B[of_row]
        for group, rows_B in enumerate(groups_GB):
            self._widen(group, slice(column, column + 1), ids[told & rows_B[of_row]].double()[:, None])

    def _widen(self, group: int, columns: slice, values_NC: Tensor) -> None:
        if values_NC.numel():
            finite = torch.isfinite(values_NC)
            low, high = self._low_GC[group, columns], self._high_GC[group, columns]
            torch.minimum(low, values_NC.where(finite, torch.inf).amin(0), out=low)
            torch.maximum(high, values_NC.where(finite, -torch.inf).amax(0), out=high)

    def findings(self, step: int) -> list[Finding]:
        """Return what is odd about the batches of all ranks; every rank calls it.

        Args:
            step: steps done.
        """
        sums = torch.cat(
            [
                torch.tensor([self._weight, self._read], dtype=torch.float64),
                self._rows_G,
                self._broken_F,
                self._ids_S3.flatten(),
            ]
        ).to(self._device)
        ends = torch.stack([-self._low_GC, self._high_GC]).to(self._device)
        dist.all_reduce(sums)
        dist.all_reduce(ends, op=dist.ReduceOp.MAX)
        of_rows = 2 + len(self._rows_G)
        weight_2, rows_G, broken_F, ids = torch.tensor_split(
            sums.cpu(), (2, of_rows, of_rows + len(self._dense))
        )
        low_GC, high_GC = -ends[0].cpu(), ends[1].cpu()
        counts = _Counts(rows_G, broken_F, ids.reshape(-1, 3))
        weight, read = weight_2.tolist()
        if not weight > 0:
            # Rows that cannot be read have an error of their own.
            what = f"all rows of the first {step:,} steps have weight 0"
            return [Finding("weights_zero", step, what)] if read else []
        return [
            *self._numbers(step, counts, low_GC[0], high_GC[0]),
            *self._ids(step, counts, low_GC[0], high_GC[0]),
            *(
                finding
                for number, column in enumerate(self._binary)
                for label in [slice(1 + 2 * number, 3 + 2 * number)]
                for finding in self._labels(step, column, rows_G[label], low_GC[label], high_GC[label])
            ),
        ]

    def _numbers(self, step: int, counts: _Counts, low_C: Tensor, high_C: Tensor) -> list[Finding]:
        broken, constant, huge = {}, {}, {}
        rows = int(counts.rows_G[0])
        for number, name in enumerate(self._dense):
            low, high = float(low_C[number]), float(high_C[number])
            if counts.broken_F[number]:
                broken[name] = f"{name} ({int(counts.broken_F[number]):,} of {rows:,} rows)"
            if low == high and rows >= _LEAST_ROWS and self._may_be_constant(name):
                constant[name] = f"{name} (always {low:g})"
            if max(-low, high) >= LARGEST_NUMBER:
                huge[name] = f"{name} ({low:g} to {high:g})"
        return [
            *_finding("feature_not_finite", step, "dense features hold NaN or infinity", broken),
            *_finding("feature_constant", step, f"dense features hold one value in {rows:,} rows", constant),
            *_finding(
                "feature_scale", step, f"dense features reach {LARGEST_NUMBER:,.0f} or more, unscaled", huge
            ),
        ]

    def _may_be_constant(self, name: str) -> bool:
        """Return whether all training rows may hold one value: a rare other one shows in few batches."""
        known = self._statistics.get(name)
        return known is None or known.min is None or known.min == known.max

    def _ids(self, step: int, counts: _Counts, low_C: Tensor, high_C: Tensor) -> list[Finding]:
        missing, unknown, single = {}, {}, {}
        rows = float(counts.rows_G[0])
        for number, feature in enumerate(self._sparse):
            name, column = feature.name, len(self._dense) + number
            empty, ids, out = counts.ids_S3[number].tolist()
            if rows and empty / rows >= MISSING_SHARE:
                missing[name] = f"{name} ({empty / rows:.1%})"
            elif feature.vocabulary and name not in self._raw and out / ids >= OUT_OF_VOCABULARY_SHARE:
                unknown[name] = f"{name} ({out / ids:.1%})"
            elif low_C[column] == high_C[column] and not empty and rows >= _LEAST_ROWS:
                single[name] = f"{name} (id {low_C[column]:.0f})"
        of = f"of {rows:,.0f} rows"
        return [
            *_finding("feature_missing", step, f"features are missing in nearly all {of}", missing),
            *_finding(
                "feature_out_of_vocabulary", step, f"nearly all ids {of} are out of vocabulary", unknown
            ),
            *_finding("feature_one_id", step, f"features hold one id in all {of}", single),
        ]

    def _labels(
        self, step: int, column: int, rows_2: Tensor, low_2C: Tensor, high_2C: Tensor
    ) -> list[Finding]:
        """Return the features whose values of one label all lie beyond those of the other."""
        if rows_2.min() < _LEAST_OF_LABEL:
            return []
        apart_C = (high_2C[0] < low_2C[1]) | (high_2C[1] < low_2C[0])
        names = [*self._dense, *(feature.name for feature in self._sparse)]
        single = [True] * len(self._dense) + [not feature.is_list for feature in self._sparse]
        found = {
            name: f"{name} (label 0: {_span(low_2C[0, c], high_2C[0, c])}; label 1: "
            f"{_span(low_2C[1, c], high_2C[1, c])})"
            for c, name in enumerate(names)
            if apart_C[c] and single[c]
        }
        rows = f"{int(rows_2[0]):,} rows of label 0 and {int(rows_2[1]):,} of label 1"
        label = (
            "the label" if self._task_names is None else f"the label of task {self._task_names[column]!r},"
        )
        return _finding("feature_is_label", step, f"a feature alone tells {label} of {rows}", found)


def _span(low: Tensor, high: Tensor) -> str:
    return f"{float(low):g}" if low == high else f"{float(low):g} to {float(high):g}"


def _finding(code: str, step: int, what: str, found: dict[str, str]) -> list[Finding]:
    if not found:
        return []
    return [Finding(code, step, f"{what}: {listed(list(found.values()))}", tuple(found))]
