"""The categories of items, from the data set's catalogue to metrics of recommended lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.errors import ConfigError
from trainer.inputs import known_from
from trainer.item_features import catalogue_columns, id_lists
from trainer.schema import Feature, Manifest
from trainer.storage import Place

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ItemCategories:
    """Which known values of some features each item has.

    Attributes:
        begins_E1: where the categories of each id begin, and the end of the last one's.
        categories_H: those of one id after another, distinct; features do not share them.
    """

    begins_E1: Ints
    categories_H: Ints


def item_categories(
    folder: Place, manifest: Manifest, items: Feature, names: Sequence[str] | None
) -> ItemCategories | None:
    """Read the categories of all items.

    Args:
        folder: that the data set's files lie in.
        manifest: of the data set.
        items: feature whose ids are items.
        names: features of the catalogue; None for all of them.

    Returns:
        None where the data set has no catalogue of these items, and none was named.

    Raises:
        ConfigError: the catalogue lacks a feature, or is of other items.
        StoreError: the store cannot be read.
    """
    catalogue = (manifest.preparation.get("data") or {}).get("catalogue")
    spec = {feature.name: feature for feature in manifest.spec.features}
    tables = {items.table, items.name}
    if catalogue is None or spec[catalogue["item"]].table not in tables:
        if names is None:
            return None
        raise ConfigError(
            "the data set has no catalogue of these items",
            where="metrics.item_features",
            got=list(names),
            fixes=["data.catalogue: {item: ..., features: [...]}, and prepare again", "leave it out"],
        )
    chosen = tuple(names or catalogue["features"])
    columns = catalogue_columns(folder, chosen, asked_by="metrics.item_features")
    ids_N = columns["id"].to_numpy()
    owners, values, before = [], [], 0
    for name in chosen:
        lengths_N, value_H = id_lists(columns[name])
        known = value_H >= known_from(spec[name])
        owners.append(np.repeat(ids_N, lengths_N)[known])
        values.append(value_H[known] + before)
        before += spec[name].num_embeddings or 0
    pairs_H2 = np.unique(np.stack([np.concatenate(owners), np.concatenate(values)], axis=1), axis=0)
    number_E = np.bincount(pairs_H2[:, 0], minlength=items.num_embeddings or 0)
    return ItemCategories(np.concatenate([[0], np.cumsum(number_E)]), pairs_H2[:, 1])
