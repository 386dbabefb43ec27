"""A model that starts from runs of its parts (`model.pretrained`), such as NeuMF from a GMF and an MLP.

The runs may have had other ranks and other plans: each rank reads the rows of their tables that lie on it. A
run that goes on from a checkpoint has its own weights already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from sharding.dense import let_go_of_whole_weights
from sharding.given_rows import in_step
from sharding.weights import local_parts
from sharding.wrap import dense_tensors, table_weights
from trainer.assembly import Assembly, build_task
from trainer.config import ModelConfig, RunConfig
from trainer.errors import CheckpointError, ConfigError, DataError, SpecMismatchError
from trainer.inputs import model_inputs
from trainer.registry import model_section
from trainer.run_folder import RunFolder
from trainer.schema import Manifest
from trainer.stored_tensors import StoredTensors

_MODEL = "model."
_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class TrainedPart:
    """The weights of a part.

    Attributes:
        name: of the part.
        where: its key in the config and its checkpoint, for errors.
        stored: its checkpoint.
        tables: names of the tensors by table.
        dense: names of the others by parameter of its model; of the average where the run kept one.
    """

    name: str
    where: str
    stored: StoredTensors
    tables: Mapping[str, str]
    dense: Mapping[str, str]

    @classmethod
    def open(cls, name: str, where: str, stored: StoredTensors) -> TrainedPart:
        """Look at what a checkpoint holds."""
        tables: dict[str, str] = {}
        dense: dict[str, dict[str, str]] = {"model": {}, "average": {}}
        for key, place in stored.places.items():
            if place[0] not in dense:
                continue
            parameter = str(place[-1]).removeprefix(_MODEL)
            if ".embeddings." in parameter or ".embedding_bags." in parameter:
                tables[parameter.split(".")[-2]] = key
            else:
                dense[place[0]][parameter] = key
        return cls(name, where, stored, tables, dense["model"] | dense["average"])

    def whole(self, key: str) -> Tensor:
        """Read a tensor, on this rank alone."""
        return self.rows(key, 0, self.stored.shape(key)[0])

    def rows(self, key: str, start: int, stop: int) -> Tensor:
        """Read rows of a tensor, on this rank alone."""
        return self.stored.read_rows(key, start, stop)

    def check(self, run: RunConfig, manifest: Manifest) -> None:
        """Compare with what the new run needs of the part.

        Raises:
            CheckpointError: a table or parameter is missing or has another shape.
        """
        model = ModelConfig(**model_section(run.model).part_settings(self.name))
        task, inputs = build_task(run.model_copy(update={"model": model}), manifest, "meta")
        tables = {table.name: (table.num_embeddings, table.embedding_dim) for table in inputs.tables}
        for table in joined_tables(run, manifest):
            self._compare("table", table, tables[table], self.tables.get(table))
        for name, tensor in task.model.state_dict().items():
            if ".embeddings." not in name and ".embedding_bags." not in name:
                self._compare("parameter", name, tuple(tensor.shape), self.dense.get(name))

    def _compare(self, what: str, name: str, wanted: tuple[int, ...], key: str | None) -> None:
        found = None if key is None else self.stored.shape(key)
        if found != wanted:
            raise CheckpointError(
                f"{what} {name!r} of the run is not what the part {self.name!r} of this model needs",
                where=self.where,
                got="no such tensor" if found is None else f"shape {list(found)}",
                allowed=f"shape {list(wanted)}",
                fixes=[
                    "give both runs the same sizes under `model`, and `parts` as the key says",
                    f"name another run: model.pretrained.{self.name}",
                ],
            )


def trained_parts(run: RunConfig, manifest: Manifest, folder: RunFolder) -> list[TrainedPart]:
    """Return the parts that a run starts from, checked; none where its model names no runs.

    Args:
        run: the config.
        manifest: of its data set.
        folder: of the run; those of the parts are looked for beside it.

    Raises:
        CheckpointError: tables or parameters of a part have another shape than the model needs.
        ConfigError: there is no such run.
        DataError: the run has not finished.
        SpecMismatchError: it was trained on other features or vocabularies.
    """
    section, found = model_section(run.model), []
    for name, place in section.part_runs().items():
        key = f"model.pretrained.{name}"
        other = RunFolder(folder.path.absolute().parent / place)
        if not other.config_file.exists():
            raise ConfigError(
                "there is no such run to start from",
                where=key,
                got=str(other.path),
                fixes=[
                    "train it first",
                    "a path is relative to the folder that this run's folder lies in: name the whole one",
                ],
            )
        _check_features(other.manifest(), manifest, f"{key}: {other.path}")
        result = other.result()
        if result["stopped"] != "finished":
            raise DataError(
                "the run has not finished",
                where=f"{key}: {other.path}",
                got=f"stopped: {result['stopped']}",
                fixes=["go on with it: shardrec train with the same config and --out"],
            )
        checkpoint = other.checkpoints / result["checkpoint"]
        part = TrainedPart.open(name, f"{key}: {checkpoint}", StoredTensors(checkpoint))
        part.check(run, manifest)
        found.append(part)
    return found


def joined_tables(run: RunConfig, manifest: Manifest) -> tuple[str, ...]:
    """Return the tables of a run that hold the columns of its parts."""
    section = model_section(run.model)
    inputs = model_inputs(run, manifest.spec, manifest.statistics, section.embedding_dim)
    return section.part_tables(inputs)


def load_pretrained_parts(
    run: RunConfig, manifest: Manifest, folder: RunFolder, assembly: Assembly
) -> list[str]:
    """Write the weights of its parts into a model that starts anew; every rank calls it.

    Args:
        run: the config.
        manifest: of the data set.
        folder: of the run.
        assembly: the sharded model.

    Returns:
        The key and the checkpoint of each part; empty where nothing was asked for.

    Raises:
        UserError: see `trained_parts`.
    """
    parts = trained_parts(run, manifest, folder)
    if not parts:
        return []
    weights = table_weights(assembly.task)
    blocks = (
        written
        for table in joined_tables(run, manifest)
        for written in _load_table(weights[table], table, parts)
    )
    in_step(blocks, assembly.task.device)
    dense = {part.name: {name: part.whole(key) for name, key in part.dense.items()} for part in parts}
    _load_dense(assembly, model_section(run.model).join_parts(dense))
    return [part.where for part in parts]


@torch.no_grad()
def _load_table(weight: Tensor | ShardedTensor, table: str, parts: list[TrainedPart]) -> Iterator[None]:
    """Write this rank's rows of a table: the columns of the parts side by side."""
    for block, first, column in local_parts(weight):
        for start in range(0, len(block), _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, len(block))
            vectors = [part.rows(part.tables[table], first + start, first + stop).float() for part in parts]
            whole_RD = torch.cat(vectors, dim=1)[:, column : column + block.shape[1]]
            block[start:stop] = whole_RD.to(block)
            yield


@torch.no_grad()
def _load_dense(assembly: Assembly, joined: Mapping[str, Tensor]) -> None:
    targets: dict[str, Any] = dense_tensors(assembly.task)
    for name, value in joined.items():
        for tensor, row, _ in local_parts(targets[_MODEL + name]):
            tensor.copy_(value[row : row + len(tensor)])
    let_go_of_whole_weights(assembly.task)
    if assembly.average is not None:
        assembly.average.restart()


def _check_features(theirs: Manifest, ours: Manifest, where: str) -> None:
    if theirs.spec.hash != ours.spec.hash:
        raise SpecMismatchError(
            "the run to start from was trained on other features or vocabularies",
            where=where,
            got=f"spec {theirs.spec.hash}; " + "; ".join(ours.spec.differences(theirs.spec)[:5]),
            allowed=f"spec {ours.spec.hash}",
            fixes=[
                "train it on the data set of this run",
                "bring it to this data set first: shardrec remap, then shardrec train",
            ],
        )
