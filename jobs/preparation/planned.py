"""The features of a run: globs resolved against the raw columns, ops checked, tables shared."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pyspark.sql import types as T

from jobs.preparation.columns import is_list
from jobs.preparation.label_columns import label_columns, lone_labels
from jobs.preparation.sources import require_columns
from trainer.config import FeatureGroup, OpConfig, RunConfig
from trainer.config.messages import did_you_mean
from trainer.errors import ConfigError
from trainer.features import chains
from trainer.features.ops import Kind, column_op, entries, resolve_ops
from trainer.schema import KEEP_PREFIX, LABEL_COLUMN, WEIGHT_COLUMN, FittedOp

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

HISTORY = "history"
DERIVED_PREFIX = "__derived_"
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class PlannedFeature:
    """One model input before fitting.

    Attributes:
        name: of the feature and its prepared column.
        kind: dense, sparse, sequence or vector.
        column: raw column, or the column that `derived` makes.
        ops: checked ops with their parameters; statistics of the training rows are not in yet.
        is_list: whether a row holds any number of ids.
        table: name of the embedding table: its own, or that of the feature it shares with.
        where: key path of its group, for errors.
        derived: what makes the column of several rows, with the section of the config as its parameters.
    """

    name: str
    kind: Kind
    column: str
    ops: tuple[FittedOp, ...]
    is_list: bool
    table: str
    where: str
    derived: FittedOp | None = None

    @property
    def id_op(self) -> FittedOp | None:
        """Return `vocabulary` or `hash`, or None where the column holds ids already."""
        return chains.id_op(self)

    @property
    def has_table(self) -> bool:
        """Return whether the feature's ids are looked up in an embedding table."""
        return self.kind in ("sparse", "sequence")

    @property
    def owns_vocabulary(self) -> bool:
        """Return whether the vocabulary is this feature's, perhaps used by others that share its table."""
        named = self.id_op is not None and self.id_op.name == "vocabulary"
        return named and self.has_table and self.table == self.name

    @property
    def counts_values(self) -> bool:
        """Return whether this feature's values make the vocabulary of its table, alone or with others."""
        joint = self.id_op is not None and bool(self.id_op.params.get("joint"))
        return self.owns_vocabulary or (joint and self.id_op is not None and self.id_op.name == "vocabulary")


def plan_features(run: RunConfig, frame: DataFrame) -> list[PlannedFeature]:
    """Return the features in model order: dense, sparse, sequence, each in config order, then column order.

    Globs never match the columns of the label, nor that of the weight.

    Raises:
        ConfigError: a glob without a match, a column matched twice, a name that clashes, a wrong op or table,
            or the label as a feature.
        DataError: a column that is not there.
    """
    kinds: tuple[Kind, ...] = ("dense", "sparse", "sequence")
    planned: list[PlannedFeature] = []
    for kind in kinds:
        seen: dict[str, str] = {}
        for number, group in enumerate(getattr(run.features, kind)):
            where = f"features.{kind}.{number}"
            _check_group(group, kind, where)
            matched = _matched(run, group, frame, where)
            twice = [name for name in matched if name in seen]
            if twice and group.name is None:  # a second feature of a column has a name of its own
                raise ConfigError(
                    f"column {twice[0]!r} is matched twice among the {kind} features",
                    where=f"{where}.columns",
                    got=f"also in {seen[twice[0]]}",
                    fixes=["give one of the two features a `name`"],
                )
            seen.update(dict.fromkeys(matched if group.columns is not None else [], where))
            planned += [_planned(group, kind, name, frame, where) for name in matched]
    _check_names(planned)
    _check_missing_in_lists(planned)
    _check_leaks(lone_labels(run.data.tasks, raw_names(frame)), planned)
    _check_time_ops(run, planned)
    return _with_shared_tables(planned)


def _check_group(group: FeatureGroup, kind: Kind, where: str) -> None:
    if group.cross is not None and kind != "sparse":
        raise ConfigError("a cross is a sparse feature", where=where, fixes=["move it to features.sparse"])
    if group.vectors is not None and kind != "dense":
        raise ConfigError("vectors are dense inputs", where=where, fixes=["move it to features.dense"])
    wanted = "sequence" if group.history is not None else "dense"
    if group.derived is not None and kind != wanted:
        what = HISTORY if group.history is not None else "number"
        raise ConfigError(
            f"a {what} is a {wanted} feature", where=where, fixes=[f"move it to features.{wanted}"]
        )
    if group.dim is not None and kind != "dense":
        raise ConfigError(
            "`dim` is for dense inputs", where=f"{where}.dim", fixes=["move it to features.dense"]
        )
    if kind == "dense" and (group.table or group.embedding_dim):
        raise ConfigError("a dense feature has no table", where=where, got=group.table or group.embedding_dim)


