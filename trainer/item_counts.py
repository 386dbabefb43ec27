"""How often each item is in the training rows, from the data set's vocabulary to the sampler of negatives."""

from __future__ import annotations

import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from trainer.errors import ConfigError
from trainer.modules.item_model import ItemModel
from trainer.schema import Feature, Manifest
from trainer.storage import Place, list_files, open_input


def load_item_counts(model: nn.Module, dataset: Place, manifest: Manifest, device: torch.device) -> None:
    """Give a model that draws items by popularity, or corrects for it, their counts; others need none.

    Args:
        model: of a run, sharded or not.
        dataset: the folder that it trains on.
        manifest: of the data set.
        device: of this rank.

    Raises:
        ConfigError: the items have no vocabulary, which alone holds counts.
        StoreError: the store cannot be read.
    """
    for module in model.modules():
        if isinstance(module, ItemModel) and module.sampler.config.needs_counts:
            feature = next(f for f in manifest.spec.features if f.name == module.item_feature)
            counts_E = item_counts(dataset, feature)
            module.sampler.set_counts(counts_E[module.sampler.first :].to(device))


def item_counts(dataset: Place, feature: Feature) -> Tensor:
    """Return how often each id of a feature is in the training rows, int64 [E], E rows of its table.

    Args:
        dataset: the folder.
        feature: with a vocabulary.

    Raises:
        ConfigError: it has none.
        StoreError: the store cannot be read.
    """
    if feature.vocabulary is None:
        raise ConfigError(
            "the popularity of items is counted in their vocabulary, and they have none",
            where=f"feature {feature.name!r}",
            fixes=[
                f"ops: [vocabulary] for {feature.name}",
                "no negatives by popularity, no log_q, and no metrics of popularity",
            ],
        )
    counts_E = torch.zeros(feature.num_embeddings or 0, dtype=torch.int64)
    folder = dataset / feature.vocabulary
    for name in sorted(list_files(folder)):
        if name.endswith(".parquet"):
            with open_input(folder / name) as stream:
                rows = pq.read_table(stream, columns=["id", "count"])
            ids_N = torch.from_numpy(rows["id"].to_numpy().copy())
            counts_E[ids_N] = torch.from_numpy(rows["count"].to_numpy().copy())
    return counts_E
