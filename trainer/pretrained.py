"""Tables that start from vectors made elsewhere (`tables.<glob>.pretrained`).

Each rank reads the file a batch at a time and keeps the rows and columns that lie on it; ids that the file
lacks keep their initial weights. A run that goes on from a checkpoint has its own weights already.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torchrec.distributed.model_parallel import DistributedModelParallel

from sharding.given_rows import GivenRows, count_rows, in_step
from sharding.tables import TableSpec
from sharding.wrap import table_weights
from trainer.config import RunConfig
from trainer.config.plan import PretrainedConfig
from trainer.errors import ConfigError, DataError
from trainer.features import chains
from trainer.features.ids import first_id
from trainer.features.ops import CROSS, entries
from trainer.features.vocabularies import UNKNOWN, Vocabulary, read_vocabulary
from trainer.inputs import model_inputs
from trainer.modules.field_arch import FieldModelSection
from trainer.registry import ModelInputs, ModelSection, model_section
from trainer.run_folder import RunFolder
from trainer.schema import PADDING_ID, Feature, Manifest
from trainer.storage import Place, local_copy
from trainer.vector_files import VectorFile

_SHOWN = 3


@dataclass(frozen=True)
class PretrainedTable:
    """A table that starts from vectors.

    Attributes:
        name: of the table.
        config: its setting.
        feature: one that looks it up, by whose ops raw ids become rows.
        file: of the vectors.
        num_embeddings: rows.
    """

    name: str
    config: PretrainedConfig
    feature: Feature
    file: VectorFile
    num_embeddings: int

    @property
    def ids(self) -> int:
        """Return how many ids have a row of their own."""
        op = chains.id_op(self.feature)
        if op is None:
            return self.num_embeddings - 1
        return (self.feature.num_embeddings or 0) - first_id(op)


def pretrained_tables(run: RunConfig, manifest: Manifest) -> list[PretrainedTable]:
    """Return the tables of a run that start from vectors.

    Raises:
        ConfigError: the rows of such a table do not belong to one raw id each, or its model keeps no vectors
            there.
    """
    wanted = {name: run.table_config(name).pretrained for name in _features_by_table(manifest)}
    if not any(wanted.values()):
        return []
    section = model_section(run.model)
    given = model_inputs(run, manifest.spec, manifest.statistics, section.embedding_dim)
    made = {table.name: table for table in section.completed(given).tables}
    features, found = _features_by_table(manifest), []
    for table in given.tables:
        config = wanted[table.name]
        if config is None:
            continue
        where = f"tables.{table.name}.pretrained"
        # A model may add columns of its own behind the vectors, or keep none.
        narrow = made[table.name].embedding_dim < table.embedding_dim
        if narrow or not _keeps_vectors(section, given, table):
            raise ConfigError(
                "the model keeps no vectors in this table", where=where, got=f"model.name: {run.model.name}"
            )
        feature = _feature_of(features[table.name], where, has_ids=table.ids is not None)
        file = VectorFile(config, table.embedding_dim, where)
        found.append(PretrainedTable(table.name, config, feature, file, table.num_embeddings))
    return found


def check_pretrained(run: RunConfig, manifest: Manifest) -> None:
    """Look at the settings and the beginning of each file before anything is launched.

    Raises:
        ConfigError, DataError, StoreError: see `load_pretrained`.
    """
    for table in pretrained_tables(run, manifest):
        next(table.file.batches(), None)


def load_pretrained(
    run: RunConfig, manifest: Manifest, folder: RunFolder, dmp: DistributedModelParallel
) -> dict[str, dict[str, int]]:
    """Write the vectors into the tables of a model that starts anew; every rank calls it.

    Args:
        run: the config.
        manifest: of the data set.
        folder: of the run, which knows where the vocabularies of the data set lie.
        dmp: the sharded model.

    Returns:
        By table: `ids` that it has rows for, `found` ones of them, and `unknown` ids of the file, which it
        has no rows for.

    Raises:
        ConfigError: a table cannot start from vectors.
        DataError: a file is missing or damaged, its vectors have another length, an id comes twice, or too
            few of the table's ids are in it.
        StoreError: the store cannot be read.
    """
    tables = pretrained_tables(run, manifest)
    if not tables:
        return {}
    weights, dataset = table_weights(dmp), folder.dataset_files()
    return {
        table.name: _load(table, dataset, _Loading(GivenRows(weights[table.name])), dmp.device)
        for table in tables
    }


def _load(table: PretrainedTable, dataset: Place, loading: _Loading, device: torch.device) -> dict[str, int]:
    in_step(loading.batches(table, dataset), device)
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, (loading.rows.counts(), loading.total, loading.unknown, loading.examples))
    found = count_rows(counts for counts, *_ in every)
    # Ranks with nothing of the table have read nothing.
    _, total, unknown, examples = max(every, key=lambda told: told[1])
    if found == 0 or found < table.config.min_found_share * table.ids:
        raise DataError(
            f"too few ids of table {table.name!r} have a vector",
            where=f"{table.file.where}: {table.config.path}",
            got=f"{found:,} of {table.ids:,} ids"
            + (f"; {unknown:,} of {total:,} in the file are unknown, as {examples}" if unknown else ""),
            allowed=f"{max(table.config.min_found_share, 1 / max(1, table.ids)):.2%} of them",
            fixes=["name the column with the ids of the raw rows: id_column"],
        )
    return {"ids": table.ids, "found": found, "unknown": unknown}


@dataclass
class _Loading:
    """What a rank has read of a table's file."""

    rows: GivenRows
    total: int = 0
    unknown: int = 0
    examples: list[object] = field(default_factory=list)

    def batches(self, table: PretrainedTable, dataset: Place) -> Iterator[None]:
        """Read and write a batch at a time."""
        if self.rows.is_empty:
            return
        ids = TableIds.read(table.feature, table.num_embeddings, dataset)
        for raw_ids, vectors_ND in table.file.batches():
            rows_N = ids.rows_of(raw_ids)
            missing_N = rows_N == UNKNOWN
            twice = self.rows.write(rows_N, vectors_ND)
            if twice is not None:
                raise DataError(
                    "an id comes twice in the file of vectors",
                    where=f"{table.file.where}: {table.config.path}",
                    got=f"id {raw_ids[twice].as_py()!r}",
                )
            self.total += len(rows_N)
            self.unknown += int(missing_N.sum())
            shown = raw_ids.filter(pa.array(missing_N)).slice(0, _SHOWN - len(self.examples))
            self.examples += shown.to_pylist()
            yield


