"""The whole run config and the way from a YAML file and `--set` to it."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError, model_validator

from trainer.config.base import LARGEST_SEED, Section
from trainer.config.data import DataConfig
from trainer.config.features import FeaturesConfig
from trainer.config.files import ReadConfig, parsed, read_config
from trainer.config.messages import config_error, placed
from trainer.config.metrics import MetricsConfig, check_metrics
from trainer.config.plan import PlanConfig, TableConfig
from trainer.config.preparation import preparation_settings, settings_hash
from trainer.config.recommend import RecommendConfig
from trainer.config.source import absolute_path, is_absolute
from trainer.config.tasks import check_name, check_tasks
from trainer.config.tracking import MlflowConfig
from trainer.config.train import TrainConfig
from trainer.config.yaml_text import dump_yaml
from trainer.errors import ConfigError


class ModelConfig(Section):
    """The model by its registered name; the other keys are that model's own (see docs/models.md)."""

    # The registry, which imports torch, checks the model's own keys: `trainer.registry.model_section`.
    model_config = ConfigDict(extra="allow")

    name: str
    module: str | None = None
    """Python module that registers the model where it is none of ours; every rank imports it."""

    def params(self) -> dict[str, Any]:
        """Return the model's own keys."""
        return dict(self.model_extra or {})


