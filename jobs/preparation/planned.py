"""The features of a run: globs resolved against the raw columns, ops checked, tables shared."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from jobs.preparation.columns import is_list
from jobs.preparation.feature_ops import feature_ops, resolve_ops
from jobs.preparation.sources import require_columns
from trainer.config import FeatureGroup, RunConfig
from trainer.config.messages import did_you_mean
from trainer.errors import ConfigError
from trainer.schema import KEEP_PREFIX, LABEL_COLUMN, WEIGHT_COLUMN, FittedOp

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Kind = Literal["dense", "sparse", "sequence"]
HISTORY = "history"
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class PlannedFeature:
    """One model input before fitting.

    Attributes:
        name: of the feature and its prepared column.
        kind: dense, sparse or sequence.
        column: raw column; the item column of a history.
        ops: checked ops with their parameters; statistics of the training rows are not in yet.
        is_list: whether a row holds any number of ids.
        table: name of the embedding table: its own, or that of the feature it shares with.
        where: key path of its group, for errors.
    """

    name: str
    kind: Kind
    column: str
    ops: tuple[FittedOp, ...]
    is_list: bool
    table: str
    where: str

    @property
    def id_op(self) -> FittedOp | None:
        """Return `vocabulary` or `hash`, or None where the column holds ids already."""
        last = self.ops[-1] if self.ops and self.kind != "dense" else None
        return last if last is not None and last.name in {"vocabulary", "hash"} else None

    @property
    def history(self) -> FittedOp | None:
        """Return the op that collects the earlier events, or None."""
        return self.ops[0] if self.ops and self.ops[0].name == HISTORY else None

    @property
    def owns_vocabulary(self) -> bool:
        """Return whether a vocabulary is made of this feature's own values."""
        return self.table == self.name and self.id_op is not None and self.id_op.name == "vocabulary"


def plan_features(run: RunConfig, frame: DataFrame) -> list[PlannedFeature]:
    """Return the features in model order: dense, sparse, sequence, each in config order, then column order.

    Globs never match the label or the weight column.

    Raises:
        ConfigError: a glob without a match, a column matched twice, a name that clashes, a wrong op or table,
            or the label as a feature.
        DataError: a column that is not there.
    """
    names = [name for name in frame.columns if not name.startswith("__")]
    kinds: tuple[Kind, ...] = ("dense", "sparse", "sequence")
    planned: list[PlannedFeature] = []
    for kind in kinds:
        seen: dict[str, str] = {}
        for number, group in enumerate(getattr(run.features, kind)):
            where = f"features.{kind}.{number}"
            _check_group(group, kind, where)
            matched = _matched(run, group, names, where)
            twice = [name for name in matched if name in seen]
            if twice:
                raise ConfigError(
                    f"column {twice[0]!r} is matched twice among the {kind} features",
                    where=f"{where}.columns",
                    got=f"also in {seen[twice[0]]}",
                )
            seen.update(dict.fromkeys(matched if group.history is None else [], where))
            planned += [_planned(group, kind, name, frame, where) for name in matched]
    _check_names(planned)
    _check_leaks(run, planned)
    return _with_shared_tables(planned)


def _check_group(group: FeatureGroup, kind: Kind, where: str) -> None:
    if group.history is not None and kind != "sequence":
        raise ConfigError(
            "a history is a sequence feature", where=where, fixes=["move it to features.sequence"]
        )
    if kind == "dense" and (group.table or group.embedding_dim):
        raise ConfigError("a dense feature has no table", where=where, got=group.table or group.embedding_dim)


def _matched(run: RunConfig, group: FeatureGroup, names: Sequence[str], where: str) -> list[str]:
    """Return the raw columns of a group, in the order of the source within each glob."""
    if group.history is not None:
        require_columns(
            [group.history.user, group.history.item, group.history.time], names, f"{where}.history"
        )
        return [group.history.item]
    free = [name for name in names if name not in (run.data.label.column, run.data.weight)]
    matched: list[str] = []
    for pattern in group.patterns():
        if pattern in names:
            matched.append(pattern)
        elif _GLOB.search(pattern):
            found = [name for name in free if fnmatch.fnmatchcase(name, pattern)]
            if not found:
                raise ConfigError(
                    "the glob matches no column", where=f"{where}.columns", got=pattern, allowed=free
                )
            matched += found
        else:
            require_columns([pattern], names, f"{where}.columns")
    if group.name is not None and len(matched) > 1:
        raise ConfigError("`name` needs a group of one column", where=f"{where}.name", got=matched)
    twice = sorted({name for name in matched if matched.count(name) > 1})
    if twice:
        raise ConfigError(
            f"column {twice[0]!r} is matched twice", where=f"{where}.columns", got=group.patterns()
        )
    return matched


