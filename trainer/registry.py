"""The registry of models: one file in `trainer/models/` registers one model.

```python
from trainer.registry import ModelInputs, ModelSection, register_model

class MyConfig(ModelSection):
    layers: list[int] = [64, 32]

@register_model("my_model", config=MyConfig, task="ctr", source="Author et al. 2030, arXiv:...")
class MyModel(torch.nn.Module):
    def __init__(self, inputs: ModelInputs, config: MyConfig) -> None: ...
    def forward(self, batch: Batch) -> Tensor:  # logits_BT
```

A module outside this package is imported where `model.module` of the config names it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from pydantic import Field, ValidationError, field_validator

from sharding.tables import TableSpec
from trainer.config import ModelConfig
from trainer.config.base import Section
from trainer.config.messages import config_error, did_you_mean
from trainer.errors import ConfigError
from trainer.schema import FIRST_VOCABULARY_ID

ModelClass = TypeVar("ModelClass", bound=type[torch.nn.Module])


@dataclass(frozen=True)
class ModelInputs:
    """What a model is built from.

    Attributes:
        num_dense: columns of `Batch.dense_BF`.
        features: sparse and sequence features but the target, in the key order of `Batch.sparse`.
        tables: their tables.
        lists: those of the features that hold any number of ids in a row; the others hold one.
        tasks: names of the labels, T of them: the columns of the logits.
        first_ids: by table, the first id that stands for one known value; default that of a vocabulary.
        global_batch_size: rows of a step over all ranks.
    """

    num_dense: int
    features: tuple[str, ...]
    tables: tuple[TableSpec, ...]
    lists: frozenset[str] = frozenset()
    tasks: tuple[str, ...] = ("label",)
    first_ids: Mapping[str, int] = field(default_factory=dict)
    global_batch_size: int = 1

    @property
    def num_tasks(self) -> int:
        """Return T."""
        return len(self.tasks)

    def first_item(self, table: str) -> int:
        """Return the first row of a table that belongs to one known value."""
        return self.first_ids.get(table, FIRST_VOCABULARY_ID)

    def table_of(self, feature: str) -> TableSpec:
        """Return the table that a feature looks up."""
        return next(table for table in self.tables if feature in table.features)


class ModelSection(Section):
    """Config keys that every model has; `name` is the registered name."""

    needs: ClassVar[str] = "any features"
    """What the data set must hold, for lists of models."""
    name: str
    embedding_dim: int = Field(default=16, ge=1)
    """Width of every table that neither its feature group nor `tables` gives one."""

    @field_validator("embedding_dim", mode="before")
    @classmethod
    def _one_width(cls, value: Any) -> Any:
        if value == "auto":
            raise ValueError(
                "`auto` is of feature groups: `embedding_dim: auto` in `features.sparse` and others"
            )
        return value

    def completed(self, inputs: ModelInputs) -> ModelInputs:
        """Return the inputs with what the model itself keeps in the tables; here nothing.

        A model overrides it to add columns or features to the tables: what it returns is planned and trained.

        Args:
            inputs: what data set and config give.

        Raises:
            ConfigError: the model needs a feature that the inputs lack.
        """
        return inputs

    def part_runs(self) -> Mapping[str, str]:
        """Return the runs that the model starts from, by part, in the order of their columns; here none."""
        return {}

    def part_settings(self, part: str) -> dict[str, Any]:
        """Return the `model` section of a run of a part."""
        raise NotImplementedError

    def part_tables(self, inputs: ModelInputs) -> tuple[str, ...]:
        """Return the tables in which the columns of the parts stand side by side."""
        raise NotImplementedError

    def join_parts(self, parts: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Return the model's weights outside the tables.

        Args:
            parts: those of the parts' models, by part and parameter.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class RegisteredModel:
    """A registry entry."""

    name: str
    build: type[torch.nn.Module]
    config: type[ModelSection]
    task: str
    source: str
    summary: str
    several_tasks: bool = False

    @property
    def needs(self) -> str:
        """Return what the data set must hold."""
        return self.config.needs


_MODELS: dict[str, RegisteredModel] = {}


def register_model(
    name: str, *, config: type[ModelSection], task: str, source: str, several_tasks: bool = False
) -> Callable[[ModelClass], ModelClass]:
    """Register a model class under its config name.

    Args:
        name: `model.name` in the run config.
        config: its config section.
        task: what it is for: `ctr`, `multi_task`, `retrieval` (query and item), `sequence` (next item).
        source: the paper.
        several_tasks: whether it gives logits of any number of tasks, and not of one alone.
    """

    def register(model: ModelClass) -> ModelClass:
        if name in _MODELS:
            raise ValueError(f"two models are registered as {name!r}")
        summary = (model.__doc__ or "").strip().splitlines()[0] if model.__doc__ else ""
        _MODELS[name] = RegisteredModel(name, model, config, task, source, summary, several_tasks)
        return model

    return register


def models() -> dict[str, RegisteredModel]:
    """Return all models by name, after importing every file of `trainer/models/`."""
    package = importlib.import_module("trainer.models")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"trainer.models.{module.name}")
    return dict(sorted(_MODELS.items()))


def model_section(config: ModelConfig) -> ModelSection:
    """Check the `model` section against the model that it names.

    Raises:
        ConfigError: no such model or module, or a key or value that the model does not have.
    """
    if config.module is not None:
        _import_models(config.module)
    entry = _entry(config.name, models())
    raw = {"name": config.name, **config.params()}
    try:
        return entry.config.model_validate(raw)
    except ValidationError as error:
        raise config_error(error, entry.config, where="config", section="model") from error


def build_model(inputs: ModelInputs, config: ModelSection) -> torch.nn.Module:
    """Build a registered model; its tables are on the meta device, its dense part on the CPU.

    Raises:
        ConfigError: there are several tasks, and the model is for one.
    """
    known = models()
    entry = _entry(config.name, known)
    if inputs.num_tasks > 1 and not entry.several_tasks:
        raise ConfigError(
            f"`{entry.name}` learns one task",
            where="model.name",
            got=f"{inputs.num_tasks} labels: {', '.join(inputs.tasks)}",
            allowed=[name for name, other in known.items() if other.several_tasks],
            fixes=["model.name: mmoe", "data.label in place of data.labels"],
        )
    return entry.build(inputs, config)


def model_class(config: ModelSection) -> type[torch.nn.Module]:
    """Return the class that `build_model` builds."""
    return _entry(config.name, models()).build


def _import_models(module: str) -> None:
    """Import a module of the user's, which registers models."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # Something that the module itself needs.
        raise ConfigError(
            "there is no such Python module on this host",
            where="model.module",
            got=module,
            fixes=[
                "install the package that holds it, on every host of the ranks",
                "export PYTHONPATH=FOLDER that holds it (on executors: spark.executorEnv.PYTHONPATH)",
            ],
        ) from error


def _entry(name: str, known: dict[str, RegisteredModel]) -> RegisteredModel:
    if name not in known:
        fix = did_you_mean(name, known)
        raise ConfigError(
            "no such model",
            where="model.name",
            got=name,
            allowed=list(known),
            fixes=[fix]
            if fix
            else ["model.module, the Python module that registers it, for a model of your own"],
        )
    return known[name]
