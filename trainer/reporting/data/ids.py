"""What one sparse or sequence feature holds, split by split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trainer.features.chains import id_op
from trainer.features.ids import oov_buckets
from trainer.reporting.data.counted import (
    Counted,
    Floats,
    Ints,
    count_ids,
    count_values,
    renaming_fingerprint,
)
from trainer.reporting.data.drift import Drift, id_drift, most_frequent
from trainer.reporting.data.leakage import id_auc
from trainer.reporting.data.sample import SplitSample
from trainer.schema import OUT_OF_VOCABULARY_ID, PADDING_ID, Feature

NUM_TOP = 8
TOP_SHARE = 0.01


@dataclass(frozen=True)
class SplitIds:
    """The ids of one feature in one split.

    Attributes:
        rows: looked at.
        missing: share of the rows without an id.
        out_of_vocabulary: share of the ids; None without a vocabulary.
    """

    rows: int
    missing: float
    out_of_vocabulary: float | None


@dataclass(frozen=True)
class IdProfile:
    """Statistics of one id feature over the sample.

    Attributes:
        feature: which.
        splits: by split.
        distinct: known ids in the first split.
        top: its most frequent known ids with their share of all ids.
        top_share: share of the known ids that the most frequent hundredth of the distinct ones has.
        coverage: share of the known ids that the most frequent 1, 2, 4, ... of them have.
        lengths: ids per row in the first split; None where each row has one.
        drift: of the other splits from the first.
        auc: of the feature alone; None where a class is too small.
        fingerprint: the same for columns that are equal up to a one-to-one renaming of ids.
    """

    feature: Feature
    splits: dict[str, SplitIds]
    distinct: int
    top: tuple[tuple[int, float], ...]
    top_share: float
    coverage: Floats
    lengths: Counted | None
    drift: dict[str, Drift]
    auc: float | None
    fingerprint: bytes


def id_profile(
    feature: Feature, samples: Mapping[str, SplitSample], mean_length: float, seed: int
) -> IdProfile:
    """Look at one id feature.

    Args:
        feature: which.
        samples: by split; the first one, training where there is any, is what the others are compared with.
        mean_length: ids per row.
        seed: deals rows into folds.
    """
    (name, first), *others = samples.items()
    size = feature.num_embeddings or 0
    ids, lengths = first.ids(feature, mean_length)
    counted, codes = count_ids(ids, size)
    rows = len(ids) if lengths is None else len(lengths)
    splits = {name: _split_ids(feature, counted, lengths)}
    drift = {}
    for other, sample in others:
        found = sample.ids(feature, mean_length)
        found_counts, _ = count_ids(found[0], size)
        splits[other] = _split_ids(feature, found_counts, found[1])
        if counted.total and found_counts.total:
            drift[other] = id_drift(
                counted, found_counts, (rows, splits[other].rows), unseen_ids=_unseen_ids(feature)
            )
    known = _known(feature, counted)
    falling = np.sort(known.counts)[::-1]
    return IdProfile(
        feature,
        splits,
        len(known.values),
        tuple((int(i), int(known.count_of(i)) / counted.total) for i in most_frequent(known, NUM_TOP)),
        float(falling[: math.ceil(TOP_SHARE * len(falling))].sum()) / max(known.total, 1),
        _coverage(falling),
        None if lengths is None else count_values(lengths)[0],
        drift,
        id_auc(counted, codes, lengths, first.labels[:rows], seed),
        renaming_fingerprint(codes, len(counted.values), lengths),
    )


def _known(feature: Feature, counted: Counted) -> Counted:
    """Return the ids that stand for one value each."""
    least = PADDING_ID + 1 + (_unseen_ids(feature) if feature.vocabulary else 0)
    start = int(np.searchsorted(counted.values, least))
    return Counted(counted.values[start:], counted.counts[start:])


def _unseen_ids(feature: Feature) -> int:
    """Return how many ids from 1 on stand for values out of vocabulary."""
    op = id_op(feature)
    return 1 if op is None else oov_buckets(op)


def _split_ids(feature: Feature, counted: Counted, lengths: Ints | None) -> SplitIds:
    padding = int(counted.count_of(np.array([PADDING_ID]))[0])
    unseen = np.array([OUT_OF_VOCABULARY_ID - 1, OUT_OF_VOCABULARY_ID - 1 + _unseen_ids(feature)])
    unknown = int(np.diff(counted.at_most(unseen))[0])
    rows = counted.total if lengths is None else len(lengths)
    missing = padding if lengths is None else int((lengths == 0).sum())
    there = counted.total - padding
    share = unknown / max(there, 1) if feature.vocabulary else None
    return SplitIds(rows, missing / max(rows, 1), share)


def _coverage(falling: Ints) -> Floats:
    """Return the share of all occurrences that the first 1, 2, 4, ... of the ids have."""
    if not len(falling):
        return np.zeros(0)
    powers = 2 ** np.arange(int(math.log2(len(falling))) + 1)
    ranks = np.unique(np.append(powers, len(falling)))
    return np.asarray(np.cumsum(falling)[ranks - 1] / falling.sum())