def _matched(run: RunConfig, group: FeatureGroup, frame: DataFrame, where: str) -> list[str]:
    """Return the columns of a group, in the order of the source within each glob."""
    if group.derived is not None:
        assert group.name is not None
        _check_sources(group, lone_labels(run.data.tasks, raw_names(frame)), frame, where)
        return [DERIVED_PREFIX + group.name]
    names = raw_names(frame)
    if group.cross is not None:
        assert group.name is not None
        _check_cross(group, lone_labels(run.data.tasks, raw_names(frame)), frame, where)
        return [group.name]
    if group.vectors is not None:
        require_columns([group.vectors.on], names, f"{where}.vectors.on")
        return [group.vectors.on]
    labels = label_columns(run.data.tasks, names)
    free = [name for name in names if name not in (*labels, run.data.weight)]
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
    if group.vectors is not None:
        return _looked_up(group, column, frame, where)
    ops = resolve_ops(group.ops, kind, where, column_op(group))
    splits = any(entry.gives == "list" for _, entry in entries(ops, kind))
    name = group.name or column
    if group.derived is not None:
        if splits:
            raise ConfigError(
                "the item of a history is one value: `split` cannot cut it", where=f"{where}.ops"
            )
        made = FittedOp(name=derivation(group), params=group.derived.model_dump())
        listed = group.history is not None
        return PlannedFeature(name, kind, column, ops, listed, group.table or name, where, made)
    if group.cross is not None:
        return _crossed(group, ops, where)
    if kind == "dense":
        return PlannedFeature(name, kind, column, ops, False, name, where)
    # A column of nothing but nulls has no type, so it can be one of lists.
    untyped = isinstance(frame.schema[column].dataType, T.NullType)
    raw_list = is_list(frame, column) or (untyped and kind == "sequence" and not splits)
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


def _looked_up(group: FeatureGroup, column: str, frame: DataFrame, where: str) -> PlannedFeature:
    """Return a feature of vectors: its rows hold ids of the vocabulary that is made of the vectors' ids."""
    assert group.name is not None
    if is_list(frame, column):
        raise ConfigError(
            f"column {column!r} holds lists: a vector is looked up by one id", where=f"{where}.vectors.on"
        )
    ops = resolve_ops([OpConfig(name="vocabulary")], "vector", where)
    return PlannedFeature(group.name, "vector", column, ops, False, group.name, where)


def _crossed(group: FeatureGroup, ops: tuple[FittedOp, ...], where: str) -> PlannedFeature:
    assert group.name is not None
    assert group.cross is not None
    ends = [entry.gives for _, entry in entries(ops, "sparse")]
    if group.table is None and ends[-1:] != ["ids"]:
        raise ConfigError(
            "the values of a cross are no ids",
            where=f"{where}.ops",
            fixes=["ops: vocabulary", "ops: {hash: 100000}"],
        )
    table = group.table or group.name
    return PlannedFeature(group.name, "sparse", group.name, ops, "list" in ends, table, where)


def _check_cross(group: FeatureGroup, labels: Collection[str], frame: DataFrame, where: str) -> None:
    """Check that a cross's columns are there, hold one id per row, and are not the label."""
    assert group.cross is not None
    require_columns(group.cross, raw_names(frame), f"{where}.cross")
    for name in group.cross:
        if is_list(frame, name):
            raise ConfigError(
                f"column {name!r} holds lists: a cross needs one id per row", where=f"{where}.cross"
            )
        if name.lower() in labels:
            raise ConfigError("the label cannot be part of a feature", where=f"{where}.cross", got=name)


def derivation(group: FeatureGroup) -> str:
    """Return which of the keys `history`, `earlier` and `target_encoding` a group has."""
    return next(name for name in (HISTORY, "earlier", "target_encoding") if getattr(group, name) is not None)


