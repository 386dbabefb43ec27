"""From run config and prepared features to the inputs of a model: which tables, how wide, how used."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from sharding.id_buckets import IdPolicy
from sharding.sharders import SEQUENCE_TYPES
from sharding.tables import Pooling, TableSpec
from trainer.config import FeatureGroup, RunConfig, TableConfig
from trainer.config.messages import did_you_mean
from trainer.config.plan import IdsConfig
from trainer.errors import ConfigError
from trainer.features.ids import first_id
from trainer.registry import ModelInputs
from trainer.schema import OUT_OF_VOCABULARY_ID, Feature, FeatureSpec, FeatureStatistics

_LARGEST_TABLE = 2**48


def model_inputs(
    run: RunConfig, spec: FeatureSpec, statistics: Mapping[str, FeatureStatistics], embedding_dim: int
) -> ModelInputs:
    """Describe the dense inputs, the sparse features and their embedding tables.

    Features that name the same table share it; a target feature is left out. The width of a table comes from
    `tables.<glob>.embedding_dim`, else from the feature group, else from the model. A table's pooling is that
    of its list features: one id alone gives the same vector under every pooling, so it follows the list that
    it shares a table with.

    Args:
        run: the run config.
        spec: features of the prepared data set.
        statistics: by feature; the mean number of ids per row becomes the pooling factor for the planner.
        embedding_dim: the model's own default width.

    Returns:
        Inputs with one table spec per table, in the order of the tables' first features.

    Raises:
        ConfigError: no sparse feature; a feature that the config does not name; features of one table that
            ask for different widths or poolings; a table's name with a dot; a `tables` glob that matches no
            table; an unbounded hash without `ids`, or `ids` where rows cannot be written or ids are to be
            found.
    """
    groups = {feature.name: _group_of(feature, run) for feature in spec.looked_up}
    if not groups:
        raise ConfigError(
            "a model needs at least one sparse or sequence feature",
            where="features",
            fixes=["add a group under `features.sparse` or `features.sequence`"],
        )
    by_table: dict[str, list[Feature]] = {}
    for feature in spec.looked_up:
        by_table.setdefault(feature.table or feature.name, []).append(feature)
    _check_names(by_table, groups)
    check_globs(run, list(by_table))
    _check_target(run, spec)
    tables = [
        _table(name, features, groups, run, statistics, embedding_dim) for name, features in by_table.items()
    ]
    lists = frozenset(feature.name for feature in spec.looked_up if feature.is_list)
    return ModelInputs(
        spec.dense_width,
        tuple(f.name for f in spec.looked_up),
        tuple(tables),
        lists,
        tuple(task.name for task in spec.tasks),
        {name: min(map(known_from, features)) for name, features in by_table.items()},
        run.train.global_batch_size,
    )


def known_from(feature: Feature) -> int:
    """Return the first id that stands for one known value: those before are padding and unknown values."""
    made = (first_id(op) for op in feature.ops if op.name == "vocabulary")
    return next(made, OUT_OF_VOCABULARY_ID)


def _table(
    name: str,
    features: Sequence[Feature],
    groups: Mapping[str, tuple[str, FeatureGroup]],
    run: RunConfig,
    statistics: Mapping[str, FeatureStatistics],
    embedding_dim: int,
) -> TableSpec:
    rows = max(feature.num_embeddings or 1 for feature in features)
    config = run.table_config(name)
    if rows > _LARGEST_TABLE and config.ids is None:
        raise ConfigError(
            "ids of an unbounded hash need a table that gives them rows of their own",
            where=f"tables.{name}",
            got=f"{rows:,} ids",
            fixes=[
                f"tables.{name}.ids: {{num_embeddings: 1000000}}",
                "a hash of that many buckets: `hash: 1000000` instead of `hash: unbounded`",
            ],
        )
    return table_spec(
        run,
        name,
        num_embeddings=rows,
        embedding_dim=table_width(
            _width(name, features, groups, config),
            config.ids.num_embeddings if config.ids else rows,
            embedding_dim,
        ),
        pooling=_pooling(name, features, groups),
        pooling_factors={
            feature.name: statistics.get(feature.name, FeatureStatistics()).mean_length
            for feature in features
        },
    )


def table_width(asked: int | Literal["auto"] | None, rows: int, embedding_dim: int) -> int:
    """Return the columns of a table.

    Args:
        asked: what the config gives the table.
        rows: of the table.
        embedding_dim: the model's own, which `auto` does not exceed.

    Source: Wang et al. 2017, arXiv:1708.05123, section 4.1: 6 (cardinality)^(1/4) columns.
    """
    if asked == "auto":
        return min(embedding_dim, 4 * math.ceil(1.5 * math.sqrt(math.sqrt(rows))))
    return asked or embedding_dim


def table_spec(
    run: RunConfig,
    name: str,
    *,
    num_embeddings: int,
    embedding_dim: int,
    pooling: Pooling,
    pooling_factors: Mapping[str, float],
) -> TableSpec:
    """Return a table with the settings that `tables` and `plan` hold for it.

    Args:
        run: the run config.
        name: of the table.
        num_embeddings: rows, where `tables` has no `ids` for the table.
        embedding_dim: columns.
        pooling: of its features.
        pooling_factors: mean ids per row by feature.
    """
    config = run.table_config(name)
    sharding_types = config.sharding_types or _types_for_all(run, pooling)
    _check_ids(name, config)
    return TableSpec(
        name=name,
        num_embeddings=config.ids.num_embeddings if config.ids else num_embeddings,
        embedding_dim=embedding_dim,
        features=tuple(pooling_factors),
        pooling=pooling,
        data_type=config.data_type or "fp32",
        pooling_factors=tuple(pooling_factors.values()),
        sharding_types=tuple(sharding_types) if sharding_types else None,
        compute_kernels=tuple(config.compute_kernels) if config.compute_kernels else None,
        min_partition=config.min_partition,
        cache_load_factor=config.cache_load_factor,
        learning_rate=config.learning_rate,
        lookup_group=config.lookup_group,
        ids=_policy(config.ids) if config.ids else None,
        ranks=config.rank_numbers(),
        enforce_hbm=config.enforce_hbm,
        stochastic_rounding=config.stochastic_rounding,
        bounds_check_mode=config.bounds_check_mode,
        weight_init_max=config.weight_init_max,
    )


def _check_target(run: RunConfig, spec: FeatureSpec) -> None:
    """Refuse a table whose rows change owners where ids of it are to be found: the target's stay raw."""
    table = spec.target.table if spec.target is not None else None
    if table is not None and run.table_config(table).ids is not None:
        raise ConfigError(
            "ids that come and go cannot be ranked as the targets of user rows",
            where=f"tables.{table}.ids",
            fixes=[f"leave out tables.{table}.ids", "leave out data.user_rows"],
        )


