"""The registry of feature ops: one decorated function each, in `number_ops`, `time_ops` and `token_ops`.

The function's signature is the op's config: its first argument is the values, the others are parameters, and
the first of those may be written in short form (`clip: {min: 0}`, `fill: 0`). Types and bounds are checked
by pydantic from the annotations. A parameter annotated `FromTrain` is not configured: `prepare` computes the
statistic of that name (`mean`, `std`, `min`, `max`) over the training rows, after the ops to its left. A
parameter that allows `Statistic` takes a number, or the name of the statistic to compute. A parameter marked
`FITTED` that has a default may be configured, and is fitted where it is None.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, create_model

from trainer.features.values import Floats

Takes = Literal["number", "token", "time"]
Gives = Literal["same", "number", "list", "ids"]
FITTED = "fitted on the training rows"
FromTrain = Annotated[float, FITTED]
Statistic = Literal["mean", "median", "mode"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Statistics:
    """What the training rows say of one feature before an op; all zero where every value is missing.

    Attributes:
        mean, std, min, max: over the values that are not missing; `std` is the population's.
        sample: those values sorted, or a sample of them where they are many.
    """

    mean: float
    std: float
    min: float
    max: float
    sample: Floats

    @property
    def median(self) -> float:
        """Return the median of the sample."""
        return float(np.median(self.sample)) if len(self.sample) else 0.0

    @property
    def mode(self) -> float:
        """Return the most frequent value of the sample; of several, the smallest."""
        if not len(self.sample):
            return 0.0
        values, counts = np.unique(self.sample, return_counts=True)
        return float(values[np.argmax(counts)])


@dataclass(frozen=True)
class Refusal:
    """Values that an op cannot take.

    Attributes:
        of: the op's input (float64 [N]) to bool [N], true where the value is refused.
        because: the rule, for the error.
        fix: what to write into the config.
    """

    of: Callable[[Floats], NDArray[np.bool_]]
    because: str
    fix: str


@dataclass(frozen=True)
class Example:
    """A documented example, which the tests run.

    Attributes:
        op: as in the config.
        train: raw values of training rows.
        gives: what the prepared column holds for them, missing ids and lists included.
        rows: raw values to apply the fitted op to; default those of training.
    """

    op: Any
    train: list[Any]
    gives: list[Any]
    rows: list[Any] | None = None


@dataclass(frozen=True)
class FeatureOp:
    """One registry entry.

    Attributes:
        name: in the config.
        takes: `number` (float64 [N], NaN missing), `time` (the same, in seconds), or `token` (`Tokens`).
        gives: `same` as it takes, `number`, `list` for an op that makes many tokens of one, `ids` for one
            that ends the chain.
        function: of the values and the parameters.
        section: pydantic class made of the function's signature.
        from_train: parameters that fitting adds, or fills in where they are None.
        statistics: parameters that may name the statistic to compute.
        fit: returns the fitted parameters, or None where nothing is to be fitted.
        rule: says what is wrong with the parameters together, or None.
        refuses: values that make the op fail with an error.
        largest: returns the largest number that the op gives, so that the table of its ids has room for it.
        rising: of two numbers the greater one never gives less, and what lies between two that the op takes
            it takes as well. Then the least and the largest value tell of all.
        examples: shown in the documentation, and run by the tests.
    """

    name: str
    takes: Takes
    gives: Gives
    function: Callable[..., Any]
    section: type[BaseModel]
    from_train: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    fit: Callable[[dict[str, Any], Statistics], dict[str, Any]] | None = None
    rule: Callable[[Mapping[str, Any]], str | None] | None = None
    refuses: Refusal | None = None
    largest: Callable[[Mapping[str, Any]], int] | None = None
    rising: bool = False
    examples: tuple[Example, ...] = field(default=())

    @property
    def summary(self) -> str:
        """Return the first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").splitlines()[0]

    def needs_fit(self, params: Mapping[str, Any]) -> bool:
        """Return whether these parameters lack statistics of the training rows."""
        unknown = any(params.get(name) is None for name in self.from_train)
        return unknown or any(isinstance(params[name], str) for name in self.statistics)

    def fitted(self, params: Mapping[str, Any], found: Statistics) -> dict[str, Any]:
        """Return the parameters with what the training rows say."""
        made = dict(params)
        if self.fit is not None:
            return {**made, **self.fit(made, found)}
        named = {name: made[name] for name in self.statistics if isinstance(made[name], str)}
        wanted = {**named, **{name: name for name in self.from_train}}
        return {**made, **{name: getattr(found, statistic) for name, statistic in wanted.items()}}


OPS: dict[tuple[Takes, str], FeatureOp] = {}


def feature_op(
    takes: Takes,
    *,
    name: str | None = None,
    gives: Gives = "same",
    fit: Callable[[dict[str, Any], Statistics], dict[str, Any]] | None = None,
    rule: Callable[[Mapping[str, Any]], str | None] | None = None,
    refuses: Refusal | None = None,
    largest: Callable[[Mapping[str, Any]], int] | None = None,
    rising: bool = False,
    examples: tuple[Example, ...] = (),
) -> Callable[[_Function], _Function]:
    """Register a function as an op; see `FeatureOp` for the arguments.

    Args:
        takes: what the function's first argument holds.
        name: in the config; default the function's.
        gives: what it returns.
        fit: returns the values of the fitted parameters; by default they are statistics of their names.
        rule: says what is wrong with the parameters together, or None.
        refuses: values that make the op fail with an error.
        largest: returns the largest number that the op gives.
        rising: a greater number never gives less.
        examples: for the documentation and the tests.
    """

    def register(function: _Function) -> _Function:
        hints = typing.get_type_hints(function, include_extras=True)
        parameters = list(inspect.signature(function).parameters.values())[1:]
        required = {p.name for p in parameters if p.default is inspect.Parameter.empty}
        fitted = tuple(p.name for p in parameters if FITTED in getattr(hints[p.name], "__metadata__", ()))
        named = tuple(p.name for p in parameters if Statistic in typing.get_args(hints[p.name]))
        fields: dict[str, Any] = {
            p.name: (hints[p.name], ... if p.name in required else p.default)
            for p in parameters
            if p.name not in required or p.name not in fitted
        }
        strict = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
        own = name or function.__name__
        section = create_model(own, __config__=strict, **fields)
        assert (takes, own) not in OPS, f"two {takes} ops are called {own}"
        OPS[takes, own] = FeatureOp(
            own, takes, gives, function, section, fitted, named, fit, rule, refuses, largest, rising, examples
        )
        return function

    return register
