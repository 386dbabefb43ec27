"""Feature ops by name: looked up along a chain, checked against the config, and described for editors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from trainer.config import FeatureGroup, OpConfig, RunConfig
from trainer.config.messages import config_error, did_you_mean
from trainer.errors import ConfigError
from trainer.features import number_ops, time_ops, token_ops  # noqa: F401 - they fill the registry
from trainer.features.registry import OPS, FeatureOp, Takes
from trainer.schema import NUMBERS, FittedOp

Kind = Literal["dense", "sparse", "sequence", "vector"]
CROSS = "cross"
"""Not an op of the registry: written first in the spec of a feature that is made of several columns."""
_COLUMNS = (CROSS, NUMBERS)


def feature_ops(takes: Takes) -> dict[str, FeatureOp]:
    """Return the ops for numbers, tokens or times by name."""
    return {name: op for (kind, name), op in sorted(OPS.items()) if kind == takes}


def first_value(ops: Sequence[FittedOp | OpConfig], kind: Kind) -> Takes:
    """Return what a feature's raw column is read as: the first op says, else the kind of the feature."""
    usual: Takes = "number" if kind == "dense" else "token"
    if not ops or ops[0].name in _COLUMNS or (usual, ops[0].name) in OPS:
        return usual
    others: tuple[Takes, ...] = ("time",) if kind == "dense" else ("time", "number")
    return next((other for other in others if (other, ops[0].name) in OPS), usual)


def entries(ops: Sequence[FittedOp], kind: Kind) -> Iterator[tuple[FittedOp, FeatureOp]]:
    """Return each op of a checked chain with its registry entry; what says how to read columns is no op."""
    value = first_value(ops, kind)
    for op in ops:
        if op.name in _COLUMNS:
            continue
        entry = _entry(op.name, value, kind)
        assert entry is not None, f"no {value} op {op.name}"
        yield op, entry
        value = _after(entry)


def column_ops(ops: Sequence[FittedOp]) -> tuple[FittedOp, ...]:
    """Return what says how the columns of a feature are read; there may be nothing."""
    return tuple(op for op in ops if op.name in _COLUMNS)


def largest_number(ops: Sequence[FittedOp], kind: Kind) -> int:
    """Return the largest number that a fitted chain can end with where its last op tells, else 0."""
    last = list(entries(ops, kind))[-1:]
    return next((entry.largest(op.params) for op, entry in last if entry.largest is not None), 0)


def _entry(name: str, value: Takes, kind: Kind) -> FeatureOp | None:
    """Return the op that a chain means by a name where it holds values of this kind."""
    found = OPS.get((value, name))
    if found is None and value == "number" and kind != "dense":  # numbers print as tokens
        return OPS.get(("token", name))
    return found


def _after(entry: FeatureOp) -> Takes:
    if entry.gives == "number":
        return "number"
    return "token" if entry.gives == "list" else entry.takes


def allowed_ops(kind: Kind, value: Takes | None = None) -> list[str]:
    """Return the names that a chain may go on with; `value` is what it holds, None at its start."""
    first = {"dense": {"number", "time"}}.get(kind, {"token", "number", "time"})
    later = {value, "token"} if kind != "dense" and value == "number" else {value}
    takes = first if value is None else later
    return sorted({name for kind_, name in OPS if kind_ in takes})


def resolve_op(op: OpConfig, entry: FeatureOp, where: str) -> FittedOp:
    """Check the parameters of one op and fill in its defaults.

    Args:
        op: name, and parameters or the bare value.
        entry: the op.
        where: key path for errors, such as `features.dense.0.ops.1`.

    Raises:
        ConfigError: a parameter that the op does not have or allow.
    """
    params = dict(op.params)
    if op.value is not None:
        first = next(iter(entry.section.model_fields), None)
        if first is None:
            raise ConfigError(f"`{op.name}` takes no parameter", where=where, got=op.value)
        params[first] = op.value
    try:
        checked = entry.section.model_validate(params).model_dump()
    except ValidationError as error:
        raise config_error(error, entry.section, where=f"{where} ({op.name})") from error
    wrong = entry.rule(checked) if entry.rule else None
    if wrong:
        raise ConfigError(wrong, where=where, got=f"{op.name}: {params}")
    return FittedOp(name=op.name, params=checked)