def _planned(group: FeatureGroup, kind: Kind, column: str, frame: DataFrame, where: str) -> PlannedFeature:
    takes: Literal["dense", "sparse"] = "dense" if kind == "dense" else "sparse"
    ops = resolve_ops(group.ops, takes, where)
    splits = takes == "sparse" and any(feature_ops(takes)[op.name].gives == "list" for op in ops)
    if splits:
        _check_fills(ops, where)
    name = group.name or column
    if group.history is not None:
        if splits:
            raise ConfigError(
                "the item of a history is one value: `split` cannot cut it", where=f"{where}.ops"
            )
        ops = (FittedOp(name=HISTORY, params=group.history.model_dump()), *ops)
        return PlannedFeature(name, kind, column, ops, True, group.table or name, where)
    raw_list = is_list(frame, column)
    if splits and raw_list:
        raise ConfigError(f"column {column!r} holds lists already: drop `split`", where=f"{where}.ops")
    if kind == "sequence" and not (splits or raw_list):
        raise ConfigError(
            f"column {column!r} holds one value per row, a sequence needs a list",
            where=where,
            got=frame.schema[column].dataType.simpleString(),
            fixes=["add `split: ','` before the other ops", "move it to features.sparse"],
        )
    return PlannedFeature(name, kind, column, ops, splits or raw_list, group.table or name, where)


def _check_fills(ops: Sequence[FittedOp], where: str) -> None:
    names = [op.name for op in ops]
    if "fill" in names[names.index("split") :]:
        raise ConfigError(
            "`fill` after `split` fills nothing: a missing value is an empty list then",
            where=f"{where}.ops",
            got=names,
            fixes=["put `fill` before `split`"],
        )


def _check_leaks(run: RunConfig, planned: Sequence[PlannedFeature]) -> None:
    """Check that no feature is the label itself; a history holds it of earlier rows only."""
    for feature in planned:
        if feature.column.lower() == run.data.label.column.lower() and feature.history is None:
            raise ConfigError(
                "the label cannot be a feature: the model would only copy it",
                where=f"{feature.where}.columns",
                got=feature.column,
                fixes=["remove it from the features", "data.keep carries it through to the prepared rows"],
            )


def _check_names(planned: Sequence[PlannedFeature]) -> None:
    seen: dict[str, str] = {}
    for feature in planned:
        reserved = feature.name in (LABEL_COLUMN, WEIGHT_COLUMN)
        if reserved or feature.name.startswith((KEEP_PREFIX, "__")):
            raise ConfigError(
                "the name is reserved for other columns of the data set",
                where=feature.where,
                got=feature.name,
                allowed=f"any but `{LABEL_COLUMN}`, `{WEIGHT_COLUMN}`, `{KEEP_PREFIX}...`, `__...`",
                fixes=[f"name: {feature.name.removeprefix(KEEP_PREFIX).lstrip('_')}_feature"],
            )
        if "." in feature.table and feature.kind != "dense":
            raise ConfigError(
                "the name of an embedding table must not hold a dot (torch keeps it as a module name)",
                where=feature.where,
                got=feature.table,
                fixes=[
                    f"give the feature group a name, for instance `name: {feature.table.replace('.', '_')}`"
                ],
            )
        # Spark compares column names without case.
        other = seen.get(feature.name.lower())
        if other is not None:
            raise ConfigError(
                f"two features are named {feature.name!r}",
                where=feature.where,
                got=f"also in {other}",
                fixes=["give one of them a `name`"],
            )
        seen[feature.name.lower()] = feature.where


def _with_shared_tables(planned: list[PlannedFeature]) -> list[PlannedFeature]:
    """Give every feature that shares a table the id op of the table's owner."""
    owners = {f.name: f for f in planned if f.kind != "dense" and f.table == f.name}
    result: list[PlannedFeature] = []
    for feature in planned:
        if feature.kind == "dense" or feature.table == feature.name:
            result.append(feature)
            continue
        owner = owners.get(feature.table)
        if owner is None:
            near = did_you_mean(feature.table, owners)
            raise ConfigError(
                "`table` must name a sparse or sequence feature that has a table of its own",
                where=f"{feature.where}.table",
                got=feature.table,
                allowed=list(owners),
                fixes=[near] if near else [],
            )
        if feature.id_op is not None:
            raise ConfigError(
                f"`{feature.id_op.name}` and `table` contradict: {owner.name!r} numbers the ids",
                where=f"{feature.where}.ops",
                fixes=["leave out the op", "leave out `table`"],
            )
        shared = (owner.id_op,) if owner.id_op is not None else ()
        result.append(replace(feature, ops=(*feature.ops, *shared)))
    return result
