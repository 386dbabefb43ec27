"""The registry of feature ops. A new op is one function here, and docs, checks and tests find it.

```python
@feature_op("dense")
def scale(x: Column, by: float = 1.0) -> Column:
    \"\"\"Multiply.\"\"\"
    return x * by
```

The parameters after the first are what the config may give, with their types and defaults; the bare form
`scale: 2` fills the first of them. A parameter of type `FromTrain` is never in the config: `prepare` computes
the statistic of that name (`mean`, `std`, `median`, `min`, `max`) over the training rows, after the ops to
its left. A parameter that allows `Statistic` takes a number, or the name of the statistic to compute.

Dense ops get and give a double, null where the value is missing. Sparse ops get one token (text), or, in a
list feature, each token of the list in turn. `vocabulary` and `hash` make ids and so come last.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from trainer.config import OpConfig, RunConfig
from trainer.config.messages import config_error, did_you_mean
from trainer.errors import ConfigError
from trainer.schema import FittedOp

if TYPE_CHECKING:
    from pyspark.sql import Column

Takes = Literal["dense", "sparse"]
Gives = Literal["same", "list", "ids"]
FromTrain = Annotated[float, "fitted on the training rows"]
Statistic = Literal["mean", "median"]


@dataclass(frozen=True)
class Refusal:
    """Values that an op cannot take.

    Attributes:
        of: the op's input column to a boolean column, true where the value is refused.
        because: the rule, for the error.
        fix: what to write into the config.
    """

    of: Callable[[Column], Column]
    because: str
    fix: str


@dataclass(frozen=True)
class FeatureOp:
    """One registry entry; `section` is the pydantic class made of the function's signature."""

    name: str
    takes: Takes
    gives: Gives
    function: Callable[..., Column]
    section: type[BaseModel]
    from_train: tuple[str, ...]
    rule: Callable[[Mapping[str, Any]], str | None] | None
    refuses: Refusal | None

    @property
    def summary(self) -> str:
        """Return the first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").splitlines()[0]


_OPS: dict[tuple[Takes, str], FeatureOp] = {}


def feature_op(
    takes: Takes,
    *,
    name: str | None = None,
    gives: Gives = "same",
    rule: Callable[[Mapping[str, Any]], str | None] | None = None,
    refuses: Refusal | None = None,
) -> Callable[[Callable[..., Column]], Callable[..., Column]]:
    """Register a function as an op.

    Args:
        takes: `dense` for numbers, `sparse` for tokens (sequences use the sparse ops).
        name: in the config; default the function's.
        gives: `same`, `list` for an op that makes many tokens of one, `ids` for one that ends the chain.
        rule: says what is wrong with the parameters together, or None.
        refuses: values that make the op fail with an error.
    """

    def register(function: Callable[..., Column]) -> Callable[..., Column]:
        # Spark's class says nothing about the parameters, and checking a config must not load Spark.
        hints = typing.get_type_hints(function, localns={"Column": Any}, include_extras=True)
        parameters = list(inspect.signature(function).parameters.values())[1:]
        fitted = tuple(p.name for p in parameters if hints[p.name] is FromTrain)
        fields: dict[str, Any] = {
            p.name: (hints[p.name], ... if p.default is inspect.Parameter.empty else p.default)
            for p in parameters
            if p.name not in fitted
        }
        strict = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
        own = name or function.__name__
        section = create_model(own, __config__=strict, **fields)
        assert (takes, own) not in _OPS, f"two {takes} ops are called {own}"
        _OPS[takes, own] = FeatureOp(own, takes, gives, function, section, fitted, rule, refuses)
        return function

    return register


def feature_ops(takes: Takes) -> dict[str, FeatureOp]:
    """Return the ops for dense features, or for sparse and sequence features, by name."""
    return {name: op for (kind, name), op in sorted(_OPS.items()) if kind == takes}


def statistics_of(op: FittedOp) -> set[str]:
    """Return the statistics of the training rows that a dense op needs."""
    named = {value for value in op.params.values() if value in ("mean", "median")}
    return named | set(feature_ops("dense")[op.name].from_train)


def op_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON schema of each op's parameters, for editors.

    An op that dense and sparse features both have (`fill`) allows the parameters of either.
    """
    schemas: dict[str, dict[str, Any]] = {}
    for (_, name), op in sorted(_OPS.items(), key=lambda item: item[0][1]):
        schema = op.section.model_json_schema()
        other = schemas.setdefault(name, schema)
        if other is not schema:
            both = {**other["properties"], **schema["properties"]}
            for key in other["properties"].keys() & schema["properties"].keys():
                both[key] = {"anyOf": [other["properties"][key], schema["properties"][key]]}
            required = set(other.get("required", ())) & set(schema.get("required", ()))
            schemas[name] = {**other, "properties": both, "required": sorted(required)}
    return schemas


def resolve_op(op: OpConfig, takes: Takes, where: str) -> FittedOp:
    """Check one op of the config and fill in its defaults.

    Args:
        op: name, and parameters or the bare value.
        takes: kind of the feature.
        where: key path for errors, such as `features.dense.0.ops.1`.

    Raises:
        ConfigError: no such op for this kind of feature, or a parameter that it does not have or allow.
    """
    known = feature_ops(takes)
    entry = known.get(op.name)
    if entry is None:
        fix = did_you_mean(op.name, known)
        raise ConfigError(
            f"no such op for {takes} features",
            where=where,
            got=op.name,
            allowed=list(known),
            fixes=[fix] if fix else [],
        )
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


