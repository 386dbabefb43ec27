"""The data report: what was prepared, as a table for people and as JSON for machines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.records import CleaningStep, JoinedTable
from trainer.schema import SPLITS, UNMATCHED_SHARE, Feature, FeatureStatistics, Manifest, Split

REPORT_TEXT = "report.txt"
REPORT_JSON = "report.json"
_NOTES = (
    "missing: share of training rows; OOV: share of the ids of valid and test that are out of vocabulary,",
    "which are values that training never saw, saw fewer than min_count times, or ranked beyond max_size;",
    "train OOV: the same share of the ids of the training rows",
)
# Further than this from the share asked for, a split deserves a remark.
_FAR = 0.05
_CAUSES = {
    "random": "equal rows share a split, so many equal rows move the shares, and so does chance in few rows",
    "time": "rows of equal time share a split, the older one",
}


def report_text(manifest: Manifest) -> str:
    """Return the report as aligned plain text."""
    name = f"{manifest.name} (synthetic)" if manifest.synthetic else manifest.name
    lines = [f"data set {name}   spec {manifest.spec.hash}   seed {manifest.seed}", ""]
    rated = manifest.spec.tasks[0].is_rating
    rows = [["split", "rows", *([] if rated else ["positives", "share"]), "files", "MiB"]]
    for name, split in manifest.splits.items():
        share = f"{split.positives / split.rows:.4f}" if split.rows else "-"
        size = sum(file.bytes for file in split.files) / 2**20
        positives = [] if rated else [f"{split.positives:,}", share]
        rows.append([name, f"{split.rows:,}", *positives, str(len(split.files)), f"{size:.1f}"])
    lines += [*_table(rows), ""]
    labels = [row for name, split in manifest.splits.items() for row in _label_cells(name, split)]
    if labels:
        lines += [*_table([["split", "task", "rows", "mean", "std"], *labels], text_columns=2), ""]
    if manifest.cleaning:
        head = ["cleaning", "rows dropped", "rows left"]
        lines += [*_table([head, *map(_cleaning_cells, manifest.cleaning)]), ""]
    if manifest.joins:
        head = ["side table", "on", "rows without a match", "share"]
        lines += [*_table([head, *map(_join_cells, manifest.joins)], text_columns=2), ""]
    dense = [[_dense_name(f), *_dense_cells(manifest.statistics[f.name])] for f in manifest.spec.dense]
    if dense:
        lines += [*_table([["dense feature", "missing", "mean", "std", "min", "max"], *dense]), ""]
    vectors = [[f.name, *_vector_cells(f, manifest.statistics[f.name])] for f in manifest.spec.vectors]
    if vectors:
        head = ["vector feature", "looked up by", "length", "vectors", "missing", "train OOV", "OOV"]
        lines += [*_table([head, *vectors], text_columns=2), ""]
    ids = [[f.name, *_id_cells(f, manifest.statistics[f.name])] for f in manifest.spec.sparse]
    if ids:
        head = ["id feature", "table", "rows of table", "ids", "missing", "train OOV", "OOV", "mean length"]
        lines += [*_table([head, *ids], text_columns=2), ""]
    return "\n".join([*lines, *_NOTES, *_remarks(manifest), ""])


def _remarks(manifest: Manifest) -> list[str]:
    return [
        *_share_notes(manifest),
        *_leak_notes(manifest),
        *_downsampling_notes(manifest),
        *_empty_notes(manifest),
        *_join_notes(manifest),
        *manifest.remarks,
    ]


def _empty_notes(manifest: Manifest) -> list[str]:
    """Return a remark on each feature that no training row has a value of."""
    found = [(f, manifest.statistics[f.name]) for f in manifest.spec.features if f.role == "input"]
    return [
        f"{feature.name}: no training row has a value"
        for feature, seen in found
        if (seen.mean_length == 0 if feature.is_list else seen.null_share >= 1)
    ]


def _label_cells(name: str, split: Split) -> list[list[str]]:
    """Return a row for each task; the mean of a binary label is its share of positives."""
    return [
        [name, task, f"{found.rows:,}", f"{found.mean:.4f}", f"{found.std:.4f}"]
        for task, found in split.labels.items()
    ]


def _join_cells(table: JoinedTable) -> list[str]:
    return [table.source, ", ".join(table.on), f"{table.unmatched:,}", _percent(table.share)]


def _join_notes(manifest: Manifest) -> list[str]:
    """Return a remark on each side table that many rows have no match in."""
    return [
        f"data.joins.{number} ({table.source}): {100 * table.share:.2f} % of the rows have no match on "
        f"{', '.join(table.on)}; their columns of it are missing"
        for number, table in enumerate(manifest.joins)
        if table.share >= UNMATCHED_SHARE
    ]


def _cleaning_cells(step: CleaningStep) -> list[str]:
    return [step.name, f"{step.dropped:,}", f"{step.left:,}"]


def _downsampling_notes(manifest: Manifest) -> list[str]:
    """Return a remark on each split that lacks some of its negatives."""
    return [
        f"{name}: {100 * split.negatives_kept:.2f} % of the negatives were kept; evaluation and scoring add "
        f"{math.log(split.negatives_kept):.4f} to logits of other splits"
        for name, split in manifest.splits.items()
        if split.negatives_kept != 1.0
    ]


def _leak_notes(manifest: Manifest) -> list[str]:
    """Return a remark on each feature whose training rows tell of rows that another split holds."""
    preparation = manifest.preparation
    split = preparation.get("data", {}).get("split", {})
    if split.get("method") not in ("random", "k_fold"):
        return []
    features = preparation.get("features", {})
    told = {"history": "histories of training rows list", "earlier": "numbers of training rows count"}
    return [
        f"{group['name']}: under a {split['method'].replace('_', '-')} split, {what} earlier events that "
        "valid and test are to predict; data.split.method: time keeps them apart"
        for group in [*features.get("dense", []), *features.get("sequence", [])]
        for key, what in told.items()
        # Rows of one user in one split tell nothing of another split's rows.
        if group.get(key) and split.get("by") not in _ids(group[key])
    ]


def _ids(section: Mapping[str, Any]) -> list[str]:
    """Return the columns of the ids whose earlier rows a feature is made of."""
    return [section["user"]] if "user" in section else list(section["by"])


def _share_notes(manifest: Manifest) -> list[str]:
    """Return a remark on each split whose share of the rows is far from the share asked for."""
    asked = manifest.preparation.get("data", {}).get("split", {})
    rows = sum(split.rows for split in manifest.splits.values())
    dealt_by_share = asked.get("method") in _CAUSES and not asked.get("until")
    if not rows or "fractions" not in asked or not dealt_by_share:
        return []
    notes: list[str] = []
    for name, fraction in zip(SPLITS, asked["fractions"], strict=True):
        found = manifest.splits[name].rows / rows if name in manifest.splits else 0.0
        if abs(found - fraction) > _FAR:
            notes.append(
                f"{name}: {100 * found:.1f} % of the rows, data.split.fractions asks for {100 * fraction:g} %"
            )
    cause = f"rows of one {asked['by']} share a split" if asked.get("by") else _CAUSES[asked["method"]]
    return [*notes, f"  likely cause: {cause}"] if notes else []


def report_json(manifest: Manifest) -> dict[str, Any]:
    """Return rows and positives by split, and the statistics by feature."""
    return {
        "name": manifest.name,
        "synthetic": manifest.synthetic,
        "spec_hash": manifest.spec.hash,
        "splits": {
            name: {
                "rows": s.rows,
                "positives": s.positives,
                "negatives_kept": s.negatives_kept,
                **({"labels": {task: x.model_dump() for task, x in s.labels.items()}} if s.labels else {}),
            }
            for name, s in manifest.splits.items()
        },
        "cleaning": [step.model_dump() for step in manifest.cleaning],
        "joins": [{**table.model_dump(), "share": table.share} for table in manifest.joins],
        "features": {
            f.name: {
                "kind": f.kind,
                "table": f.table,
                "num_embeddings": f.num_embeddings,
                **({"dim": f.dim} if f.dim is not None else {}),
                **manifest.statistics[f.name].model_dump(exclude_none=True),
            }
            for f in manifest.spec.features
        },
        "notes": _remarks(manifest),
    }


def write_report(manifest: Manifest, folder: Path) -> str:
    """Write `report.txt` and `report.json` and return the text."""
    text = report_text(manifest)
    (folder / REPORT_TEXT).write_text(text, encoding="utf-8")
    (folder / REPORT_JSON).write_text(
        json.dumps(report_json(manifest), indent=1, ensure_ascii=False), encoding="utf-8"
    )
    return text


def _dense_name(feature: Feature) -> str:
    return feature.name if feature.dim is None else f"{feature.name} (lists of {feature.dim:,})"


def _dense_cells(found: FeatureStatistics) -> list[str]:
    numbers = [found.mean, found.std, found.min, found.max]
    return [
        _percent(found.null_share),
        *("-" if x is None else _general(x, found.std or 0.0) for x in numbers),
    ]


def _general(number: float, scale: float) -> str:
    """Return four figures, and 0 for what is a rounding error beside numbers of that scale."""
    return "0" if abs(number) < 1e-5 * scale else f"{number:.4g}"


def _id_cells(feature: Feature, found: FeatureStatistics) -> list[str]:
    return [
        feature.table or "",
        f"{feature.num_embeddings or 0:,}",
        *_seen_cells(found),
        f"{found.mean_length:.2f}",
    ]


def _vector_cells(feature: Feature, found: FeatureStatistics) -> list[str]:
    assert feature.vectors is not None
    return [feature.column, f"{feature.vectors.dim:,}", *_seen_cells(found)]


def _seen_cells(found: FeatureStatistics) -> list[str]:
    return [
        "-" if found.ids is None else f"{found.ids:,}",
        _percent(found.null_share),
        *("-" if share is None else _percent(share) for share in (found.train_oov_share, found.oov_share)),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _table(rows: list[list[str]], text_columns: int = 1) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if place < text_columns else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