def _types_for_all(run: RunConfig, pooling: Pooling) -> Sequence[str] | None:
    """Return the sharding types that the config allows every table; of a sequence those that it can have."""
    asked = run.plan.sharding_types
    if asked is None or pooling != "none":
        return asked
    return [kind for kind in asked if kind in SEQUENCE_TYPES] or asked


def _check_ids(name: str, config: TableConfig) -> None:
    """Refuse rows that a new owner's weights cannot be written to."""
    if config.ids is None:
        return
    if config.data_type == "int8":
        raise ConfigError(
            "a table with `ids` cannot hold int8 rows",
            where=f"tables.{name}.data_type",
            got="int8",
            allowed=["fp32", "fp16", "bf16"],
        )
    # What is written past the cache would be overwritten by the rows in it.
    if "fused_uvm_caching" in (config.compute_kernels or ()):
        raise ConfigError(
            "a table with `ids` cannot lie behind a cache",
            where=f"tables.{name}.compute_kernels",
            got=config.compute_kernels,
            allowed=["dense", "fused", "fused_uvm"],
        )


def _policy(ids: IdsConfig) -> IdPolicy:
    return IdPolicy(
        ids.evict,
        ids.min_count,
        ids.ttl_steps,
        1.0 if ids.decay_exponent is None else ids.decay_exponent,
    )


