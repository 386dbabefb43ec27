"""From a run folder to what one rank trains or evaluates: task, sharded tables, optimizers, readers."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel

from sharding.communication import TableCommunication
from sharding.dense import DenseLayout, dense_layout
from sharding.fresh_rows import FreshRows
from sharding.grouped_model import GroupedModelParallel
from sharding.hosts import RankContext
from sharding.ids import IdMap
from sharding.optimizers import FusedOptimizer
from sharding.plan import Plan
from sharding.table_groups import TableGroups, table_groups
from sharding.tables import TableSpec
from sharding.wrap import (
    build_table_optimizer,
    dense_parameters,
    dense_tensors,
    initialise_tables,
    shard_model,
)
from trainer.averaging import DenseAverage
from trainer.batch_ids import BatchIds
from trainer.checkpoint import load_checkpoint, read_metadata
from trainer.config import EmbeddingOptimizerConfig, LossConfig, RunConfig, TableCommunicationConfig
from trainer.config.messages import did_you_mean
from trainer.data import BatchReader, ReadPolicy, open_reader
from trainer.errors import ConfigError
from trainer.inputs import model_inputs
from trainer.losses.pointwise import TaskHead
from trainer.max_norm import MaxNorm
from trainer.modules.item_model import ItemModel
from trainer.optimizers import Optimizers
from trainer.registry import ModelInputs, ModelSection, build_model, model_class, model_section, models
from trainer.row_moments import load_recut_moments
from trainer.schema import Manifest
from trainer.storage import Place
from trainer.tasks import TrainingTask

# Key of the averages in a checkpoint.
_AVERAGE = "average"


@dataclass
class Assembly:
    """A sharded model with its optimizers, ids and tables, and the average of its dense part if any."""

    task: DistributedModelParallel
    optimizers: Optimizers
    ids: BatchIds
    tables: tuple[TableSpec, ...]
    average: DenseAverage | None = None

    def sync_tables(self) -> None:
        """Average the copies of the tables over groups of ranks, where there are any; every rank calls it."""
        if isinstance(self.task, GroupedModelParallel):
            self.task.sync()

    def averaged(self) -> AbstractContextManager[None]:
        """Return a context in which the dense part is its average, where there is one."""
        return nullcontext() if self.average is None else self.average.in_place()

    def load(self, checkpoint: Path, *, weights_only: bool = False) -> None:
        """Load a checkpoint that may come from another world size or plan.

        Args:
            checkpoint: its folder.
            weights_only: load what scoring needs: of the dense part the average, where there is one.

        Raises:
            CheckpointError: the checkpoint is damaged or of another model.
        """
        if not weights_only:
            self.optimizers.make_state()
        state = self.state(weights_only=weights_only)
        stored = read_metadata(checkpoint).state_dict_metadata
        averaged = {name for name in state["model"] if f"{_AVERAGE}.{name}" in stored}
        if weights_only and averaged:
            model = state["model"]
            state["model"] = {name: model[name] for name in model if name not in averaged}
            state[_AVERAGE] = {name: model[name] for name in averaged}
        elif not averaged:
            state.pop(_AVERAGE, None)
        load_checkpoint(checkpoint, state if weights_only else load_recut_moments(checkpoint, state))
        if weights_only:
            self.task.load_state_dict({**state["model"], **state.get(_AVERAGE, {})})
            return
        self.task.load_state_dict(state["model"])
        self.optimizers.load_state_dict(state["optimizer"])
        if self.average is not None and not averaged:
            self.average.restart()

    def state(self, *, weights_only: bool = False) -> dict[str, dict[str, Any]]:
        """Return the sharded state dicts of model, average, optimizers and ids."""
        state: dict[str, dict[str, Any]] = {"model": self.task.state_dict()}
        # Left out where no table has such ids: torch takes an empty state for a key that the file lacks.
        if ids := self.ids.map.state_dict():
            state["ids"] = ids
        if not weights_only:
            state["optimizer"] = self.optimizers.state_dict()
            if self.average is not None:
                state[_AVERAGE] = dict(self.average.averages)
        return state


def build_task(
    run: RunConfig, manifest: Manifest, device: Literal["cpu", "meta"] = "cpu"
) -> tuple[TrainingTask, ModelInputs]:
    """Build the model of a config with its loss.

    Args:
        run: the config.
        manifest: of the data set.
        device: of the dense part; on `cpu` it is seeded, on `meta` it has shapes alone, which suffices for a
            plan. Tables are on the meta device always.

    Raises:
        ConfigError: the model section, a feature group or a table section is wrong, or the model cannot use
            rows of users.
    """
    section = model_section(run.model)
    _check_rows(section, manifest)
    inputs = section.completed(model_inputs(run, manifest.spec, manifest.statistics, section.embedding_dim))
    task = build_from_inputs(
        inputs,
        section,
        run.seed,
        device,
        loss=run.train.loss,
        heads=task_heads(run, manifest),
        embedding_l2=run.train.embedding_l2,
    )
    freeze(task.model, run.train.frozen)
    return task, inputs


def _check_rows(section: ModelSection, manifest: Manifest) -> None:
    """Refuse rows of users, which have no label to predict, for models that do nothing else."""
    if manifest.user_row_splits and not issubclass(model_class(section), ItemModel):
        able = [name for name, entry in models().items() if issubclass(entry.build, ItemModel)]
        raise ConfigError(
            "the model predicts labels, and the data set has rows of users whose items are to be ranked",
            where="model.name",
            got=section.name,
            allowed=able,
            fixes=["one of these models", "a data set without data.user_rows"],
        )


def build_from_inputs(
    inputs: ModelInputs,
    section: ModelSection,
    seed: int,
    device: Literal["cpu", "meta"],
    *,
    loss: LossConfig | None = None,
    embedding_l2: float = 0.0,
    heads: Sequence[TaskHead] = (),
) -> TrainingTask:
    """Build a model with its loss; the caller's random generator stays as it is.

    Args:
        inputs: features and tables.
        section: the model's own config.
        seed: of the dense part's weights.
        device: of the dense part.
        loss: default plain cross-entropy.
        embedding_l2: weight of the L2 of what is looked up.
        heads: of the tasks; default binary labels.
    """
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        heads = heads or [TaskHead()] * inputs.num_tasks
        return TrainingTask(build_model(inputs, section), loss, heads, embedding_l2)


def task_heads(run: RunConfig, manifest: Manifest) -> list[TaskHead]:
    """Return what the columns of a run's logits stand for."""
    weights = {name: task.weight for name, task in run.train.tasks.items()}
    return [
        TaskHead(task.is_rating, task.mean, task.std, weights.get(task.name, 1.0))
        for task in manifest.spec.tasks
    ]