class RunConfig(Section):
    """One run: data, features, model, tables, training, plan."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Names the data set and run folders."""
    seed: int = Field(default=1, ge=0, le=LARGEST_SEED)
    """Fixes initial weights, order of training rows and dropout; the split has `data.split.seed`."""
    data: DataConfig
    features: FeaturesConfig
    model: ModelConfig
    tables: dict[str, TableConfig] = Field(default_factory=dict)
    """Table settings by glob over table names."""
    train: TrainConfig = TrainConfig()
    metrics: MetricsConfig = MetricsConfig()
    plan: PlanConfig = PlanConfig()
    recommend: RecommendConfig | None = None
    mlflow: MlflowConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_rows(cls, raw: Any) -> Any:
        """Fill in the sections about rows where `plan.tables` stand for them."""
        plan = raw.get("plan") if isinstance(raw, dict) else None
        if isinstance(plan, dict) and plan.get("tables"):
            data = raw.get("data", {})
            rest = data
            if isinstance(data, dict) and not data.get("labels"):
                rest = {"label": {"column": "label"}, **data}
            return {"features": {}, **raw, "data": rest}
        return raw

    @model_validator(mode="after")
    def _whole_rows_per_lane(self) -> RunConfig:
        rows, lanes = self.train.global_batch_size, self.data.num_lanes
        if rows % lanes:
            near = [size for size in (rows // lanes * lanes, -(-rows // lanes) * lanes) if size > 0]
            raise ConfigError(
                "`train.global_batch_size` must be a multiple of `data.num_lanes`",
                where="train.global_batch_size",
                got=f"{rows} rows for {lanes} lanes",
                allowed=f"multiples of {lanes}",
                fixes=[f"train.global_batch_size: {size}" for size in near],
            )
        return self

    @model_validator(mode="after")
    def _settings_of_labels_and_metrics(self) -> RunConfig:
        check_tasks(self.data, self.train)
        if self.recommend is not None and self.recommend.task is not None:
            check_name(self.recommend.task, self.data, "recommend.task")
        sections = {"early_stopping": self.train.early_stopping, "plateau": self.train.plateau}
        compared = {f"train.{key}.metric": s.metric for key, s in sections.items() if s is not None}
        check_metrics(self.metrics, compared, self.data)
        return self

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
        """Read a YAML file and those that it extends, apply `--set` overrides, and check every key.

        Args:
            path: the YAML file.
            overrides: strings `a.b=c`; the value is YAML, list items by number (`features.sparse.0.name=x`).

        Raises:
            ConfigError: a file cannot be read, or a key or value is wrong.
        """
        read, overrides = read_config(Path(path)), list(overrides)
        return cls._checked(_with_overrides(read.values, overrides), _Origins(read, overrides))

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str = "config") -> RunConfig:
        """Check a mapping of the YAML's form.

        Raises:
            ConfigError: a key or value is wrong.
        """
        return cls._checked(raw, where=where)

    def override(self, *overrides: str) -> RunConfig:
        """Return a copy with `a.b=c` overrides applied and checked.

        Raises:
            ConfigError: a key or value is wrong.
        """
        values = self.model_dump(mode="json")  # An op's parameters lie under `params` here.
        read = ReadConfig(values, (("--set", values),))
        return type(self)._checked(_with_overrides(values, overrides), _Origins(read, overrides))

    def with_source(self, root: str, path: str | None = None) -> RunConfig:
        """Return a copy that reads its raw rows elsewhere; the values are taken as they are, not as YAML.

        Joined tables and files of negatives move along with the root; vectors stay where they are.

        Args:
            root: replaces `data.root`.
            path: replaces `data.source.path`, or `data.source.table` where the rows came from a table.

        Raises:
            ConfigError: the rows come from a table or an absolute path, which lie under no root, and there is
                no `path`.
        """
        values, source = self.as_dict(), self.data.source
        data = values["data"]
        if path is not None:
            data["source"] = {**(data["source"] or {}), "path": path, "table": None}
        elif source is not None and source.table is not None:
            raise ConfigError(
                "the config reads a table, so another root changes nothing",
                where="data.source.table",
                got=source.table,
                fixes=["name a file", "set data.source.path instead of data.source.table"],
            )
        elif source is not None and any(map(is_absolute, source.paths())):
            raise ConfigError(
                "the config reads an absolute path, so another root changes nothing",
                where="data.source.path",
                got=next(filter(is_absolute, source.paths())),
                fixes=["name a file", "write data.source.path relative to data.root"],
            )
        for old, group in zip(self.features.dense, values["features"]["dense"], strict=True):
            if old.vectors is not None and old.vectors.source.path is not None:
                paths = [absolute_path(path, data["root"]) for path in old.vectors.source.paths()]
                group["vectors"]["source"]["path"] = paths
        data["root"] = root
        return type(self)._checked(values, where=root)

    @classmethod
    def _checked(cls, raw: dict[str, Any], where: str | _Origins) -> RunConfig:
        origins = _Origins(ReadConfig(raw, ((where, raw),)), ()) if isinstance(where, str) else where
        try:
            return cls.model_validate(raw, context={"root": _root(raw)})
        except ValidationError as error:
            raise config_error(error, cls, origins.place) from error
        except ConfigError as error:  # from a rule over several keys, which does not know the file
            raise ConfigError(
                error.what,
                where=origins.place(error.where),
                got=error.got,
                allowed=error.allowed,
                fixes=error.fixes,
                also=error.also,
            ) from error

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values, defaults included, the feature ops in their short forms."""
        values = self.model_dump(mode="json")
        for groups in values["features"].values():
            for group in groups:
                group["ops"] = [_short_op(op) for op in group["ops"]]
        return values

    def to_yaml(self) -> str:
        """Return the resolved config as YAML, defaults included."""
        return dump_yaml(self.as_dict())

    def preparation(self) -> dict[str, Any]:
        """Return the settings that decide what the prepared rows hold, wherever the raw rows lie."""
        return preparation_settings(self.data, self.features)

    def preparation_hash(self) -> str:
        """Return 16 hex digits over `preparation()`."""
        return settings_hash(self.preparation())

    def table_config(self, table: str) -> TableConfig:
        """Return the settings of one table: all matching globs merged, later ones winning."""
        merged: dict[str, Any] = {}
        for pattern, section in self.tables.items():
            if fnmatch.fnmatchcase(table, pattern):
                merged.update(section.model_dump(exclude_none=True))
        return TableConfig(**merged)


@dataclass(frozen=True)
class _Origins:
    """Knows which file or override a key of the config came from."""

    read: ReadConfig
    overrides: Sequence[str]

    def place(self, key: str) -> str:
        """Return the place of a key path, for an error."""
        for override in reversed(self.overrides):
            path = override.partition("=")[0].strip()
            # A key above the override's is the override's own where nothing stood there before.
            made = path.startswith(f"{key}.") and not _has(self.read.values, key)
            if made or f"{key}.".startswith(f"{path}."):
                return placed(f"--set {override}", key)
        return self.read.place(key)


def _root(raw: Any) -> str:
    """Return `data.root` of a config that is not checked yet, for rules that look at the files themselves."""
    data = raw.get("data") if isinstance(raw, dict) else None
    root = data.get("root") if isinstance(data, dict) else None
    return root if isinstance(root, str) else "."


def _has(tree: Any, key: str) -> bool:
    """Return whether a key path is in a tree of mappings and lists."""
    for part in key.split("."):
        if isinstance(tree, list):
            if not part.isdigit() or int(part) >= len(tree):
                return False
            tree = tree[int(part)]
        elif isinstance(tree, dict) and part in tree:
            tree = tree[part]
        else:
            return False
    return True


def _short_op(op: dict[str, Any]) -> Any:
    """Return an op as people write it: `log1p`, `fill: 0` or `clip: {min: 0}`."""
    name, params, value = op["name"], op["params"], op["value"]
    if isinstance(value, dict) or (params and value is not None):
        return op  # only the long form can say so
    if value is not None:
        return {name: value}
    return {name: params} if params else name


def _copied(value: Any) -> Any:
    """Return a copy in which parts that YAML aliases share are apart."""
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _with_overrides(raw: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    result: dict[str, Any] = _copied(raw)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError("an override must have the form key.path=value", where="--set", got=override)
        value = parsed(text, f"--set {override}", "the value of an override")
        _put(result, key.strip().split("."), value, override)
    return result


def _put(tree: Any, keys: list[str], value: Any, override: str) -> None:
    for position, key in enumerate(keys):
        last = position == len(keys) - 1
        if isinstance(tree, list):
            if not key.isdigit() or int(key) >= len(tree):
                raise ConfigError(
                    f"`{'.'.join(keys[:position])}` is a list",
                    where=f"--set {override}",
                    got=key,
                    allowed=f"a number from 0 to {len(tree) - 1}",
                )
            slot: Any = int(key)
        elif isinstance(tree, dict):
            slot = key
            if not last and tree.get(key) is None:
                tree[key] = {}
        else:
            raise ConfigError(
                f"`{'.'.join(keys[:position])}` is a single value, it has no keys", where=f"--set {override}"
            )
        if last:
            tree[slot] = value
        else:
            tree = tree[slot]
