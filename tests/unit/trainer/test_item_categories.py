"""Categories of items as the catalogue has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.run_folders import manifest
from trainer.errors import ConfigError
from trainer.item_categories import item_categories
from trainer.schema import Feature, FeatureSpec, FittedOp, Manifest

VOCABULARY = (FittedOp(name="vocabulary"),)
TARGETS = Feature(
    name="targets", kind="sparse", column="targets", is_list=True, table="song", num_embeddings=6,
    ops=VOCABULARY, role="target",
)  # fmt: skip


def _manifest(item: str | None) -> Manifest:
    def feature(name: str, num_embeddings: int, **keys: Any) -> Feature:
        return Feature(
            name=name, kind="sparse", column=name, table=name, num_embeddings=num_embeddings,
            ops=VOCABULARY, **keys,
        )  # fmt: skip

    features = (feature("song", 6), feature("genres", 5, is_list=True), feature("country", 4), TARGETS)
    catalogue = None if item is None else {"item": item, "features": ["genres", "country"]}
    changed = {
        "spec": FeatureSpec(features=features, label=FittedOp(name="label")),
        "preparation": {"data": {"catalogue": catalogue}},
    }
    return manifest().model_copy(update=changed)


def _write_catalogue(folder: Path) -> None:
    (folder / "items").mkdir()
    genres = [[2, 3, 2], [1, 0], [], [4]]  # ids below 2 are unknown or missing
    table = pa.table({"id": [2, 3, 4, 5], "genres": genres, "country": [2, 2, 1, 3]})
    pq.write_table(table.slice(0, 3), folder / "items" / "part-00000.parquet")
    pq.write_table(table.slice(3), folder / "items" / "part-00001.parquet")


def test_items_have_the_known_values_of_all_features_once(tmp_path: Path) -> None:
    _write_catalogue(tmp_path)
    found = item_categories(tmp_path, _manifest("song"), TARGETS, None)
    assert found is not None
    assert found.begins_E1.tolist() == [0, 0, 0, 3, 4, 4, 6]
    # Countries follow the five ids of genres.
    assert found.categories_H.tolist() == [2, 3, 5 + 2, 5 + 2, 4, 5 + 3]
    one = item_categories(tmp_path, _manifest("song"), TARGETS, ["country"])
    assert one is not None
    assert one.categories_H.tolist() == [2, 2, 3]


def test_without_a_catalogue_of_the_items_there_are_none_and_named_ones_are_missed(tmp_path: Path) -> None:
    assert item_categories(tmp_path, _manifest(None), TARGETS, None) is None
    assert item_categories(tmp_path, _manifest("country"), TARGETS, None) is None
    with pytest.raises(ConfigError, match=r"no catalogue of these items(.|\n)*metrics\.item_features"):
        item_categories(tmp_path, _manifest(None), TARGETS, ["genres"])
    _write_catalogue(tmp_path)
    with pytest.raises(ConfigError, match=r"metrics\.item_features(.|\n)*mood"):
        item_categories(tmp_path, _manifest("song"), TARGETS, ["mood"])