def freeze(model: nn.Module, globs: Sequence[str]) -> None:
    """Let the dense parameters that match a glob stay as they are.

    Raises:
        ConfigError: a glob matches none, or all together match every one.
    """
    tables = (".embedding_bags.", ".embeddings.")
    dense = {name: p for name, p in model.named_parameters() if not any(part in name for part in tables)}
    for glob in globs:
        found = [name for name in dense if fnmatch.fnmatchcase(name, glob)]
        if not found:
            near = did_you_mean(glob, dense)
            raise ConfigError(
                "no dense parameter matches this glob",
                where="train.frozen",
                got=glob,
                allowed=sorted({f"{name.split('.')[0]}.*" for name in dense}),
                fixes=[near] if near else [],
            )
        for name in found:
            dense[name].requires_grad_(False)
    if dense and not any(parameter.requires_grad for parameter in dense.values()):
        raise ConfigError(
            "no dense parameter is left to train",
            where="train.frozen",
            got=list(globs),
            fixes=["leave one out, such as the bias of the last layer"],
        )


def scoring_config(run: RunConfig, device: str) -> RunConfig:
    """Return the config of a job that only reads a run's weights, on whatever ranks and device it has.

    Such a job keeps no optimizer state, so it takes the optimizer without one. Its ranks share one copy of
    the tables, and of the dense part where groups of them did, since their number may fit no such group.
    Embeddings are looked up and travel in fp32, so that scores do not depend on the ranks. On CPU the tables
    lie as the planner likes, with a data type that its kernels have: a run of GPUs can be evaluated on a
    laptop.

    Args:
        run: the config that the weights were trained with.
        device: `cpu` or `cuda`.
    """
    sgd = EmbeddingOptimizerConfig(name="sgd")
    parallel = "ddp" if run.train.dense_parallel == "ddp" else "fsdp"
    train = run.train.model_copy(
        update={
            "embedding_optimizer": sgd,
            "dense_parallel": parallel,
            "dense_shard_group_size": None,
            "table_shard_group_size": None,
            "table_sync_every_steps": 1,
            "table_communication": TableCommunicationConfig(),
            "table_output_dtype": "fp32",
            "ema": None,
        }
    )
    # Ranks are those of the training.
    anywhere = {glob: table.model_copy(update={"ranks": None}) for glob, table in run.tables.items()}
    changes: dict[str, Any] = {"train": train, "tables": anywhere}
    if device == "cpu":
        places = {
            "sharding_types": None,
            "compute_kernels": None,
            "min_partition": None,
            "enforce_hbm": None,
            "stochastic_rounding": None,
        }
        changes["plan"] = run.plan.model_copy(update={"sharding_types": None})
        changes["tables"] = {
            glob: table.model_copy(
                update={
                    **places,
                    "cache_load_factor": None,
                    "data_type": "fp16" if table.data_type == "fp16" else None,
                }
            )
            for glob, table in anywhere.items()
        }
    return run.model_copy(update=changes)


