"""A data set looked at feature by feature: what the page shows and the findings rest on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.reporting.data.dense import DenseProfile, dense_profile
from trainer.reporting.data.ids import IdProfile, id_profile
from trainer.reporting.data.labels import LabelRates, label_rates
from trainer.reporting.data.sample import SplitSample, take_samples
from trainer.reporting.data.tokens import tokens_of
from trainer.schema import Feature, FeatureStatistics, Manifest

MAX_ROWS = 500_000
Profile = DenseProfile | IdProfile


@dataclass(frozen=True)
class DataProfile:
    """What was found in a data set.

    Attributes:
        manifest: of the data set.
        looked_at: rows of the sample by split; the first split is what the others are compared with.
        dense: in model order.
        ids: sparse and sequence features in model order, then the ids that vectors are looked up by.
        tokens: of the most frequent ids, by feature.
        labels: label rate over time, where a kept column tells the time.
    """

    manifest: Manifest
    looked_at: dict[str, int]
    dense: tuple[DenseProfile, ...]
    ids: tuple[IdProfile, ...]
    tokens: dict[str, dict[int, str]]
    labels: LabelRates | None

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """Return all features, dense ones first."""
        return (*self.dense, *self.ids)

    @property
    def base(self) -> str:
        """Return the split that the others are compared with."""
        return next(iter(self.looked_at), "train")

    @property
    def is_whole(self) -> bool:
        """Return whether every row was looked at."""
        return sum(self.looked_at.values()) == sum(split.rows for split in self.manifest.splits.values())

    def statistics(self, feature: Feature) -> FeatureStatistics:
        """Return what `prepare` counted over all training rows."""
        return self.manifest.statistics.get(feature.name, FeatureStatistics())

    def missing(self, profile: Profile) -> float:
        """Return the share of training rows without a value, as `prepare` saw the raw rows."""
        counted = self.statistics(profile.feature).null_share
        if isinstance(profile, DenseProfile) or self.base not in profile.splits:
            return counted
        # Prepared dense columns hide what was missing; ids show it, in data sets without statistics as well.
        return max(counted, profile.splits[self.base].missing)


def profile_dataset(folder: Path, manifest: Manifest, max_rows: int, seed: int) -> DataProfile:
    """Look at a seeded sample of a data set's rows, one feature after another.

    Args:
        folder: data set folder.
        manifest: its manifest.
        max_rows: rows of all splits together.
        seed: fixes which row groups are looked at.
    """
    samples = take_samples(folder, manifest, max_rows, seed)
    if not samples:
        return DataProfile(manifest, {}, (), (), {}, None)
    ids = tuple(_ids(manifest, samples, seed))
    return DataProfile(
        manifest,
        {name: sample.looked_at for name, sample in samples.items()},
        tuple(dense_profile(feature, samples, seed) for feature in manifest.spec.dense),
        ids,
        _tokens(folder, ids),
        label_rates(manifest, samples),
    )


def _ids(manifest: Manifest, samples: Mapping[str, SplitSample], seed: int) -> Iterator[IdProfile]:
    for feature in (*manifest.spec.sparse, *manifest.spec.vectors):
        seen = manifest.statistics.get(feature.name, FeatureStatistics())
        yield id_profile(feature, samples, seen.mean_length, seed)


def _tokens(folder: Path, profiles: tuple[IdProfile, ...]) -> dict[str, dict[int, str]]:
    wanted: dict[str, set[int]] = {}
    for profile in profiles:
        if profile.feature.vocabulary:
            wanted.setdefault(profile.feature.vocabulary, set()).update(i for i, _ in profile.top)
    found = {name: tokens_of(folder / name, ids) for name, ids in wanted.items()}
    return {p.feature.name: found[p.feature.vocabulary] for p in profiles if p.feature.vocabulary}
