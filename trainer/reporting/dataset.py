"""The data section: rows and positives per split, and what each feature holds."""

from __future__ import annotations

from trainer.reporting import formats
from trainer.reporting.tables import Table, limited, make_table
from trainer.schema import NUMBERS, SPLITS, Feature, FeatureStatistics, FittedOp, Manifest

MAX_FEATURES = 500


def feature_tables(manifest: Manifest) -> tuple[Table, ...]:
    """Return the tables of labels, id features, dense features and vectors; empty ones are left out."""
    labels = label_table(manifest)
    made = (
        *([labels] if labels else []),
        _id_features(manifest),
        _dense_features(manifest),
        _vector_features(manifest),
    )
    return tuple(table for table in made if table.rows)


def base_rate(manifest: Manifest) -> float | None:
    """Return the share of positives of the first task over all splits; None without rows, or of ratings."""
    rows = 0 if manifest.spec.tasks[0].is_rating else sum(x.labelled for x in manifest.splits.values())
    return sum(split.positives for split in manifest.splits.values()) / rows if rows else None


def split_rows(manifest: Manifest) -> Table:
    """Return rows, positives and files of each split."""
    rows, rated = [], manifest.spec.tasks[0].is_rating
    for name, split in sorted(manifest.splits.items(), key=lambda item: SPLITS.index(item[0])):
        rows.append(
            (
                name,
                formats.count(split.rows),
                formats.DASH if rated else formats.count(split.positives),
                formats.DASH
                if rated or not split.labelled
                else formats.percent(split.positives / split.labelled, 2),
                formats.count(len(split.files)),
                formats.byte_size(sum(file.bytes for file in split.files)),
            )
        )
    titles = ("Split", "Rows", "Positives", "Base rate", "Part files", "On disk")
    return make_table("Splits", titles, rows)


def label_table(manifest: Manifest) -> Table | None:
    """Return what each task's label holds, a binary one's base rate as its mean; None of one binary label."""
    rows = [
        (
            task.name,
            task.kind,
            name,
            formats.count(found.rows),
            formats.decimal(found.mean),
            formats.decimal(found.std),
        )
        for task in manifest.spec.tasks
        for name, split in sorted(manifest.splits.items(), key=lambda item: SPLITS.index(item[0]))
        if (found := split.labels.get(task.name)) is not None
    ]
    titles = ("Task", "Kind", "Split", "Rows", "Mean", "Standard deviation")
    return make_table("Labels", titles, rows, text=(0, 1, 2)) if rows else None


def _id_features(manifest: Manifest) -> Table:
    rows = []
    for feature in manifest.spec.sparse:
        seen = _statistics(manifest, feature)
        rows.append(
            (
                feature.name,
                feature.kind,
                _ops(feature),
                feature.table or formats.DASH,
                formats.count(seen.ids),
                formats.decimal(seen.mean_length, 2),
                formats.percent(seen.null_share, 2),
                formats.percent(seen.train_oov_share, 2),
                formats.percent(seen.oov_share, 2),
            )
        )
    shown, note = limited(rows, MAX_FEATURES, "features")
    titles = ("Feature", "Kind", "Ops", "Table", "Ids", "Mean length", "Nulls", "Train OOV", "OOV")
    about = (
        "Ids, mean length and nulls over the training rows. Train OOV: share of the ids of the training rows "
        "that are out of vocabulary; OOV: the same of the other splits."
    )
    return make_table(
        "Sparse and sequence features", titles, shown, text=(0, 1, 2, 3), note=f"{about} {note}".strip()
    )


def _dense_features(manifest: Manifest) -> Table:
    rows = []
    for feature in manifest.spec.dense:
        seen = _statistics(manifest, feature)
        numbers = (
            formats.general(value, scale=seen.std or 0.0)
            for value in (seen.mean, seen.std, seen.min, seen.max)
        )
        rows.append((feature.name, _ops(feature), *numbers, formats.percent(seen.null_share, 2)))
    shown, note = limited(rows, MAX_FEATURES, "features")
    titles = ("Feature", "Ops", "Mean", "Std", "Min", "Max", "Nulls")
    return make_table("Dense features", titles, shown, text=(0, 1), note=note)


def _vector_features(manifest: Manifest) -> Table:
    rows = []
    for feature in manifest.spec.vectors:
        seen = _statistics(manifest, feature)
        rows.append(
            (
                feature.name,
                feature.column,
                formats.count(feature.vectors.dim if feature.vectors is not None else None),
                formats.count(seen.ids),
                formats.percent(seen.null_share, 2),
                formats.percent(seen.train_oov_share, 2),
                formats.percent(seen.oov_share, 2),
            )
        )
    shown, note = limited(rows, MAX_FEATURES, "features")
    titles = ("Feature", "Looked up by", "Length", "Vectors", "Nulls", "Train OOV", "OOV")
    about = "A row whose id is missing, or out of vocabulary, gets zeros."
    return make_table("Vectors", titles, shown, text=(0, 1), note=f"{about} {note}".strip())


def _statistics(manifest: Manifest, feature: Feature) -> FeatureStatistics:
    return manifest.statistics.get(feature.name, FeatureStatistics())


def _ops(feature: Feature) -> str:
    return ", ".join(_op(op) for op in feature.ops) or formats.DASH


def _op(op: FittedOp) -> str:
    return f"lists of {op.params['dim']:,}" if op.name == NUMBERS else op.name