def column_op(group: FeatureGroup) -> FittedOp | None:
    """Return what says how the columns of a group are read, where a row of one column is not one value."""
    if group.cross is not None:
        return FittedOp(name=CROSS, params={"columns": list(group.cross)})
    if group.dim is not None:
        return FittedOp(name=NUMBERS, params={"dim": group.dim, "delimiter": group.delimiter})
    return None


def resolve_ops(
    ops: Sequence[OpConfig], kind: Kind, where: str, columns: FittedOp | None = None
) -> tuple[FittedOp, ...]:
    """Check the ops of one feature group: each follows from what the one before gives.

    Args:
        ops: as in the config.
        kind: of the feature.
        where: key path of the group, for errors.
        columns: of `column_op`; becomes the first op.

    Raises:
        ConfigError: no such op for what the chain holds, a wrong parameter, or an op where it cannot stand.
    """
    resolved = [] if columns is None else [columns]
    value = first_value(resolved or ops, kind)
    before: list[FeatureOp] = []
    for number, op in enumerate(ops):
        place = f"{where}.ops.{number}"
        if before and before[-1].gives == "ids":
            raise ConfigError(
                f"`{before[-1].name}` makes ids and must be the last op", where=place, got=op.name
            )
        entry = _entry(op.name, value, kind)
        if entry is None:
            raise _unknown(op.name, kind, value if number or columns else None, place)
        _check_lists(entry, before, place)
        made = resolve_op(op, entry, place)
        if columns is not None and columns.name == NUMBERS and entry.needs_fit(made.params):
            raise _fitted_on_lists(op.name, place)
        resolved.append(made)
        value = _after(entry)
        before.append(entry)
    return tuple(resolved)


def _check_lists(entry: FeatureOp, before: Sequence[FeatureOp], where: str) -> None:
    listed = next((op.name for op in before if op.gives == "list"), None)
    if listed is not None and entry.gives == "list":
        raise ConfigError(f"`{listed}` has made lists already", where=where, got=entry.name)
    if listed is not None and entry.name == "fill":
        raise ConfigError(
            f"`fill` after `{listed}` fills nothing: a missing value is an empty list then",
            where=where,
            fixes=[f"put `fill` before `{listed}`"],
        )


def _fitted_on_lists(name: str, where: str) -> ConfigError:
    return ConfigError(
        f"`{name}` fits one number to the training rows, and the numbers of a list may mean different things",
        where=where,
        fixes=[
            "scale the lists before they are written",
            "`fill: 0`, `clip: {min: -3, max: 3}` and other ops whose parameters are all given",
            "write numbers that mean different things to columns of their own",
        ],
    )


def _unknown(name: str, kind: Kind, value: Takes | None, where: str) -> ConfigError:
    allowed = allowed_ops(kind, value)
    near = did_you_mean(name, allowed)
    known = name in allowed_ops(kind)
    after = f" behind an op that gives {value}s" if known else ""
    return ConfigError(
        f"no such op for {kind} features{after}",
        where=where,
        got=name,
        allowed=allowed,
        fixes=[near] if near else [],
    )


def check_ops(run: RunConfig) -> None:
    """Check every op of a run config, without its rows.

    Raises:
        ConfigError: an unknown op or parameter, a wrong value, or a wrong order of ops.
    """
    kinds: tuple[Kind, ...] = ("dense", "sparse", "sequence")
    for kind in kinds:
        for number, group in enumerate(getattr(run.features, kind)):
            resolve_ops(group.ops, kind, f"features.{kind}.{number}", column_op(group))


def op_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON schema of each op's parameters, for editors.

    An op that several kinds of values have (`fill`) allows the parameters of any.
    """
    schemas: dict[str, dict[str, Any]] = {}
    for (_, name), op in sorted(OPS.items(), key=lambda item: item[0][1]):
        schema = op.section.model_json_schema()
        other = schemas.setdefault(name, schema)
        if other is not schema:
            both = {**other["properties"], **schema["properties"]}
            for key in other["properties"].keys() & schema["properties"].keys():
                both[key] = {"anyOf": [other["properties"][key], schema["properties"][key]]}
            required = set(other.get("required", ())) & set(schema.get("required", ()))
            schemas[name] = {**other, "properties": both, "required": sorted(required)}
    return schemas
