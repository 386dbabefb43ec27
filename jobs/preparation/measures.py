"""Reads written parts back and adds up what the manifest says of them."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.preparation.mixing import mixed
from jobs.preparation.moments import Moments
from jobs.preparation.rows import RawColumns, mapped
from trainer.features.chains import id_op
from trainer.features.ids import oov_buckets
from trainer.features.raw_values import one_array
from trainer.schema import LABEL_COLUMN, OUT_OF_VOCABULARY_ID, PADDING_ID, SPLITS, Feature, FeatureSpec

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Parts of fewer bytes together are read here: tasks for them would cost more than the reading.
_SMALL_BYTES = 64 * 2**20
_REGISTERS_BITS = 14
# Numbers looked at together: they stay in the processor's cache.
_BLOCK = 32_768


@dataclass
class DenseMeasure(Moments):
    """Moments of the finite values of a dense feature, and how many are not finite."""

    bad: int = 0

    def see(self, column: pa.Array) -> None:
        """Add the values of a prepared column."""
        # Of lists all their numbers together.
        numbers = column.flatten() if pa.types.is_list(column.type) else column
        values = numbers.to_numpy(zero_copy_only=False)
        for start in range(0, len(values), _BLOCK):
            x = values[start : start + _BLOCK].astype(np.float64)
            fine = np.isfinite(x)
            if not fine.all():
                self.bad += int(len(x) - fine.sum())
                x = x[fine]
            self.add(Moments.of(x))

    def merge(self, other: DenseMeasure) -> None:
        """Add that of other values."""
        self.bad += other.bad
        self.add(other)


@dataclass
class IdMeasure:
    """Ids that are there, empty rows, ids out of vocabulary, rows with ids outside the table, distinct ids.

    Attributes:
        num_embeddings: of the table.
        oov_ids: ids from 1 on that stand for values out of vocabulary.
        counts_distinct: whether `seen` is kept.
        seen: registers of a HyperLogLog sketch (Flajolet et al. 2007) of the ids that are there.
    """

    num_embeddings: int
    oov_ids: int
    counts_distinct: bool
    ids: int = 0
    empty: int = 0
    oov: int = 0
    bad: int = 0
    seen: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(1 << _REGISTERS_BITS, np.uint8))

    def see(self, column: pa.Array) -> None:
        """Add the values of a prepared column."""
        listed = pa.types.is_list(column.type)
        values = column.flatten() if listed else column
        if values.null_count:
            values = pc.fill_null(values, -1)
        ids = values.to_numpy(zero_copy_only=False)
        if len(ids) and (ids.min() < 0 or ids.max() >= self.num_embeddings):
            self.bad += int(((ids < 0) | (ids >= self.num_embeddings)).sum())
        if listed:
            self.bad += column.null_count
            self.empty += int(pc.sum(pc.equal(pc.list_value_length(column), 0)).as_py() or 0)
            self.ids += len(ids)
        else:
            padding = int(np.count_nonzero(ids == PADDING_ID))
            self.empty += padding
            self.ids += len(ids) - padding
        if self.oov_ids:
            first = OUT_OF_VOCABULARY_ID
            self.oov += int(np.count_nonzero((ids >= first) & (ids < first + self.oov_ids)))
        if self.counts_distinct:
            self._sketch(ids if listed else ids[ids != PADDING_ID])

    def merge(self, other: IdMeasure) -> None:
        """Add that of other values."""
        self.ids += other.ids
        self.empty += other.empty
        self.oov += other.oov
        self.bad += other.bad
        self.seen = np.maximum(self.seen, other.seen)

    def _sketch(self, ids: NDArray[np.int64]) -> None:
        x = np.unique(ids).astype(np.uint64)
        x = mixed(x + np.uint64(0x9E3779B97F4A7C15))
        register = (x >> np.uint64(64 - _REGISTERS_BITS)).astype(np.int64)
        rest = (x << np.uint64(_REGISTERS_BITS)) >> np.uint64(_REGISTERS_BITS)
        # The place of the highest bit of what is left, from above: exact, as 50 bits fit a double.
        rank = (64 - _REGISTERS_BITS - np.frexp(rest.astype(np.float64))[1] + 1).astype(np.uint8)
        np.maximum.at(self.seen, register, rank)

    @property
    def distinct(self) -> int:
        """Return about how many distinct ids there are (0.8 % standard error)."""
        m = len(self.seen)
        estimate = 0.7213 / (1 + 1.079 / m) * m * m / float(np.sum(2.0 ** -self.seen.astype(np.float64)))
        zeros = int((self.seen == 0).sum())
        if estimate <= 2.5 * m and zeros:
            estimate = m * math.log(m / zeros)
        return round(estimate)


@dataclass
class SplitMeasure:
    """Rows of a split, the labels of its tasks and its features in order."""

    features: list[DenseMeasure | IdMeasure]
    labels: list[Moments]
    rows: int = 0

    @classmethod
    def nothing(cls, spec: FeatureSpec) -> SplitMeasure:
        """Return the measure of no rows."""
        return cls([_nothing(feature) for feature in spec.features], [Moments() for _ in spec.tasks])

    def see(self, spec: FeatureSpec, columns: Mapping[str, pa.Array]) -> None:
        """Add some prepared rows."""
        self.rows += len(columns[LABEL_COLUMN])
        for name, found in zip(spec.label_columns, self.labels, strict=True):
            values = columns[name].drop_null().to_numpy().astype(np.float64)
            found.add(Moments.of(values))
        for feature, measure in zip(spec.features, self.features, strict=True):
            measure.see(columns[feature.name])

    def add(self, other: SplitMeasure) -> None:
        """Add that of other rows."""
        self.rows += other.rows
        for mine, theirs in zip(self.labels, other.labels, strict=True):
            mine.add(theirs)
        # The same spec made both, so they are of one kind.
        for feature, same in zip(self.features, other.features, strict=True):
            feature.merge(same)  # type: ignore[arg-type]

    def as_json(self) -> str:
        """Return it as text."""
        labels = [vars(found) for found in self.labels]
        return json.dumps([self.rows, labels, [_plain(vars(f)) for f in self.features]])

    @classmethod
    def from_json(cls, text: str) -> SplitMeasure:
        """Return what `as_json` wrote."""
        rows, labels, features = json.loads(text)
        return cls([_measure(values) for values in features], [Moments(**found) for found in labels], rows)


def _nothing(feature: Feature) -> DenseMeasure | IdMeasure:
    if feature.kind == "dense":
        return DenseMeasure()
    op = id_op(feature)
    oov_ids = oov_buckets(op) if feature.vocabulary is not None and op is not None else 0
    # The size of a vocabulary is known; a list's ids are its owner's.
    return IdMeasure(feature.num_embeddings or 0, oov_ids, feature.vocabulary is None and not feature.is_list)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    text = {k: base64.b64encode(v.tobytes()).decode() for k, v in values.items() if isinstance(v, np.ndarray)}
    if text and not values["counts_distinct"]:
        text = {"seen": ""}
    return {**values, **text}


def _measure(values: dict[str, Any]) -> DenseMeasure | IdMeasure:
    if "seen" not in values:
        return DenseMeasure(**values)
    seen = np.frombuffer(base64.b64decode(values.pop("seen")), np.uint8)
    return IdMeasure(**values, seen=seen) if len(seen) else IdMeasure(**values)


def measure(dataset: Path, spec: FeatureSpec, spark: SparkSession) -> dict[str, SplitMeasure]:
    """Read the parts of every split that has any.

    Args:
        dataset: folder of the data set.
        spec: names the columns.
        spark: reads them where they are many.
    """
    parts = [(split, path) for split in SPLITS for path in sorted((dataset / split).glob("*.parquet"))]
    work = _Work(spec)
    found: dict[str, SplitMeasure] = {}
    if sum(path.stat().st_size for _, path in parts) <= _SMALL_BYTES:
        told = [work.of(split, path) for split, path in parts]
    else:
        names = [(split, str(path)) for split, path in parts]
        rows = spark.createDataFrame(names, "split string, path string").repartition(len(parts))
        found_rows = mapped(rows, ["split", "path"], work, "split string, found string").collect()
        told = [(row["split"], row["found"]) for row in found_rows]
    for split, text in told:
        found.setdefault(split, SplitMeasure.nothing(spec)).add(SplitMeasure.from_json(text))
    return found


@dataclass(frozen=True)
class _Work:
    spec: FeatureSpec

    def __call__(self, batches: Iterator[RawColumns]) -> Iterator[pa.RecordBatch]:
        for columns in batches:
            pairs: Sequence[tuple[str, str]] = list(
                zip(columns["split"].to_pylist(), columns["path"].to_pylist(), strict=True)
            )
            found = [self.of(split, Path(path)) for split, path in pairs]
            yield pa.RecordBatch.from_arrays(
                [pa.array([s for s, _ in found], pa.string()), pa.array([t for _, t in found], pa.string())],
                ["split", "found"],
            )

    def of(self, split: str, path: Path) -> tuple[str, str]:
        """Return the split and the measure of one part, as text."""
        measured = SplitMeasure.nothing(self.spec)
        names = [*self.spec.label_columns, *(feature.name for feature in self.spec.features)]
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=names)
                measured.see(self.spec, {name: one_array(table.column(name)) for name in names})
        return split, measured.as_json()
