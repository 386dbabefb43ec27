"""Writes tiny prepared data sets without Spark: manifest and Parquet as `shardrec prepare` leaves them.

Every value is known to the test, so that readers and trainers can be checked against it:

```python
written = write_dataset(tmp_path, rows={"train": 1000, "valid": 100})
written.manifest.spec.dense      # features d0, d1, d2
written.tables["train"]          # pyarrow table of the split, row i = row number i
```

Columns: `d<i>` dense float32; `n<i>` dense list of numbers; `s<i>` one id; `m<i>` multi-hot list (may be
empty); `h<i>` sequence (may be empty), which shares the table of `s0` where there is one; `v<i>` id of a
vector; `label`; `weight` when asked for; `keep.row` the row number. The label follows `d0` and `s0`,
so a model can learn it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.records import TaskLabel
from trainer.schema import (
    NUMBERS,
    Feature,
    FeatureSpec,
    FeatureStatistics,
    FittedOp,
    Manifest,
    PartFile,
    Split,
    SplitName,
    VectorTable,
)


@dataclass(frozen=True)
class WrittenDataset:
    """A data set on disk and what was written.

    Attributes:
        folder: data set folder.
        manifest: its manifest.
        tables: rows of each split in their order, with every column.
        vectors: by feature, float32 [num_embeddings, D]; the first two are zeros.
    """

    folder: Path
    manifest: Manifest
    tables: dict[str, pa.Table]
    vectors: dict[str, np.ndarray] = field(default_factory=dict)


def write_dataset(
    folder: str | Path,
    *,
    rows: Mapping[SplitName, int] | int = 1000,
    num_dense: int = 3,
    num_sparse: int = 2,
    num_lists: int = 1,
    num_sequences: int = 1,
    list_dims: Sequence[int] = (),
    vector_dims: Sequence[int] = (),
    num_embeddings: int = 50,
    mean_length: float = 3.0,
    rows_per_row_group: int = 64,
    rows_per_file: int = 256,
    weight: bool = False,
    seed: int = 0,
    name: str = "tiny",
) -> WrittenDataset:
    """Write a data set and return its contents.

    Args:
        folder: where to write; created when missing.
        rows: rows of each split, or of `train` alone.
        num_dense: dense features `d0`, `d1`, ...
        num_sparse: features of one id `s0`, `s1`, ...
        num_lists: multi-hot features `m0`, ...
        num_sequences: sequence features `h0`, ...
        list_dims: numbers per row of the dense features of lists `n0`, ..., behind the other dense ones.
        vector_dims: D of the vector features `v0`, ...; each has its vectors in three parts.
        num_embeddings: ids of every table; ids are Zipf-like, 0 (missing) included.
        mean_length: mean length of lists and sequences (geometric, so that empty ones occur).
        rows_per_row_group: rows of a row group; the last of a file may be shorter.
        rows_per_file: rows of a part file; the last may be shorter.
        weight: write a `weight` column.
        seed: of every value.
        name: name of the data set.
    """
    folder = Path(folder)
    per_split: Mapping[SplitName, int] = {"train": rows} if isinstance(rows, int) else rows
    spec = _spec(num_dense, num_sparse, num_lists, num_sequences, num_embeddings, weight)
    listed = tuple(_number_lists(i, dim) for i, dim in enumerate(list_dims))
    looked_up = tuple(_vector_feature(i, dim, num_embeddings) for i, dim in enumerate(vector_dims))
    spec = spec.model_copy(update={"features": (*spec.dense, *listed, *spec.sparse, *looked_up)})
    vectors = {f.name: _write_vectors(folder, f, seed) for f in looked_up}
    tables: dict[str, pa.Table] = {}
    splits: dict[SplitName, Split] = {}
    for number, (split, count) in enumerate(per_split.items()):
        rng = np.random.default_rng([seed, number])
        tables[split] = _table(spec, count, mean_length, rng)
        splits[split] = write_split(folder, split, tables[split], rows_per_row_group, rows_per_file)
    manifest = Manifest(
        name=name,
        created="2026-01-01T00:00:00Z",
        seed=seed,
        config_hash="0" * 16,
        spec=spec,
        splits=splits,
        statistics={f.name: _statistics(f, tables) for f in spec.features},
        synthetic=True,
    )
    manifest.save(folder)
    return WrittenDataset(folder, manifest, tables, vectors)


def write_split(
    folder: Path, split: str, table: pa.Table, rows_per_row_group: int, rows_per_file: int
) -> Split:
    """Write a table as part files and return their manifest entry."""
    files = []
    (folder / split).mkdir(parents=True, exist_ok=True)
    for number, first in enumerate(range(0, table.num_rows, rows_per_file)):
        path = folder / split / f"part-{number:05d}.parquet"
        part = table.slice(first, rows_per_file)
        pq.write_table(part, path, row_group_size=rows_per_row_group)
        starts = range(0, part.num_rows, rows_per_row_group)
        groups = tuple(min(rows_per_row_group, part.num_rows - start) for start in starts)
        relative = path.relative_to(folder).as_posix()
        files.append(
            PartFile(path=relative, rows=part.num_rows, row_groups=groups, bytes=path.stat().st_size)
        )
    positives = int(np.sum(table.column("label").to_numpy()))
    return Split(rows=table.num_rows, positives=positives, files=tuple(files))


def _spec(
    dense: int, sparse: int, lists: int, sequences: int, num_embeddings: int, weight: bool
) -> FeatureSpec:
    features = [Feature(name=f"d{i}", kind="dense", column=f"d{i}") for i in range(dense)]
    for letter, count, is_list in (("s", sparse, False), ("m", lists, True)):
        features += [
            Feature(
                name=f"{letter}{i}",
                kind="sparse",
                column=f"{letter}{i}",
                is_list=is_list,
                table=f"{letter}{i}",
                num_embeddings=num_embeddings,
            )
            for i in range(count)
        ]
    features += [
        Feature(
            name=f"h{i}",
            kind="sequence",
            column="s0",
            is_list=True,
            table="s0" if sparse else f"h{i}",
            num_embeddings=num_embeddings,
        )
        for i in range(sequences)
    ]
    label = FittedOp(name="label", params={"column": "label", "positive_at_least": None})
    return FeatureSpec(features=tuple(features), label=label, weight="weight" if weight else None)


def _number_lists(number: int, dim: int) -> Feature:
    name = f"n{number}"
    return Feature(
        name=name,
        kind="dense",
        column=name,
        ops=(FittedOp(name=NUMBERS, params={"dim": dim, "delimiter": None}),),
    )


def _vector_feature(number: int, dim: int, num_embeddings: int) -> Feature:
    name = f"v{number}"
    return Feature(
        name=name,
        kind="vector",
        column=name,
        ops=(FittedOp(name="vocabulary", params={}),),
        num_embeddings=num_embeddings,
        vocabulary=f"vocabulary/{name}",
        vocabulary_hash="0" * 32,
        vectors=VectorTable(folder=f"vectors/{name}", dim=dim, digest=f"{number:032x}"),
    )


def _write_vectors(folder: Path, feature: Feature, seed: int) -> np.ndarray:
    assert feature.vectors is not None
    rows, dim = (feature.num_embeddings or 0) - 2, feature.vectors.dim
    made = np.random.default_rng([seed, dim]).standard_normal((rows, dim)).astype(np.float32)
    place = folder / feature.vectors.folder
    place.mkdir(parents=True)
    for number, part in enumerate(np.split(made, [rows // 4, rows // 2])):
        np.save(place / f"part-{number:05d}.npy", part)
    return np.concatenate([np.zeros((2, dim), np.float32), made])


def plain_columns(written: WrittenDataset, folder: Path) -> WrittenDataset:
    """Write the same rows with every component of every vector as a dense column of its own."""
    features = [f for f in written.manifest.spec.features if f.kind != "vector"]
    tables = {split: table.drop(list(written.vectors)) for split, table in written.tables.items()}
    for name, table in written.vectors.items():
        for place in range(table.shape[1]):
            features.append(Feature(name=f"{name}_{place}", kind="dense", column=f"{name}_{place}"))
            for split, rows in written.tables.items():
                column = pa.array(table[rows.column(name).to_numpy(), place])
                tables[split] = tables[split].append_column(f"{name}_{place}", column)
    first = next(iter(written.manifest.splits.values())).files[0]
    splits = {s: write_split(folder, s, t, first.row_groups[0], first.rows) for s, t in tables.items()}
    spec = written.manifest.spec.model_copy(update={"features": tuple(features)})
    manifest = written.manifest.model_copy(update={"spec": spec, "splits": splits})
    manifest.save(folder)
    return WrittenDataset(folder, manifest, tables)


def with_tasks(written: WrittenDataset, folder: Path, seed: int = 0) -> WrittenDataset:
    """Write the same rows with three tasks: `first` has the label, `second` its opposite in 2 of 3 rows.

    The rating `third` is 3 + `d0` in half of the rows; the others do not count for their task.
    """
    tables: dict[str, pa.Table] = {}
    for number, (split, table) in enumerate(written.tables.items()):
        rng = np.random.default_rng([seed, number, 7])
        label, rows = table.column("label").to_numpy(), table.num_rows
        second = pa.array((1 - label).astype(np.float32), mask=rng.random(rows) < 1 / 3)
        rating = (3 + table.column("d0").to_numpy()).astype(np.float32)
        third = pa.array(rating, mask=rng.random(rows) < 0.5)
        tables[split] = table.append_column("label__second", second).append_column("label__third", third)
    rated = tables["train"].column("label__third").drop_null().to_numpy()
    moments = {"mean": float(rated.mean()), "std": float(rated.std())}
    spec = written.manifest.spec
    labels = (
        TaskLabel(name="first", params=spec.label.params),
        TaskLabel(name="second", params={"column": "second", "known_where": "a = 1"}),
        TaskLabel(name="third", params={"column": "third", "kind": "rating", "missing": "skip", **moments}),
    )
    first = next(iter(written.manifest.splits.values())).files[0]
    splits = {s: write_split(folder, s, t, first.row_groups[0], first.rows) for s, t in tables.items()}
    spec = spec.model_copy(update={"labels": labels})
    manifest = written.manifest.model_copy(update={"spec": spec, "splits": splits})
    manifest.save(folder)
    return WrittenDataset(folder, manifest, tables)


def _table(spec: FeatureSpec, rows: int, mean_length: float, rng: np.random.Generator) -> pa.Table:
    columns: dict[str, pa.Array] = {}
    score = np.zeros(rows)
    for feature in spec.features:
        if feature.dim is not None and feature.kind == "dense":
            columns[feature.name] = pa.array(
                list(rng.standard_normal((rows, feature.dim)).astype(np.float32))
            )
        elif feature.kind == "dense":
            values = rng.standard_normal(rows).astype(np.float32)
            columns[feature.name] = pa.array(values)
            score += 1.5 * values if feature.name == "d0" else 0
        elif feature.is_list:
            columns[feature.name] = _lists(feature, rows, mean_length, rng)
        else:
            ids = _ids(feature, rows, rng)
            columns[feature.name] = pa.array(ids)
            score += np.where(ids % 2 == 0, 1.0, -1.0) if feature.name == "s0" else 0
    label = rng.random(rows) < 1 / (1 + np.exp(-score))
    columns["label"] = pa.array(label.astype(np.float32))
    if spec.weight:
        columns["weight"] = pa.array(rng.uniform(0.5, 2.0, rows).astype(np.float32))
    columns["keep.row"] = pa.array(np.arange(rows, dtype=np.int64))
    return pa.table(columns)


def _ids(feature: Feature, count: int, rng: np.random.Generator) -> np.ndarray:
    assert feature.num_embeddings is not None
    skewed = feature.num_embeddings * rng.random(count) ** 2
    return skewed.astype(np.int64)


def _lists(feature: Feature, rows: int, mean_length: float, rng: np.random.Generator) -> pa.Array:
    lengths = rng.geometric(1 / (mean_length + 1), rows) - 1
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = pa.array(_ids(feature, int(offsets[-1]), rng))
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _statistics(feature: Feature, tables: Mapping[str, pa.Table]) -> FeatureStatistics:
    table = tables.get("train", next(iter(tables.values())))
    column = table.column(feature.name).combine_chunks()
    if feature.kind == "dense":
        values = (column if feature.dim is None else column.flatten()).to_numpy()
        return FeatureStatistics(
            mean=float(values.mean()),
            std=float(values.std()),
            min=float(values.min()),
            max=float(values.max()),
        )
    flat = column.flatten() if feature.is_list else column
    ids = len(np.unique(flat.to_numpy()))
    return FeatureStatistics(ids=ids, mean_length=len(flat) / table.num_rows, oov_share=0.0)
