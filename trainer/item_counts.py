"""How often each item is in the training rows, from the data set to the sampler of negatives."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from sharding.given_rows import in_step
from sharding.hosts import RankContext
from trainer.assembly import open_split
from trainer.config import RunConfig
from trainer.config.negatives import LOG_Q_FOLDER
from trainer.data import BatchReader, prefetched
from trainer.errors import ConfigError
from trainer.modules.item_model import ItemModel
from trainer.modules.over_ranks import summed
from trainer.schema import Feature, Manifest
from trainer.storage import Place, exists, list_files, open_input


def load_item_counts(
    model: nn.Module, run: RunConfig, manifest: Manifest, dataset: Place, context: RankContext
) -> None:
    """Give a model that draws items by popularity, or corrects for it, their counts; every rank calls it.

    Models that do not ask for them need none.

    Args:
        model: of a run, sharded or not.
        run: the config.
        manifest: of the data set.
        dataset: the folder that it trains on.
        context: this rank among the others.

    Raises:
        ConfigError: the items have no vocabulary, which alone holds counts.
        DataError: a part file is missing or damaged.
        StoreError: the store cannot be read.
    """
    for module in model.modules():
        if isinstance(module, ItemModel) and module.sampler.config.needs_counts:
            feature = next(f for f in manifest.spec.features if f.name == module.item_feature)
            counts_E = item_counts(dataset, feature)
            drawn, targets_E = module.sampler.config, counts_E
            if drawn.log_q and drawn.in_batch:
                targets_E = _target_counts(module, run, manifest, dataset, context, counts_E)
            first = module.sampler.first
            module.sampler.set_counts(
                counts_E[first:].to(context.device), targets_E[first:].to(context.device)
            )


def _target_counts(
    model: ItemModel,
    run: RunConfig,
    manifest: Manifest,
    dataset: Place,
    context: RankContext,
    counts_E: Tensor,
) -> Tensor:
    """Return how often each item is that of a training row with label 1, int64 [E].

    Where every row is one, or rows are lists of items, that is the count in the vocabulary. Else `prepare`
    has written it, or each rank reads its share of the training rows once.
    """
    train = manifest.split("train")
    if not model.rows_have_item or train.positives == train.rows:
        return counts_E
    written = _written_counts(model, run, manifest, dataset, counts_E)
    if written is not None:
        return written
    found_E = torch.zeros(len(counts_E), dtype=torch.int64, device=context.device)
    reader = open_split(run, manifest, dataset, "train", context, training=False)
    in_step(_added(found_E, model, reader, run, context), context.device)
    return summed(found_E).cpu()


def _written_counts(
    model: ItemModel, run: RunConfig, manifest: Manifest, dataset: Place, counts_E: Tensor
) -> Tensor | None:
    """Return what `data.negatives.in_batch.log_q` has had written, where it is of this item."""
    if run.data.negatives is None or not exists(dataset / LOG_Q_FOLDER):
        return None
    column = run.data.negatives.item
    named = next((f.name for f in manifest.spec.sparse if f.column == column and not f.is_list), None)
    if named != model.item_feature:
        return None
    found_E = torch.zeros_like(counts_E)
    for ids_N, counts_N in _ids_and_counts(dataset / LOG_Q_FOLDER):
        found_E.index_add_(0, ids_N, counts_N)  # Items of one id are one to the model.
    return found_E


def _added(
    found_E: Tensor, model: ItemModel, reader: BatchReader, run: RunConfig, context: RankContext
) -> Iterator[None]:
    for batch in prefetched(reader.batches(0), run.data.prefetch_batches):
        moved = batch.to(context.device)
        ids_B = moved.sparse[model.item_feature].values()[model.is_positive(moved)]
        found_E.index_add_(0, ids_B, torch.ones_like(ids_B))
        yield


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
    for ids_N, counts_N in _ids_and_counts(dataset / feature.vocabulary):
        counts_E[ids_N] = counts_N
    return counts_E


def _ids_and_counts(folder: Place) -> Iterator[tuple[Tensor, Tensor]]:
    for name in sorted(list_files(folder)):
        if name.endswith(".parquet"):
            with open_input(folder / name) as stream:
                rows = pq.read_table(stream, columns=["id", "count"])
            yield (
                torch.from_numpy(rows["id"].to_numpy().copy()),
                torch.from_numpy(rows["count"].to_numpy().copy()),
            )
