"""Feature ops on one value with plain Python: lists, dates and the math module, no Arrow and no numpy."""

from __future__ import annotations

import datetime
import math
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import xxhash

Op = tuple[str, Mapping[str, Any]]
Token = str | None
TIMES = {"milliseconds", "hour", "weekday", "day_of_month", "month", "holiday", "age"}
NUMBERS = {"bucketise", "clip", "log1p", "min_max", "round", "standardise"}
IDS = {"vocabulary", "hash"}
_UNITS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}
_UTC = datetime.timezone.utc
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=_UTC)


def starts_with(ops: Sequence[Op], kind: str) -> str:
    """Return what a chain reads its column as: `number`, `time` or `token`."""
    first = ops[0][0] if ops else ""
    if first in TIMES:
        return "time"
    return "number" if kind == "dense" or first in NUMBERS else "token"


def read(value: Any, ops: Sequence[Op], kind: str) -> Any:
    """Return a raw value as a chain takes it: a float, seconds, a token, or a list of tokens."""
    takes = starts_with(ops, kind)
    if takes == "token":
        return [token_of(item) for item in value] if isinstance(value, list) else token_of(value)
    return seconds_of(value) if takes == "time" else number_of(value)


def through(value: Any, ops: Iterable[Op]) -> Any:
    """Return what ops make of a value that `read` gave, up to the one that makes ids."""
    for name, params in ops:
        if name in IDS:
            break
        if name in TIMES:
            value = _of_time(value, name, params)
        elif isinstance(value, float) and (name == "fill" or name in NUMBERS):
            value = _of_number(value, name, params)
        else:
            value = _of_token(token_of(value) if isinstance(value, float) else value, name, params)
    return value


def tokens_of(value: Any) -> list[Token]:
    """Return what `through` made as tokens; those of a list without missing ones."""
    if isinstance(value, list):
        return [token for token in value if token is not None]
    return [token_of(value) if isinstance(value, float) else value]


def token_of(value: Any) -> Token:
    """Return a raw value as an id's text."""
    if value is None or value == "" or (hasattr(value, "__float__") and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return str(int(value)) if value == int(value) else format(value, "f").rstrip("0")
    # 32-bit floats of numpy print in their own precision.
    if hasattr(value, "is_integer") and not isinstance(value, int):
        whole = float(value).is_integer() and abs(value) < 2**53
        return str(int(value)) if whole else str(value)
    if isinstance(value, datetime.datetime):
        text = value.replace(tzinfo=None).isoformat(" ")
        return text.rstrip("0") if "." in text else text
    return str(value)


def number_of(value: Any) -> float:
    """Return a raw value as a number, NaN where it is missing."""
    if isinstance(value, str):
        value = value.strip() or None
    return math.nan if value is None else float(value)


def seconds_of(value: Any) -> float:
    """Return a raw value as seconds since 1970, NaN where it is missing."""
    if isinstance(value, str) and value.strip():
        try:
            return float(value)
        except ValueError:
            value = datetime.datetime.fromisoformat(value.strip())
    if isinstance(value, datetime.datetime):
        value = value if value.tzinfo is not None else value.replace(tzinfo=_UTC)
        return (value - _EPOCH) / datetime.timedelta(seconds=1)
    if isinstance(value, datetime.date):
        return float((value - _EPOCH.date()).days * 86400)
    return number_of(value)


def _of_number(x: float, name: str, params: Mapping[str, Any]) -> float:
    if name == "fill":
        return float(params["value"]) if math.isnan(x) else x
    if math.isnan(x):
        return x
    if name == "clip":
        low = -math.inf if params.get("min") is None else params["min"]
        high = math.inf if params.get("max") is None else params["max"]
        return float(min(max(x, low), high))
    if name == "log1p":
        return math.log1p(x)
    if name == "standardise":
        return float((x - params["mean"]) / (params["std"] or 1.0))
    if name == "min_max":
        return float((x - params["min"]) / ((params["max"] - params["min"]) or 1.0))
    if name == "bucketise":
        return float(bisect_right(params["edges"], x) + 1)
    assert name == "round", name
    # Scaled as numpy does it, not from the exact binary value; halves go to the even digit.
    scale = 10.0 ** abs(params["digits"])
    return (round(x * scale) / scale if params["digits"] >= 0 else round(x / scale) * scale) + 0.0


def _of_time(seconds: float, name: str, params: Mapping[str, Any]) -> float:
    if math.isnan(seconds):
        return seconds
    if name == "milliseconds":
        return seconds / 1000
    if name == "age":
        return (seconds_of(params["at"]) - seconds) / _UNITS[params.get("unit", "days")]
    moment = _EPOCH + datetime.timedelta(seconds=math.floor(seconds))
    local = moment.astimezone(ZoneInfo(params.get("time_zone", "UTC")))
    if name == "holiday":
        return float(local.date().isoformat() in params["dates"])
    found = {"hour": local.hour, "weekday": local.weekday(), "day_of_month": local.day, "month": local.month}
    return float(found[name])


def _of_token(value: Token | list[Token], name: str, params: Mapping[str, Any]) -> Any:
    if name == "split":
        return [] if value is None else [part or None for part in str(value).split(params["delimiter"])]
    if name == "words":
        return [] if value is None else _words(str(value))
    if name == "truncate":
        if not isinstance(value, list):
            return value
        items = [token for token in value if token is not None]
        length = params["max_length"]
        return items[:length] if params.get("keep", "first") == "first" else items[-length:]
    if isinstance(value, list):
        return [_of_token(item, name, params) for item in value]
    if name == "fill":
        return str(params["value"]) if value is None else value
    assert name == "lower", name
    return None if value is None else lowered(value)


def lowered(text: str) -> str:
    """Return a text in lower case, character by character."""
    return "".join(character.lower()[:1] for character in text)


def _words(text: str) -> list[Token]:
    kept = (c if c == "_" or unicodedata.category(c)[0] in "LMN" else " " for c in lowered(text))
    return list("".join(kept).split())


def crossed(values: Sequence[Any]) -> Token:
    """Return the token of a cross of columns."""
    tokens = [token_of(value) for value in values]
    if any(token is None for token in tokens):
        return None
    return " & ".join(str(token).replace("&", "\\&") for token in tokens)


@dataclass(frozen=True)
class PlainVocabulary:
    """The ids of known values, and what becomes of others."""

    ids: Mapping[str, int]
    oov_buckets: int = 1
    missing: str = "padding"

    def id_of(self, token: Token) -> int:
        """Return the id of a token."""
        if token is None:
            return self.oov_buckets + 1 if self.missing == "most_frequent" and self.ids else 0
        found = self.ids.get(token)
        return self._unseen(token) if found is None else found

    def _unseen(self, token: str) -> int:
        return 1 if self.oov_buckets == 1 else hashed(token) % self.oov_buckets + 1


def hash_id(token: Token, num_buckets: int, seed: int = 0) -> int:
    """Return the id that the op `hash` gives a token."""
    return 0 if token is None else hashed(f"{seed}:{token}") % num_buckets + 1


def hashed(text: str) -> int:
    """Return XXH64 with seed 42 of a text as a signed integer."""
    unsigned = xxhash.xxh64_intdigest(text.encode(), seed=42)
    return unsigned - (1 << 64) if unsigned >> 63 else unsigned
