"""Vocabularies of a run's data set, where Spark can read them."""

from __future__ import annotations

from pathlib import Path

from trainer.schema import FeatureSpec
from trainer.storage import Place, local_copy


def with_vocabularies(dataset: Place, spec: FeatureSpec, place: Path) -> Path:
    """Return a folder with the vocabularies; those of a store are copied, as Spark may not know it."""
    if isinstance(dataset, Path):
        return dataset
    for name in {feature.vocabulary for feature in spec.features if feature.vocabulary is not None}:
        local_copy(dataset / name, (place / name).parent)
    return place