def resolve_ops(ops: typing.Sequence[OpConfig], takes: Takes, where: str) -> tuple[FittedOp, ...]:
    """Check the ops of one feature group, and that nothing follows the op that makes ids.

    Raises:
        ConfigError: see `resolve_op`; or an op stands behind `vocabulary` or `hash`.
    """
    resolved = tuple(resolve_op(op, takes, f"{where}.ops.{number}") for number, op in enumerate(ops))
    for number, op in enumerate(resolved[:-1]):
        if feature_ops(takes)[op.name].gives == "ids":
            raise ConfigError(
                f"`{op.name}` makes ids and must be the last op",
                where=f"{where}.ops.{number + 1}",
                got=resolved[number + 1].name,
            )
    return resolved


def check_ops(run: RunConfig) -> None:
    """Check every op of a run config, without Spark.

    Raises:
        ConfigError: an unknown op or parameter, a wrong value, or a wrong order of ops.
    """
    for kind in ("dense", "sparse", "sequence"):
        takes: Takes = "dense" if kind == "dense" else "sparse"
        for number, group in enumerate(getattr(run.features, kind)):
            resolve_ops(group.ops, takes, f"features.{kind}.{number}")


def _clip_bounds(params: Mapping[str, Any]) -> str | None:
    low, high = params["min"], params["max"]
    if low is None and high is None:
        return "`clip` needs `min`, `max` or both"
    return "`clip` needs min < max" if low is not None and high is not None and low >= high else None


@feature_op("dense")
def fill(x: Column, value: float | Statistic) -> Column:
    """Put a number, or the mean or median of the training rows, where the value is missing (null or NaN)."""
    from pyspark.sql import functions as F

    return F.coalesce(x, F.lit(float(value)))


@feature_op("dense", rule=_clip_bounds)
def clip(x: Column, min: float | None = None, max: float | None = None) -> Column:
    """Move values below `min` up to it and values above `max` down to it."""
    from pyspark.sql import functions as F

    if min is not None:
        x = F.when(x < min, F.lit(float(min))).otherwise(x)
    if max is not None:
        x = F.when(x > max, F.lit(float(max))).otherwise(x)
    return x


@feature_op(
    "dense",
    refuses=Refusal(
        lambda x: x <= -1, "log1p(x) = log(1 + x) needs x > -1", "put `clip: {min: 0}` before `log1p`"
    ),
)
def log1p(x: Column) -> Column:
    """Take log(1 + x); a value of -1 or less is an error, so clip such columns first."""
    from pyspark.sql import functions as F

    return F.log1p(x)


@feature_op("dense")
def standardise(x: Column, mean: FromTrain, std: FromTrain) -> Column:
    """Subtract the mean and divide by the standard deviation of the training rows (by 1 where that is 0)."""
    return (x - mean) / (std if std > 0 else 1.0)


@feature_op("sparse", name="fill")
def fill_token(x: Column, value: str | int) -> Column:
    """Put a token where the value is missing, so that it becomes a value of the vocabulary."""
    from pyspark.sql import functions as F

    return F.coalesce(x, F.lit(str(value)))


@feature_op("sparse", gives="list")
def split(x: Column, delimiter: Annotated[str, Field(min_length=1)]) -> Column:
    """Cut a text such as `Action|Comedy` into a list of tokens."""
    from pyspark.sql import functions as F

    # \\Q...\\E: Spark's split takes a regular expression, and `|` is the commonest delimiter.
    literal = "\\E\\\\E\\Q".join(delimiter.split("\\E"))
    return F.split(x, f"\\Q{literal}\\E")


@feature_op("sparse", gives="ids")
def vocabulary(
    x: Column,
    min_count: Annotated[int, Field(ge=1)] = 1,  # noqa: ARG001 - read where the vocabulary is fitted
    max_size: Annotated[int | None, Field(ge=1)] = None,  # noqa: ARG001
) -> Column:
    """Number the values of the training rows from 2, most frequent first; missing is 0, others are 1.

    Values seen fewer than `min_count` times, or beyond the `max_size` most frequent, count as unseen. Ties
    are broken by the value itself. The ids come from a join with the vocabulary (vocabulary.py), so tokens
    pass through here as they are.
    """
    return x


@feature_op("sparse", gives="ids")
def hash(x: Column, num_buckets: Annotated[int, Field(ge=1)], seed: int = 0) -> Column:
    """Take XXH64(seed 42) of the UTF-8 text `<seed>:<token>` modulo `num_buckets`, plus 1; missing is 0."""
    from pyspark.sql import functions as F

    # pmod of the signed hash; 0 stays free for padding.
    bucket = F.pmod(F.xxhash64(F.concat(F.lit(f"{seed}:"), x)), F.lit(num_buckets).cast("bigint"))
    return F.when(x.isNull(), F.lit(0)).otherwise(bucket + 1).cast("bigint")