def raw_names(frame: DataFrame) -> list[str]:
    """Return the raw columns, without those of our own."""
    return [name for name in frame.columns if not name.startswith("__")]


def id_columns(derived: FittedOp) -> list[str]:
    """Return the columns of the ids whose rows a derived feature is made of."""
    return [derived.params["user"]] if derived.name == HISTORY else list(derived.params["by"])


def source_columns(derived: FittedOp) -> list[str]:
    """Return the raw columns that a derived feature is made of, the label's and its condition's aside."""
    others = [derived.params.get(key) for key in ("item", "time", "of")]
    return list(dict.fromkeys(name for name in [*id_columns(derived), *others] if name is not None))


def _check_sources(group: FeatureGroup, labels: Collection[str], frame: DataFrame, where: str) -> None:
    """Check that a derived feature's columns are there, and that its name is no column's."""
    assert group.derived is not None
    assert group.name is not None
    names, key = raw_names(frame), derivation(group)
    made = FittedOp(name=key, params=group.derived.model_dump())
    require_columns(source_columns(made), names, f"{where}.{key}")
    if group.name.lower() in {name.lower() for name in names}:
        # Rows to be scored may bring the ready value in a column of the feature's name.
        raise ConfigError(
            "a feature made of several rows cannot have the name of a raw column",
            where=f"{where}.name",
            got=group.name,
            fixes=["give it another name"],
        )
    ids = [*id_columns(made), *([made.params["item"]] if key == HISTORY else [])]
    for name in ids:
        if is_list(frame, name):
            raise ConfigError(
                f"column {name!r} holds lists, not one id per row", where=f"{where}.{key}", got=name
            )
    own = [name for name in ids if name.lower() in labels]
    if key == "target_encoding" and own:
        raise ConfigError("the label cannot encode itself", where=f"{where}.{key}.by", got=own[0])


def _check_missing_in_lists(planned: Sequence[PlannedFeature]) -> None:
    for feature in planned:
        if (
            feature.is_list
            and feature.id_op is not None
            and feature.id_op.params.get("missing") == "most_frequent"
        ):
            raise ConfigError(
                "`missing: most_frequent` fills nothing in lists: what is missing in one is left out of it",
                where=f"{feature.where}.ops",
                fixes=["leave it out", "`fill: VALUE` before the other ops puts a value there"],
            )


def _check_leaks(labels: Collection[str], planned: Sequence[PlannedFeature]) -> None:
    """Check that no feature is a label itself; derived ones hold it of earlier or other rows only."""
    for feature in planned:
        if feature.column.lower() in labels:
            raise ConfigError(
                "the label cannot be a feature: the model would only copy it",
                where=f"{feature.where}.columns",
                got=feature.column,
                fixes=["remove it from the features", "data.keep carries it through to the prepared rows"],
            )


def _check_time_ops(run: RunConfig, planned: Sequence[PlannedFeature]) -> None:
    for feature in planned:
        form = run.data.time_formats.get(feature.column)
        if form is not None and feature.ops and feature.ops[0].name == "milliseconds":
            raise ConfigError(
                "the digits of a column are either milliseconds or of the form that `data.time_formats` says",
                where=f"{feature.where}.ops",
                got=f"milliseconds, for {feature.column}: {form}",
                fixes=["leave out the op", f"leave {feature.column} out of data.time_formats"],
            )


def _check_names(planned: Sequence[PlannedFeature]) -> None:
    seen: dict[str, str] = {}
    for feature in planned:
        reserved = feature.name in (LABEL_COLUMN, WEIGHT_COLUMN)
        if reserved or feature.name.startswith((KEEP_PREFIX, "__", f"{LABEL_COLUMN}__")):
            raise ConfigError(
                "the name is reserved for other columns of the data set",
                where=feature.where,
                got=feature.name,
                allowed=f"any but `{LABEL_COLUMN}`, `{WEIGHT_COLUMN}`, `{KEEP_PREFIX}...`, `__...`",
                fixes=[f"name: {feature.name.removeprefix(KEEP_PREFIX).lstrip('_')}_feature"],
            )
        if "." in feature.table and feature.has_table:
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
    owners = {f.name: f for f in planned if f.has_table and f.table == f.name}
    result: list[PlannedFeature] = []
    for feature in planned:
        if not feature.has_table or feature.table == feature.name:
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