def assemble(run: RunConfig, manifest: Manifest, plan: Plan, context: RankContext) -> Assembly:
    """Build, shard and initialise the model of a run on this rank.

    Weights depend on the seed alone, not on the plan or the world size.
    """
    task, inputs = build_task(run, manifest)
    fused = FusedOptimizer(**run.train.embedding_optimizer.model_dump())
    dense = dense_layout_of(run, context.world_size, context.local_world_size)
    groups = table_groups_of(run, context.world_size, context.local_world_size)
    sharded = shard_model(
        task,
        plan,
        inputs.tables,
        fused,
        device=context.device,
        dense=dense,
        groups=groups,
        host_ranks=context.host_ranks,
    )
    task.penalty.watch(sharded, inputs.tables)
    initialise_tables(sharded, inputs.tables, seed=run.seed)
    table_optimizer = build_table_optimizer(sharded, inputs.tables, fused)
    dense_config = run.train.dense_optimizer
    max_norm = None if dense_config.max_norm is None else MaxNorm(sharded, dense_config.max_norm)
    optimizers = Optimizers(table_optimizer, dict(dense_parameters(sharded)), dense_config, max_norm)
    ids = IdMap(inputs.tables, context.device)
    fresh = FreshRows(sharded, table_optimizer, ids.tables, run.seed)
    ema = run.train.ema
    average = None if ema is None else DenseAverage(sharded, dense_tensors(sharded), ema.decay)
    return Assembly(sharded, optimizers, BatchIds(ids, fresh), inputs.tables, average)


def communication_of(run: RunConfig) -> TableCommunication:
    """Return the precision in which the embeddings of a run travel between ranks."""
    train = run.train
    return TableCommunication(**train.table_communication.model_dump(), output_dtype=train.table_output_dtype)


def dense_layout_of(run: RunConfig, world_size: int, local_world_size: int) -> DenseLayout:
    """Return which ranks hold the dense part of a run.

    Raises:
        PlanError: `train.dense_shard_group_size` does not fit the ranks.
    """
    return dense_layout(
        run.train.dense_parallel,
        world_size=world_size,
        local_world_size=local_world_size,
        shard_group_size=run.train.dense_shard_group_size,
        timeout_seconds=run.train.process_group_timeout_seconds,
    )


def table_groups_of(run: RunConfig, world_size: int, local_world_size: int) -> TableGroups:
    """Return which ranks hold a copy of a run's tables.

    Raises:
        PlanError: `train.table_shard_group_size` does not fit the ranks.
    """
    return table_groups(
        world_size,
        local_world_size,
        run.train.table_shard_group_size,
        sync_every_steps=run.train.table_sync_every_steps,
        timeout_seconds=run.train.process_group_timeout_seconds,
    )


def check_groups(run: RunConfig, world_size: int, local_world_size: int) -> None:
    """Refuse ranks that the groups of a run do not make up.

    Raises:
        PlanError: `train.dense_shard_group_size` or `train.table_shard_group_size` does not fit the ranks.
    """
    dense_layout_of(run, world_size, local_world_size)
    table_groups_of(run, world_size, local_world_size)


def open_split(
    run: RunConfig, manifest: Manifest, dataset: Place, split: str, context: RankContext, *, training: bool
) -> BatchReader:
    """Open this rank's share of a split: shuffled for training, else in order with every row once.

    Raises:
        DataError: the split is empty, or a part file is missing or damaged.
        StoreError: the store cannot be read.
        UserError: rows, lanes, batch size and world size do not fit each other.
    """
    return open_reader(
        dataset,
        manifest,
        split,
        reader=run.data.reader if training else "arrow",
        global_batch_size=run.train.global_batch_size,
        num_lanes=run.data.num_lanes,
        rank=context.rank,
        world_size=context.world_size,
        seed=run.seed,
        shuffle=training,
        tail=run.train.tail if training else "pad",
        shuffle_window_row_groups=run.data.shuffle_window_row_groups,
        policy=read_policy(run),
    )


def read_policy(run: RunConfig) -> ReadPolicy:
    """Return what a config says about damaged files and stores."""
    data = run.data
    return ReadPolicy(data.on_corrupt, data.remote_prefetch_row_groups, data.remote_attempts)