@dataclass(frozen=True)
class TableIds:
    """From raw ids to the rows of a table.

    Attributes:
        feature: whose ops are applied.
        vocabulary: of the feature; None where the raw ids are the rows.
        num_embeddings: rows.
    """

    feature: Feature
    vocabulary: Vocabulary | None
    num_embeddings: int

    @classmethod
    def read(cls, feature: Feature, num_embeddings: int, dataset: Place) -> TableIds:
        """Read the vocabulary of a feature from a data set, local or on a store."""
        if feature.vocabulary is None:
            return cls(feature, None, num_embeddings)
        with tempfile.TemporaryDirectory() as folder:
            vocabulary = read_vocabulary(local_copy(dataset / feature.vocabulary, Path(folder)))
        return cls(feature, vocabulary, num_embeddings)

    def rows_of(self, raw_ids: pa.Array) -> NDArray[np.int64]:
        """Return the row of each raw id, `UNKNOWN` where it has none: int64 [N].

        Raises:
            DataError: the feature makes several ids of one of them.
        """
        tokens = chains.tokens(self.feature, {self.feature.column: self._as_rows_have_them(raw_ids)})
        codes_N = tokens.codes
        if tokens.offsets is not None:
            lengths_N = np.diff(tokens.offsets)
            if (lengths_N > 1).any():
                raise DataError(
                    f"feature {self.feature.name!r} makes several ids of one",
                    where=f"table {self.feature.table or self.feature.name}",
                    got=raw_ids[int(np.argmax(lengths_N))].as_py(),
                )
            codes_N = np.full(len(raw_ids), -1)
            codes_N[lengths_N == 1] = tokens.codes
        if self.vocabulary is not None:
            rows_M = self.vocabulary.ids_of(tokens.values)
        else:
            numbers_M, good_M = chains.raw_ids(tokens)
            good_M = good_M & (numbers_M != PADDING_ID) & (numbers_M < self.num_embeddings)
            rows_M = np.where(good_M, numbers_M, UNKNOWN)
        rows_N: NDArray[np.int64] = np.append(rows_M, UNKNOWN)[codes_N]
        return rows_N

    def _as_rows_have_them(self, raw_ids: pa.Array) -> pa.Array:
        """Return lists of one id where the raw rows hold lists that no op cuts."""
        ops = entries(self.feature.ops, self.feature.kind)
        if not self.feature.is_list or any(entry.gives == "list" for _, entry in ops):
            return raw_ids
        return pa.ListArray.from_arrays(pa.array(np.arange(len(raw_ids) + 1, dtype=np.int32)), raw_ids)


def _keeps_vectors(section: ModelSection, inputs: ModelInputs, table: TableSpec) -> bool:
    """Return whether a model has more in a table than first-order weights."""
    if not isinstance(section, FieldModelSection):
        return True
    return not set(table.features).isdisjoint(section.vector_features(inputs))


def _features_by_table(manifest: Manifest) -> Mapping[str, list[Feature]]:
    found: dict[str, list[Feature]] = {}
    for feature in manifest.spec.sparse:
        found.setdefault(feature.table or feature.name, []).append(feature)
    return found


def _feature_of(features: Sequence[Feature], where: str, *, has_ids: bool) -> Feature:
    """Return the feature of a table that makes rows of raw ids most plainly."""
    plain = [feature for feature in features if not (feature.ops and feature.ops[0].name == CROSS)]
    if has_ids or not plain:
        what = "ids come and go (`ids`)" if has_ids else "ids are made of several columns (`cross`)"
        raise ConfigError(f"a table whose {what} cannot start from vectors", where=where)
    feature = min(plain, key=lambda feature: (feature.is_list, feature.derived is not None))
    op = chains.id_op(feature)
    if op is not None and op.name != "vocabulary":
        raise ConfigError(
            "several ids share a row where rows are numbered by a hash, so they cannot start from vectors",
            where=where,
            got=f"feature {feature.name!r}: {op.name}",
            allowed="a vocabulary, or ids that are the rows",
            fixes=["prepare the feature with `ops: vocabulary`"],
        )
    return feature
