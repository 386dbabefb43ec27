"""What `data.catalogue` may name."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.preparation.catalogue import check_catalogue
from trainer.config.data import CatalogueConfig
from trainer.errors import ConfigError
from trainer.schema import Feature, FeatureSpec, FittedOp


def _spec() -> FeatureSpec:
    def feature(name: str, kind: Any = "sparse", **keys: Any) -> Feature:
        return Feature(name=name, kind=kind, column=name, **keys)

    features = (
        feature("age", "dense"),
        feature("movie_id"),
        feature("genres", is_list=True),
        feature("targets", "sequence", is_list=True, role="target"),
    )
    return FeatureSpec(features=features, label=FittedOp(name="label"))


def test_an_item_and_its_features_are_taken() -> None:
    check_catalogue(CatalogueConfig(item="movie_id", features=["genres"]), _spec())
    check_catalogue(None, _spec())


@pytest.mark.parametrize(
    ("item", "features", "where", "got"),
    [
        ("genres", ["movie_id"], "data.catalogue.item", "genres"),
        ("movie", ["genres"], "data.catalogue.item", "movie"),
        ("movie_id", ["movie_id"], "data.catalogue.features", "movie_id"),
        ("movie_id", ["genres", "age"], "data.catalogue.features", "age"),
        ("movie_id", ["targets"], "data.catalogue.features", "targets"),
    ],
)
def test_what_no_catalogue_can_hold_is_named(item: str, features: list[str], where: str, got: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_catalogue(CatalogueConfig(item=item, features=features), _spec())
    assert (error.value.where, error.value.got) == (where, got)
