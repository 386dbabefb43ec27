"""Prepared rows in the Criteo shape, made by numpy: something to read where no data set is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trainer.schema import (
    LABEL_COLUMN,
    Feature,
    FeatureSpec,
    FeatureStatistics,
    FittedOp,
    Manifest,
    PartFile,
    Split,
)

ROWS_PER_ROW_GROUP = 65_536
MEAN_LENGTH = 20.0
_ROWS_PER_FILE = 4 * ROWS_PER_ROW_GROUP
_NUM_EMBEDDINGS = 100_000


def write_synthetic_rows(folder: Path, rows: int, *, multi_hot: bool = False, seed: int = 0) -> Manifest:
    """Write a data set of one split, `train`, that holds synthetic rows.

    Args:
        folder: where to write; created when missing.
        rows: rows of the split.
        multi_hot: 4 dense columns and 2 multi-hot ones of 20 ids on average, in place of Criteo's 13 dense
            columns and 26 of one id.
        seed: of every value.

    Returns:
        The manifest, which calls the rows synthetic. Ids are skewed to the low ones.
    """
    spec = _multi_hot_spec() if multi_hot else _criteo_spec()
    files = [
        _write_part(folder, spec, number, min(_ROWS_PER_FILE, rows - first), seed)
        for number, first in enumerate(range(0, rows, _ROWS_PER_FILE))
    ]
    mean_length = FeatureStatistics(mean_length=MEAN_LENGTH)
    manifest = Manifest(
        name="multi_hot" if multi_hot else "criteo_shape",
        created="2026-01-01T00:00:00Z",
        seed=seed,
        config_hash="0" * 16,
        spec=spec,
        splits={"train": Split(rows=rows, positives=0, files=tuple(files))},
        statistics={feature.name: mean_length for feature in spec.sparse if feature.is_list},
        synthetic=True,
    )
    manifest.save(folder)
    return manifest


def _criteo_spec() -> FeatureSpec:
    names = [f"C{number}" for number in range(1, 27)]
    return _spec(13, [_ids_feature(name, is_list=False) for name in names])


def _multi_hot_spec() -> FeatureSpec:
    return _spec(4, [_ids_feature(name, is_list=True) for name in ("M1", "M2")])


def _spec(num_dense: int, sparse: list[Feature]) -> FeatureSpec:
    names = [f"I{number}" for number in range(1, num_dense + 1)]
    dense = [Feature(name=name, kind="dense", column=name) for name in names]
    label = FittedOp(name="label", params={"column": LABEL_COLUMN})
    return FeatureSpec(features=(*dense, *sparse), label=label)


def _ids_feature(name: str, *, is_list: bool) -> Feature:
    return Feature(
        name=name, kind="sparse", column=name, table=name, num_embeddings=_NUM_EMBEDDINGS, is_list=is_list
    )


def _write_part(folder: Path, spec: FeatureSpec, number: int, rows: int, seed: int) -> PartFile:
    generator = np.random.default_rng([seed, number])
    columns = {feature.name: _column(feature, rows, generator) for feature in spec.features}
    columns[LABEL_COLUMN] = pa.array((generator.random(rows) < 0.25).astype(np.float32))
    path = folder / "train" / f"part-{number:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=ROWS_PER_ROW_GROUP)
    starts = range(0, rows, ROWS_PER_ROW_GROUP)
    groups = tuple(min(ROWS_PER_ROW_GROUP, rows - start) for start in starts)
    relative = path.relative_to(folder).as_posix()
    return PartFile(path=relative, rows=rows, row_groups=groups, bytes=path.stat().st_size)


def _column(feature: Feature, rows: int, generator: np.random.Generator) -> pa.Array:
    if feature.kind == "dense":
        return pa.array(generator.standard_normal(rows).astype(np.float32))
    if not feature.is_list:
        return pa.array(_ids(rows, generator))
    lengths = generator.geometric(1 / (MEAN_LENGTH + 1), rows) - 1
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(_ids(int(offsets[-1]), generator)))


def _ids(count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    return (_NUM_EMBEDDINGS * generator.random(count) ** 2).astype(np.int64)
