"""The features of items, from the data set's catalogue to the models that need those of any item."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.errors import ConfigError
from trainer.modules.item_catalogue import ItemCatalogue
from trainer.schema import CATALOGUE_FOLDER
from trainer.storage import Place, list_files, open_input


def load_item_features(model: nn.Module, dataset: Place, device: torch.device) -> None:
    """Fill the catalogues of a model from those of a data set; most models have none.

    Args:
        model: of a run, sharded or not.
        dataset: the folder that it trains on.
        device: of this rank.

    Raises:
        ConfigError: the data set has no catalogue, or not of all features.
        StoreError: the store cannot be read.
    """
    for module in model.modules():
        if isinstance(module, ItemCatalogue) and module.features:
            table = catalogue_columns(dataset, module.features)
            ids_N = table["id"].to_numpy()
            module.fill(
                {name: _lists(table[name], ids_N, module.num_items, device) for name in module.features}
            )


def catalogue_columns(
    dataset: Place, features: tuple[str, ...], asked_by: str = "model.item_features"
) -> pa.Table:
    """Return `id` and the features of the items of a data set's catalogue, in the order of the ids.

    Args:
        dataset: the folder.
        features: that must be there.
        asked_by: config key that names them.

    Raises:
        ConfigError: the data set has no catalogue, or not of all features.
        StoreError: the store cannot be read.
    """
    folder = dataset / CATALOGUE_FOLDER
    files = [name for name in sorted(list_files(folder)) if name.endswith(".parquet")]
    tables = []
    for name in files:
        with open_input(folder / name) as stream:
            tables.append(pq.read_table(stream))
    have = tables[0].column_names if tables else []
    missing = [name for name in features if name not in have]
    if missing:
        raise ConfigError(
            "the data set does not hold these features of items",
            where=asked_by,
            got=missing,
            allowed=[name for name in have if name != "id"] or None,
            fixes=[f"data.catalogue: {{item: ..., features: [{', '.join(features)}]}}, and prepare again"],
        )
    return pa.concat_tables(tables)


def _lists(
    column: pa.ChunkedArray, ids_N: NDArray[np.int64], num_items: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return how many ids each item has, and the ids of one item after another."""
    lengths_N, flat = id_lists(column)
    lengths_E = np.zeros(num_items, np.int64)
    lengths_E[ids_N] = lengths_N
    # The rows are in the order of the ids, as the files are.
    return torch.from_numpy(lengths_E).to(device), torch.from_numpy(flat).to(device)


def id_lists(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many ids each row of a column has, one or a list, and those of one row after another."""
    values = column.combine_chunks()
    if not pa.types.is_list(values.type) and not pa.types.is_large_list(values.type):
        values = pa.ListArray.from_arrays(np.arange(len(values) + 1, dtype=np.int32), values)
    lengths_N = np.asarray(values.value_lengths().fill_null(0)).astype(np.int64)
    return lengths_N, np.asarray(values.flatten()).astype(np.int64)
