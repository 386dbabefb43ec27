"""A seeded sample of a data set's row groups, read one column at a time so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trainer.schema import LABEL_COLUMN, SPLITS, Feature, FeatureSpec, Manifest, PartFile, Split

# Values of one pass over all features: what bounds the time where features are many.
MAX_CELLS = 20_000_000
# Ids of one list feature in one split: what bounds its memory where lists are long.
MAX_IDS = 4_000_000
# Rows read at a time.
_CHUNK_ROWS = 131_072
_LEAST_SHARE = 0.1

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SplitSample:
    """The rows of one split that are looked at.

    Attributes:
        name: of the split.
        rows: rows that the split has.
        looked_at: rows of the sample.
        chunks: part files and row groups that hold them, in the order of reading.
        threshold: a label above it is positive; of ratings their mean.
    """

    name: str
    rows: int
    looked_at: int
    chunks: tuple[tuple[pq.ParquetFile, tuple[int, ...]], ...]
    threshold: float = 0.5

    def column(self, name: str, limit: int | None = None) -> pa.ChunkedArray:
        """Read a column of the sample, or its first `limit` rows."""
        left = self.looked_at if limit is None else min(limit, self.looked_at)
        read: list[pa.Array] = []
        for file, groups in self.chunks:
            if left <= 0:
                break
            part = file.read_row_groups(list(groups), columns=[name]).column(name)[:left]
            left -= len(part)
            read += part.chunks
        return pa.chunked_array(read, type=self.type_of(name))

    def type_of(self, name: str) -> pa.DataType:
        """Return the type of a column as it is stored."""
        return self.chunks[0][0].schema_arrow.field(name).type

    @property
    def columns(self) -> list[str]:
        """Return the names of the stored columns."""
        return list(self.chunks[0][0].schema_arrow.names)

    @cached_property
    def labels(self) -> NDArray[np.bool_]:
        """Return whether each row of the sample is positive."""
        return np.asarray(self.column(LABEL_COLUMN).to_numpy() > self.threshold)

    def dense(self, feature: Feature) -> NDArray[np.float32]:
        """Return the values of a dense feature, NaN where there is none: [N], or [N, D] of lists."""
        column = self.column(feature.name)
        if feature.dim is None:
            return np.asarray(column.to_numpy(), dtype=np.float32)
        flat = np.concatenate(
            [np.empty(0, np.float32), *(part.flatten().to_numpy() for part in column.chunks)]
        )
        return np.asarray(flat.reshape(-1, feature.dim), dtype=np.float32)

    def ids(self, feature: Feature, mean_length: float) -> tuple[Ints, Ints | None]:
        """Return the ids of a feature, and for lists how many each row has.

        Args:
            feature: an id feature.
            mean_length: ids per row, so that fewer rows of long lists are read.
        """
        if not feature.is_list:
            return np.asarray(self.column(feature.name).to_numpy(), dtype=np.int64), None
        limit = max(1, int(MAX_IDS / max(mean_length, 1.0)))
        lists = self.column(feature.name, limit).combine_chunks()
        if isinstance(lists, pa.ChunkedArray):  # newer pyarrow keeps one chunk
            lists = pa.concat_arrays(lists.chunks)
        lengths = np.asarray(lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
        return np.asarray(lists.flatten().to_numpy(), dtype=np.int64), lengths.astype(np.int64)


def take_samples(folder: Path, manifest: Manifest, max_rows: int, seed: int) -> dict[str, SplitSample]:
    """Choose row groups at random, whole splits where they are small enough.

    Args:
        folder: data set folder.
        manifest: its manifest.
        max_rows: rows of all splits together; fewer are taken where features are many.
        seed: fixes the choice.

    Returns:
        The samples of the splits that have rows, in the order train, valid, test.
    """
    filled = {name: split for name in SPLITS if (split := _split(manifest, name)) is not None}
    quotas = row_quotas(
        {name: split.rows for name, split in filled.items()},
        min(max_rows, MAX_CELLS // max(1, _cells_per_row(manifest.spec))),
    )
    samples = {
        name: _sample(folder, name, split, quotas[name], np.random.default_rng([seed, number]))
        for number, (name, split) in enumerate(filled.items())
    }
    first = manifest.spec.tasks[0]
    if first.is_rating:
        samples = {name: replace(sample, threshold=first.mean) for name, sample in samples.items()}
    return samples


def _cells_per_row(spec: FeatureSpec) -> int:
    # Ids of vectors are looked at, not the vectors themselves.
    return sum((f.dim or 1) if f.kind == "dense" else 1 for f in spec.features)


def row_quotas(rows: Mapping[str, int], max_rows: int) -> dict[str, int]:
    """Return how many rows of each split to look at: in proportion, but of each at least a tenth of all."""
    total = sum(rows.values())
    if total <= max_rows:
        return dict(rows)
    return {
        name: min(count, max(1, round(max_rows * max(count / total, _LEAST_SHARE))))
        for name, count in rows.items()
    }


def _split(manifest: Manifest, name: str) -> Split | None:
    found = next((split for key, split in manifest.splits.items() if key == name), None)
    return found if found is not None and found.rows > 0 else None


def _sample(folder: Path, name: str, split: Split, quota: int, rng: np.random.Generator) -> SplitSample:
    places = [(file, group) for file in split.files for group in range(len(file.row_groups))]
    chosen: dict[str, tuple[PartFile, list[int]]] = {}
    found = 0
    for number in rng.permutation(len(places)):
        if found >= quota:
            break
        file, group = places[number]
        chosen.setdefault(file.path, (file, []))[1].append(group)
        found += file.row_groups[group]
    chunks = []
    for file, groups in chosen.values():
        opened = pq.ParquetFile(folder / file.path, memory_map=True)
        chunks += [(opened, chunk) for chunk in _chunks(file, groups)]
    return SplitSample(name, split.rows, min(quota, found), tuple(chunks))


def _chunks(file: PartFile, groups: list[int]) -> Iterator[tuple[int, ...]]:
    """Yield neighbouring row groups together, so that small ones are not read one by one."""
    waiting: list[int] = []
    for group in sorted(groups):
        waiting.append(group)
        if sum(file.row_groups[number] for number in waiting) >= _CHUNK_ROWS:
            yield tuple(waiting)
            waiting = []
    if waiting:
        yield tuple(waiting)
