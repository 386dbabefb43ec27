"""Data sets with planted faults, written without Spark from columns that the test chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.datasets import write_split
from trainer.schema import Feature, FeatureSpec, FeatureStatistics, FittedOp, Manifest, SplitName

Columns = Mapping[str, Any]


def dense(name: str) -> Feature:
    return Feature(name=name, kind="dense", column=name)


def sparse(name: str, num_embeddings: int, *, is_list: bool = False, vocabulary: bool = True) -> Feature:
    return Feature(
        name=name,
        kind="sparse",
        column=name,
        is_list=is_list,
        table=name,
        num_embeddings=num_embeddings,
        vocabulary=f"vocabulary/{name}" if vocabulary else None,
    )


def write(
    folder: Path,
    features: Sequence[Feature],
    splits: Mapping[SplitName, Columns],
    *,
    statistics: Mapping[str, FeatureStatistics] | None = None,
    tokens: Mapping[str, Sequence[str]] | None = None,
    preparation: dict[str, Any] | None = None,
    name: str = "planted",
    rows_per_row_group: int = 500,
) -> Path:
    """Write splits whose columns are given: the features, `label` and kept ones."""
    entries: dict[SplitName, Any] = {}
    for split, columns in splits.items():
        table = pa.table({key: _array(key, values, features) for key, values in columns.items()})
        entries[split] = write_split(folder, split, table, rows_per_row_group, 2000)
    for feature, values in (tokens or {}).items():
        place = folder / "vocabulary" / feature
        place.mkdir(parents=True)
        ids = range(2, len(values) + 2)
        rows = {"value": list(values), "id": list(ids), "count": [1] * len(values)}
        pq.write_table(pa.table(rows), place / "part-00000.parquet")
    manifest = Manifest(
        name=name,
        created="2026-01-01T00:00:00Z",
        seed=1,
        config_hash="0" * 16,
        preparation=preparation or {},
        spec=FeatureSpec(features=tuple(features), label=FittedOp(name="label", params={"column": "label"})),
        splits=entries,
        statistics={f.name: FeatureStatistics() for f in features} | dict(statistics or {}),
    )
    manifest.save(folder)
    return folder


def _array(name: str, values: Any, features: Sequence[Feature]) -> pa.Array:
    feature = next((f for f in features if f.name == name), None)
    if feature is None:
        return pa.array(np.asarray(values, dtype=np.float32) if name == "label" else values)
    if feature.kind == "dense":
        made = np.asarray(values, dtype=np.float32)
        return pa.array(made if feature.dim is None else list(made))
    return pa.array(values, type=pa.list_(pa.int64()) if feature.is_list else pa.int64())
