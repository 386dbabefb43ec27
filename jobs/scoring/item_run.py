"""A finished run whose model scores queries against items, and the raw ids of the items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.errors import ConfigError
from trainer.run_folder import RunFolder
from trainer.schema import KEEP_PREFIX, Feature, Manifest
from trainer.storage import list_files, open_input

if TYPE_CHECKING:
    from trainer.modules.item_model import ItemModel
    from trainer.registry import ModelSection


@dataclass(frozen=True)
class ItemRun:
    """A run of a model of queries and items.

    Attributes:
        folder: of the run.
        manifest: of the data set that it was trained on.
        section: the model's config.
        model: in shapes alone.
        item: the feature whose vocabulary has the items.
    """

    folder: RunFolder
    manifest: Manifest
    section: ModelSection
    model: ItemModel
    item: Feature

    @classmethod
    def open(cls, folder: RunFolder) -> ItemRun:
        """Open a run folder.

        Raises:
            ConfigError: the model scores no items, or what the items are called is not known.
        """
        from trainer.assembly import build_task
        from trainer.modules.item_model import ItemModel
        from trainer.registry import model_section

        run, manifest = folder.config(), folder.manifest()
        task, _ = build_task(run, manifest, "meta")
        if not isinstance(task.model, ItemModel):
            raise ConfigError(
                "the model predicts labels of rows, and scores no query against all items",
                where="model.name",
                got=run.model.name,
                allowed=item_models(),
            )
        name = task.model.item_feature
        item = next(feature for feature in manifest.spec.features if feature.name == name)
        if item.vocabulary is None:
            raise ConfigError(
                "items that are numbered by a hash do not tell their ids",
                where=f"feature {name!r}",
                fixes=[f"ops: [vocabulary] for {name}, prepare and train again"],
            )
        return cls(folder, manifest, model_section(run.model), task.model, item)

    @property
    def temperature(self) -> float:
        """Return what the training divides scores by."""
        return float(getattr(self.section, "temperature", 1.0))

    def require_products(self) -> None:
        """Refuse a model whose scores no index finds.

        Raises:
            ConfigError: scores are no dot products.
        """
        if not self.model.scores_are_products:
            raise ConfigError(
                "an index finds the largest dot products, and the model's scores are none",
                where="model.name",
                got=self.section.name,
                allowed=item_models(products=True),
                fixes=["shardrec recommend without --index scores every item"],
            )

    def raw_items(self) -> pa.Array:
        """Return the raw id of each item in the order of the ids, of the type of a kept column, else text.

        Raises:
            StoreError: the store cannot be read.
        """
        first, count = self.model.sampler.first, self.model.sampler.num_items
        folder = self.folder.dataset_files() / str(self.item.vocabulary)
        tables = []
        for name in sorted(list_files(folder)):
            if name.endswith(".parquet"):
                with open_input(folder / name) as stream:
                    tables.append(pq.read_table(stream, columns=["value", "id"]))
        table = pa.concat_tables(tables).combine_chunks()
        place = np.full(count, -1)
        place[table["id"].to_numpy() - first] = np.arange(table.num_rows)
        values = table["value"].cast(pa.string()).combine_chunks()
        texts = values.take(pa.array(place, mask=place < 0))
        kind = self._kept_type()
        return texts if kind is None else texts.cast(kind)

    def _kept_type(self) -> pa.DataType | None:
        """Return the type that the data set keeps the item's column in."""
        files = next((split.files for split in self.manifest.splits.values() if split.files), ())
        column, place = KEEP_PREFIX + self.item_column(), self.folder.dataset_files()
        if not files:
            return None
        with open_input(place / files[0].path) as stream:
            schema = pq.read_schema(stream)
        kind = schema.field(column).type if column in schema.names else None
        return kind if kind is not None and pa.types.is_integer(kind) else None

    def item_column(self) -> str:
        """Return the raw column of the items: of a list of them that of its events."""
        rows = self.folder.config().data.user_rows
        return self.item.column if rows is None else rows.lists.get(self.item.column, self.item.column)


def item_models(*, products: bool = False) -> list[str]:
    """Return the names of models of queries and items, all or those whose scores are dot products."""
    from trainer.modules.item_model import ItemModel
    from trainer.registry import models

    built = {name: entry.build for name, entry in models().items()}
    found = {name: build for name, build in built.items() if issubclass(build, ItemModel)}
    return [name for name, build in found.items() if not products or build.scores is ItemModel.scores]
