"""What a value in a plan file may be: a slip in an edited one is named by its key before it does harm.

The types are those of the dataclasses that the file describes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sharding.errors import PlanError
from sharding.table_plan import Shard

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
# Where 0 would make no sense, or divide something.
_AT_LEAST_ONE = frozenset(
    {
        "batch_size_per_rank",
        "dim",
        "embedding_dim",
        "nodes",
        "num_embeddings",
        "ranks",
        "ranks_per_node",
        "rows_per_epoch",
        "shard_group_size",
        "table_shard_group_size",
        "table_sync_every_steps",
    }
)
_ABOVE_ZERO = ("gbps", "tflops", "efficiency", "table_mib")
# Keys of a record that are no fields.
_BESIDE = {"TablePlan": ("ranks",), "Cluster": ("name",)}
_SHORT = 60
_NUMBERS_OF_A_SHARD = len(fields(Shard))


def check_values(kind: type, record: object, place: str = "", names: Mapping[str, str] | None = None) -> None:
    """Refuse a record that does not describe a dataclass, at the first value that is wrong.

    Args:
        kind: the dataclass.
        record: as it was read.
        place: path of the record in the file; at the top, keys that are no fields are let be.
        names: keys of fields that have another one in the file.

    Raises:
        PlanError: a key is missing or unknown, or its value is of another type or out of range.
    """
    values = _typed(dict, record, place)
    known = {(names or {}).get(field.name, field.name): field for field in fields(kind)}
    unknown = [key for key in values if key not in known and key not in _BESIDE.get(kind.__name__, ())]
    if place and unknown:
        near = get_close_matches(unknown[0], known, n=1)
        raise PlanError(
            "the plan has a key that means nothing",
            where=f"{place}.{unknown[0]}",
            allowed=list(known),
            fixes=[f"did you mean {near[0]!r}?"] if near else [],
        )
    for key, field in known.items():
        if key in values:
            _check(_hints(kind)[field.name], values[key], f"{place}.{key}" if place else key, key)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise PlanError(f"the plan has no key '{key}'", where=place)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _check(hint: Any, value: object, place: str, key: str, or_null: bool = False) -> None:
    """Refuse a value of another type; `key` is the last one of its path."""
    origin, parts = get_origin(hint), get_args(hint)
    if value is None and or_null:
        return
    if origin in (Union, UnionType):
        _check(next(part for part in parts if part is not NoneType), value, place, key, or_null=True)
    elif origin is Literal:
        _demand(value in parts, value, place, ", ".join(map(str, parts)), or_null)
    elif origin is tuple:
        _demand(isinstance(value, list), value, place, "a list [...]", or_null)
        for number, item in enumerate(_typed(list, value, place)):
            name = item.get("name") if isinstance(item, dict) else None
            _check(parts[0], item, f"{place}[{number}]" if name is None else f"{place}.{name}", key)
    elif origin is not None:
        for name, item in _typed(dict, value, place).items():
            _check(parts[1], item, f"{place}.{name}", name)
    elif hint is Shard:
        _demand(_is_shard(value), value, place, "[rank, first row, first column, rows, columns]")
    elif isinstance(hint, type) and is_dataclass(hint):
        check_values(hint, value, place)
    else:
        _check_plain(hint, value, place, key, or_null)


def _check_plain(hint: type, value: object, place: str, key: str, or_null: bool) -> None:
    words = _WORDS[hint]
    if hint in (int, float):
        rule, range_words = _rule(hint, key)
        number = isinstance(value, (int, hint)) and not isinstance(value, bool)
        _demand(number and rule(value), value, place, words + range_words, or_null)
    else:
        _demand(isinstance(value, hint), value, place, words, or_null)


def _rule(hint: type, key: str) -> tuple[Callable[[Any], bool], str]:
    """Return what numbers a key takes, and that in words."""
    if key in _AT_LEAST_ONE:
        return (lambda number: number >= 1), ", 1 or more"
    if key.endswith(_ABOVE_ZERO) and key != "hbm_gbps":  # CPU ranks have none.
        return (lambda number: 0 < number < math.inf), " above 0"
    if key == "storage_reserve_share":
        return (lambda number: 0 <= number < 1), " from 0 to below 1"
    if hint is int:
        return (lambda number: number >= 0), ", 0 or more"
    return (lambda number: -math.inf < number < math.inf), ""


def _is_shard(value: object) -> bool:
    numbers = value if isinstance(value, list) else []
    return len(numbers) == _NUMBERS_OF_A_SHARD and all(
        type(number) is int and number >= 0 for number in numbers
    )


def _typed(kind: type, value: Any, place: str) -> Any:
    _demand(isinstance(value, kind), value, place, "an object {...}" if kind is dict else "a list [...]")
    return value


def _demand(right: bool, value: object, place: str, words: str, or_null: bool = False) -> None:
    if not right:
        got = json.dumps(value, ensure_ascii=False)
        raise PlanError(
            "the plan has a value that cannot be",
            where=place,
            got=got if len(got) <= _SHORT else f"{got[:_SHORT]}...",
            allowed=f"{words}, or null" if or_null else words,
        )
