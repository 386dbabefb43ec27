"""From one data set's vocabularies to another's: which old row each row of a table comes from, by value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import torch

from sharding.moved_ids import FRESH
from trainer.errors import DataError, SpecMismatchError
from trainer.features.chains import id_op
from trainer.features.ids import first_id
from trainer.features.vocabularies import UNKNOWN, EmptyVocabulary, Vocabulary
from trainer.remapping import RowOrigins, TablePair
from trainer.schema import NUMBERS, OUT_OF_VOCABULARY_ID, PADDING_ID, Feature, FeatureSpec

# Ops whose parameters do not say what an input means: how many rows there are, how numbers stand in a text.
_OTHER_OPS = frozenset({"vocabulary", "hash", NUMBERS})


def check_features(old: FeatureSpec, new: FeatureSpec, where: str) -> list[str]:
    """Check that two data sets have the same features, whatever was fitted for them.

    Args:
        old: of the run that was trained.
        new: of the data set to go on with.
        where: the data set.

    Returns:
        Warnings: ops whose fitted numbers differ.

    Raises:
        SpecMismatchError: naming the features that differ in more than what is fitted.
    """
    before, after = {f.name: f for f in old.features}, {f.name: f for f in new.features}
    lines = [f"feature {name!r}: only in the run" for name in before if name not in after]
    lines += [f"feature {name!r}: only in the data set" for name in after if name not in before]
    both = [(before[name], after[name]) for name in before if name in after]
    for a, b in both:
        was, now = _form(a), _form(b)
        lines += [
            f"feature {a.name!r}: {key} {was[key]!r} != {now[key]!r}" for key in was if was[key] != now[key]
        ]
    if not lines and list(before) != list(after):
        lines.append("features: in another order")
    if lines:
        raise SpecMismatchError(
            "the data set has other features than the run was trained with",
            where=where,
            got="; ".join(lines[:5]),
            fixes=["prepare the data set with the features of the run", "train anew on this data set"],
        )
    return [line for pair in both for line in _refitted(*pair)]


def _form(feature: Feature) -> dict[str, Any]:
    """Return what a feature is, without what was fitted."""
    return {
        "kind": feature.kind,
        "column": feature.column,
        "is_list": feature.is_list,
        "table": feature.table,
        "derived": feature.derived.name if feature.derived else None,
        "ops": [op.name for op in feature.ops],
        "dim": feature.dim,
    }


def _refitted(old: Feature, new: Feature) -> list[str]:
    pairs = list(zip(old.ops, new.ops, strict=True))
    if old.derived is not None and new.derived is not None:
        pairs.append((old.derived, new.derived))
    return [
        f"feature {old.name!r}: {a.name} was fitted anew: equal raw values are other inputs than in the run"
        for a, b in pairs
        if a.params != b.params and a.name not in _OTHER_OPS
    ]


def row_origins(
    pair: TablePair, old: tuple[FeatureSpec, Path], new: tuple[FeatureSpec, Path]
) -> tuple[RowOrigins, str | None]:
    """Return where the rows of a table without `ids` come from, and a warning where they are fresh.

    Args:
        pair: the table before and after.
        old: feature spec of the run, and the data set with its vocabularies.
        new: those to go on with.

    Raises:
        DataError: the vocabulary that the run was trained with is gone.
    """
    before, after = (_features(spec, pair.new.name) for spec, _ in (old, new))
    ways = {_way(feature) for feature in before}
    if ways == {"vocabulary"} and len({f.vocabulary for f in before}) == 1:
        return _by_value(pair, before[0], old[1], after[0], new[1])
    same = [id_op(f) for f in before] == [id_op(f) for f in after]
    if ways == {"numbers"} or (same and "vocabulary" not in ways):
        return _by_number(pair), None
    return _fresh(pair), (
        f"table {pair.new.name!r}: rows numbered by {', '.join(sorted(ways))} with other buckets or seeds "
        "have no value to be known by, so all of them are fresh"
    )


def _features(spec: FeatureSpec, table: str) -> list[Feature]:
    return [feature for feature in spec.sparse if (feature.table or feature.name) == table]


def _way(feature: Feature) -> str:
    op = id_op(feature)
    return "numbers" if op is None else op.name


def _by_number(pair: TablePair) -> RowOrigins:
    rows, before = pair.new.num_embeddings, pair.old.num_embeddings
    origin_R = torch.arange(rows)
    origin_R[before:] = FRESH
    kept = min(rows, before)
    # Padding is no value.
    return RowOrigins(origin_R, kept - 1, rows - kept, before - kept)


def _fresh(pair: TablePair) -> RowOrigins:
    origin_R = torch.full((pair.new.num_embeddings,), FRESH, dtype=torch.int64)
    origin_R[PADDING_ID] = PADDING_ID
    return RowOrigins(origin_R, 0, pair.new.num_embeddings - 1, pair.old.num_embeddings - 1)


def _by_value(
    pair: TablePair, old: Feature, old_data: Path, new: Feature, new_data: Path
) -> tuple[RowOrigins, str | None]:
    known = _trained_vocabulary(old, old_data)
    assert new.vocabulary is not None
    origin_R = torch.full((pair.new.num_embeddings,), FRESH, dtype=torch.int64)
    origin_R[PADDING_ID] = PADDING_ID
    ends = [_first_id(feature) for feature in (old, new)]
    warning = None
    if ends[0] == ends[1]:
        origin_R[OUT_OF_VOCABULARY_ID : ends[0]] = torch.arange(OUT_OF_VOCABULARY_ID, ends[0])
    else:
        buckets = [end - OUT_OF_VOCABULARY_ID for end in ends]
        warning = (
            f"table {pair.new.name!r}: {buckets[1]} rows for unseen values (oov_buckets) instead of "
            f"{buckets[0]}, so they are fresh"
        )
    size = kept = 0
    for batch in ds.dataset(new_data / new.vocabulary, format="parquet").to_batches(columns=["value", "id"]):
        found = torch.from_numpy(known.ids_of(batch["value"].cast(pa.string())).copy())
        origin_R[torch.from_numpy(batch["id"].to_numpy().copy())] = torch.where(
            found == UNKNOWN, FRESH, found
        )
        size += len(found)
        kept += int((found != UNKNOWN).sum())
    return RowOrigins(origin_R, kept, size - kept, len(known.ids) - kept), warning


def _first_id(feature: Feature) -> int:
    op = id_op(feature)
    assert op is not None
    return first_id(op)


def _trained_vocabulary(feature: Feature, dataset: Path) -> Vocabulary:
    """Read the vocabulary that a run was trained with; the data set's may have grown since."""
    from jobs.preparation.vocabulary import digest_of

    assert feature.vocabulary is not None
    folder, rows = dataset / feature.vocabulary, feature.num_embeddings or 0
    try:
        stored = ds.dataset(folder, format="parquet").to_table(
            columns=["value", "id"], filter=ds.field("id") < rows
        )
    except (OSError, pa.ArrowException) as error:
        raise _gone(folder, str(error).splitlines()[0]) from error
    values = pa.concat_arrays(
        [chunk.cast(pa.string()) for chunk in stored["value"].chunks] or [pa.array([], pa.string())]
    )
    ids = stored["id"].to_numpy()
    if feature.vocabulary_hash != (found := digest_of(values, ids)):
        raise _gone(folder, f"digest {found}, the run has {feature.vocabulary_hash}")
    return Vocabulary.of(values, ids) if len(ids) else EmptyVocabulary(ids, ids, None)


def _gone(folder: Path, got: str) -> DataError:
    return DataError(
        "the vocabulary that the run was trained with is not there any more",
        where=str(folder),
        got=got,
        fixes=["name a copy of the data set that the run was trained on: --trained-on FOLDER"],
    )
