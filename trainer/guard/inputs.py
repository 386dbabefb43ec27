"""What the first batches hold: numbers and ids that a model cannot learn from, or learns too well from."""

from __future__ import annotations

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
    """The sums of all ranks."""

    rows_2: Tensor
    broken_F: Tensor
    ids_S3: Tensor


class FirstBatches:
    """Looks at batches on the CPU, before their ids become rows; `findings` adds all ranks up.

    Args:
        spec: of the data set.
        statistics: of its training rows, by feature.
        raw: features whose ids are not those of a vocabulary, so that 0 and 1 mean nothing.
        device: where the ranks reduce.
        binary: whether labels are 0 or 1.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        statistics: dict[str, FeatureStatistics],
        raw: frozenset[str],
        device: torch.device,
        binary: bool,
    ) -> None:
        self._statistics, self._raw, self._device, self._binary = statistics, raw, device, binary
        self._dense = [
            f"{f.name}[{i}]" if f.dim else f.name
            for f in (*spec.dense, *spec.vectors)
            for i in range(f.dim or 1)
        ]
        self._sparse = spec.looked_up
        # Of ids too: float64 holds them exactly up to 2^53.
        columns = len(self._dense) + len(self._sparse)
        self._low_2C = torch.full((2, columns), torch.inf, dtype=torch.float64)
        self._high_2C = -self._low_2C
        self._weight, self._read = 0.0, 0
        self._rows_2 = torch.zeros(2, dtype=torch.float64)
        self._broken_F = torch.zeros(len(self._dense), dtype=torch.float64)
        # Rows without an id, ids, and ids out of vocabulary.
        self._ids_S3 = torch.zeros((len(self._sparse), 3), dtype=torch.float64)

    def add(self, batch: Batch) -> None:
        """Count a batch of this rank."""
        self._weight += float(batch.weights_B.double().sum())
        self._read += int((batch.rows_B != SKIPPED_ROW).sum())
        real_B = batch.weights_B > 0
        positive_B = batch.labels_BT[:, 0] > 0.5
        dense_BF = batch.dense_BF.double()
        self._broken_F += (~torch.isfinite(dense_BF[real_B])).sum(0)
        for label in (0, 1):
            rows_B = real_B & (positive_B == bool(label))
            self._rows_2[label] += rows_B.sum()
            self._widen(label, slice(0, len(self._dense)), dense_BF[rows_B])
        for number, feature in enumerate(self._sparse):
            ids = batch.sparse[feature.name]
            self._add_ids(number, ids.values(), ids.lengths().long(), real_B, positive_B)

    def _add_ids(
        self, number: int, ids: Tensor, lengths_B: Tensor, real_B: Tensor, positive_B: Tensor
    ) -> None:
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
        for label in (0, 1):
            chosen = told & (positive_B[of_row] == bool(label))
            self._widen(label, slice(column, column + 1), ids[chosen].double()[:, None])

    def _widen(self, label: int, columns: slice, values_NC: Tensor) -> None:
        if values_NC.numel():
            finite = torch.isfinite(values_NC)
            low, high = self._low_2C[label, columns], self._high_2C[label, columns]
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
                self._rows_2,
                self._broken_F,
                self._ids_S3.flatten(),
            ]
        ).to(self._device)
        ends = torch.stack([-self._low_2C, self._high_2C]).to(self._device)
        dist.all_reduce(sums)
        dist.all_reduce(ends, op=dist.ReduceOp.MAX)
        weight_2, rows_2, broken_F, ids = torch.tensor_split(sums.cpu(), (2, 4, 4 + len(self._dense)))
        low_2C, high_2C = -ends[0].cpu(), ends[1].cpu()
        counts = _Counts(rows_2, broken_F, ids.reshape(-1, 3))
        weight, read = weight_2.tolist()
        if not weight > 0:
            # Rows that cannot be read have an error of their own.
            what = f"all rows of the first {step:,} steps have weight 0"
            return [Finding("weights_zero", step, what)] if read else []
        return [
            *self._numbers(step, counts, low_2C.amin(0), high_2C.amax(0)),
            *self._ids(step, counts, low_2C.amin(0), high_2C.amax(0)),
            *(self._labels(step, counts, low_2C, high_2C) if self._binary else []),
        ]

    def _numbers(self, step: int, counts: _Counts, low_C: Tensor, high_C: Tensor) -> list[Finding]:
        broken, constant, huge = {}, {}, {}
        rows = int(counts.rows_2.sum())
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
        rows = float(counts.rows_2.sum())
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

    def _labels(self, step: int, counts: _Counts, low_2C: Tensor, high_2C: Tensor) -> list[Finding]:
        """Return the features whose values of one label all lie beyond those of the other."""
        if counts.rows_2.min() < _LEAST_OF_LABEL:
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
        rows = f"{int(counts.rows_2[0]):,} rows of label 0 and {int(counts.rows_2[1]):,} of label 1"
        return _finding("feature_is_label", step, f"a feature alone tells the label of {rows}", found)


def _span(low: Tensor, high: Tensor) -> str:
    return f"{float(low):g}" if low == high else f"{float(low):g} to {float(high):g}"


def _finding(code: str, step: int, what: str, found: dict[str, str]) -> list[Finding]:
    if not found:
        return []
    return [Finding(code, step, f"{what}: {listed(list(found.values()))}", tuple(found))]
