"""The target feature of rows of users: the ids of the items to be found, numbered as an input's are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jobs.preparation import columns as C
from jobs.preparation.planned import HISTORY, PlannedFeature
from trainer.config import RunConfig, UserRowsConfig
from trainer.config.messages import did_you_mean
from trainer.config.user_rows import TARGETS
from trainer.errors import ConfigError
from trainer.features import chains
from trainer.features.ops import entries
from trainer.schema import FittedOp

_WHERE = "data.user_rows"


def with_target(features: list[PlannedFeature], run: RunConfig) -> list[PlannedFeature]:
    """Add the target feature where `data.user_rows` are asked for.

    Args:
        features: planned, with the ops of the tables that they share.
        run: the run config.

    Raises:
        ConfigError: no feature numbers the targets' ids, or several do in different ways; an input is made of
            what rows of users lack.
    """
    config = run.data.user_rows
    if config is None:
        return features
    for feature in features:
        _check_input(feature, config)
    like = _named(features, config.ids_of) if config.ids_of is not None else _found(features, config)
    # What shortens a list would leave out items that are to be found.
    ops = tuple(op for op in like.ops if op.name != "truncate")
    target = replace(
        like,
        name=TARGETS,
        kind="sequence",
        column=C.TARGETS,
        ops=ops,
        is_list=True,
        where=f"{_WHERE}.targets",
    )
    return [*features, target]


def _check_input(feature: PlannedFeature, config: UserRowsConfig) -> None:
    if feature.name.lower() == TARGETS:
        raise ConfigError(
            f"the name `{TARGETS}` is that of the items to be found",
            where=feature.where,
            got=feature.name,
            fixes=["give the feature another `name`"],
        )
    if feature.derived is not None:
        _check_derived(feature.derived, feature.where, config)
        return
    there = {config.by, *config.user_columns, *config.lists}
    missing = [name for name in chains.raw_columns(feature) if name not in there]
    if missing and "train" in config.splits:
        raise ConfigError(
            f"feature {feature.name!r} is made of a column of events, which no row of a user has",
            where=f"{feature.where}.columns",
            got=missing[0],
            allowed=sorted(there),
            fixes=[
                f"data.user_rows.user_columns: [{missing[0]}] where it belongs to the user",
                f"data.user_rows.lists: {{seen_{missing[0]}: {missing[0]}}} and name that list",
                "data.user_rows.splits: [valid, test] leaves the events in train",
            ],
        )


def _check_derived(derived: FittedOp, where: str, config: UserRowsConfig) -> None:
    """Refuse what is made of several rows, but for a history whose events the rows of users list too."""
    params, listed = derived.params, list(config.lists.values())
    if derived.name != HISTORY or "train" in config.splits:
        raise ConfigError(
            "a row of a user is no event, so nothing can be made of the events before it",
            where=f"{where}.{derived.name}",
            fixes=["name one of data.user_rows.lists under `columns`", "leave out data.user_rows"],
        )
    if params["user"] != config.by or params["item"] not in listed:
        raise ConfigError(
            "in a row of a user, a history is one of its lists",
            where=f"{where}.{HISTORY}",
            got=f"user: {params['user']}, item: {params['item']}",
            allowed=f"user: {config.by}, item: {', '.join(dict.fromkeys(listed))}",
            fixes=[f"{_WHERE}.lists: {{past_{params['item']}: {params['item']}}}"],
        )


def _found(features: Sequence[PlannedFeature], config: UserRowsConfig) -> PlannedFeature:
    """Return the feature of one item per row, or of a list of items, whose ids the targets have."""
    columns = {config.targets, *(name for name, column in config.lists.items() if column == config.targets)}
    found = [f for f in features if _numbers(f) and f.column in columns]
    if len({f.table for f in found}) == 1:
        return found[0]
    raise ConfigError(
        "several features number the ids of the items to be found, each in its own way"
        if found
        else "no feature numbers the ids of the items to be found",
        where=f"{_WHERE}.targets: {config.targets}",
        got=", ".join(f.name for f in found) or None,
        allowed=f"a sparse or sequence feature of one of the columns {', '.join(sorted(columns))}",
        fixes=[f"{_WHERE}.ids_of: {found[0].name}", f"table: {found[0].table} in the others"]
        if found
        else [f"features.sequence: [{{columns: {name}, ops: [vocabulary]}}]" for name in [*config.lists][:1]],
    )


def _named(features: Sequence[PlannedFeature], name: str) -> PlannedFeature:
    able = {feature.name: feature for feature in features if _numbers(feature)}
    if name in able:
        return able[name]
    near = did_you_mean(name, able)
    raise ConfigError(
        "no sparse or sequence feature of single ids, or of a list column, has this name",
        where=f"{_WHERE}.ids_of",
        got=name,
        allowed=list(able),
        fixes=[near] if near else [],
    )


def _numbers(feature: PlannedFeature) -> bool:
    """Return whether what makes a feature's ids can be done to a list of raw values."""
    cut = any(entry.gives == "list" for _, entry in entries(feature.ops, feature.kind))
    return feature.has_table and not cut and len(chains.raw_columns(feature)) == 1