def _width(
    name: str,
    features: Sequence[Feature],
    groups: Mapping[str, tuple[str, FeatureGroup]],
    config: TableConfig,
) -> int | Literal["auto"] | None:
    """Return the width that the config gives the table, or None where only the model's default is left."""
    if config.embedding_dim is not None:
        return config.embedding_dim
    asked = {groups[f.name][0]: groups[f.name][1].embedding_dim for f in features}
    widths = {path: width for path, width in asked.items() if width is not None}
    if len(set(widths.values())) > 1:
        widest = max(width for width in widths.values() if width != "auto")
        raise ConfigError(
            f"features that share table {name!r} ask for different embedding_dim",
            where=", ".join(f"{path}.embedding_dim" for path in widths),
            got=list(widths.values()),
            fixes=[
                "give the same number in every group, or only one group a number",
                f"set tables.{name}.embedding_dim: {widest}, which wins over the groups",
            ],
        )
    return next(iter(widths.values()), None)


def _pooling(
    name: str, features: Sequence[Feature], groups: Mapping[str, tuple[str, FeatureGroup]]
) -> Pooling:
    lists = {groups[f.name][0]: groups[f.name][1].pooling for f in features if f.is_list}
    if len(set(lists.values())) > 1:
        raise ConfigError(
            f"list features that share table {name!r} ask for different pooling",
            where=", ".join(f"{path}.pooling" for path in lists),
            got=list(lists.values()),
            fixes=["give them the same pooling", "give one of them a table of its own (leave out `table`)"],
        )
    # With one id per row every pooling is the identity; `sum` keeps the feature in the cheaper collection.
    return next(iter(lists.values()), "sum")


def _group_of(feature: Feature, run: RunConfig) -> tuple[str, FeatureGroup]:
    """Return the key path and the feature group that a prepared feature came from."""
    kind = feature.kind
    groups = list(enumerate(getattr(run.features, kind)))
    tests = (
        lambda group: group.name == feature.name,
        lambda group: group.name is None and feature.column in group.patterns(),
        lambda group: group.name is None and _matches(feature.column, group.patterns()),
    )
    for test in tests:
        for index, group in groups:
            if test(group):
                return f"features.{kind}.{index}", group
    raise ConfigError(
        "the data set holds a feature that the config does not name",
        where=f"features.{kind}",
        got=feature.name,
        allowed=[group.name or ", ".join(group.patterns()) for _, group in groups] or None,
        fixes=["use the config that prepared the data set, or prepare it again with this one"],
    )


def _matches(column: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(column, pattern) for pattern in patterns)


def _check_names(
    by_table: Mapping[str, Sequence[Feature]], groups: Mapping[str, tuple[str, FeatureGroup]]
) -> None:
    for table, features in by_table.items():
        if "." in table:
            raise ConfigError(
                "the name of an embedding table must not hold a dot (torch keeps it as a module name)",
                where=groups[features[0].name][0],
                got=table,
                fixes=[f"give the feature group a name, for instance `name: {table.replace('.', '_')}`"],
            )


def check_globs(run: RunConfig, tables: Sequence[str]) -> None:
    """Refuse settings under `tables` that no table has.

    Raises:
        ConfigError: naming the glob and the nearest table.
    """
    for glob in run.tables:
        if not any(fnmatch.fnmatchcase(table, glob) for table in tables):
            near = did_you_mean(glob, tables)
            raise ConfigError(
                "no table matches this glob",
                where=f"tables.{glob}",
                got=glob,
                allowed=list(tables),
                fixes=[near] if near else [],
            )
