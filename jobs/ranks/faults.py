"""Tells an error from the errors that follow from it, and carries it from a rank to the driver."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any, Literal

from sharding.errors import ShardrecError, UserError

Kind = Literal["user", "error", "consequence"]

# What gloo, NCCL and the key-value store say on the ranks that lose a peer.
_LOST_PEER = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|timed? ?out|connectfullmesh|remote process exited"
    r"|nccl communicator was aborted|socket|application timeout|peer",
    re.IGNORECASE,
)
_TORCH_ERRORS = ("DistBackendError", "DistNetworkError", "DistStoreError", "DistError")


def kind_of(error: BaseException) -> Kind:
    """Return whether an error is a user's, this rank's own, or follows from another rank's end."""
    if isinstance(error, UserError):
        return "user"
    if any(_names_lost_peer(link) for link in _chain(error)):
        return "consequence"
    return "error"


def describe(error: BaseException) -> str:
    """Return `Type: message`; the errors of this project explain themselves without the type."""
    text = str(error).strip()
    if isinstance(error, ShardrecError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def pack(error: BaseException) -> dict[str, Any] | None:
    """Return a user error as plain values, None for any other error."""
    if not isinstance(error, UserError):
        return None
    allowed = error.allowed
    if isinstance(allowed, (list, tuple, set, frozenset)):
        allowed = [str(item) for item in allowed]
    return {
        "class": f"{type(error).__module__}:{type(error).__qualname__}",
        "what": error.what,
        "where": error.where,
        "got": None if error.got is None else str(error.got),
        "allowed": allowed if allowed is None or isinstance(allowed, list) else str(allowed),
        "fixes": list(error.fixes),
        "also": list(error.also),
    }


def unpack(values: dict[str, Any]) -> UserError:
    """Rebuild a packed user error; an unknown class becomes a plain `UserError`."""
    module, _, name = str(values["class"]).partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        found = UserError
    kind = found if isinstance(found, type) and issubclass(found, UserError) else UserError
    fields = {key: values[key] for key in ("where", "got", "allowed", "fixes", "also")}
    return kind(values["what"], **fields)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _names_lost_peer(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    if "RankJoinError" in names or names.intersection(_TORCH_ERRORS):
        return True
    # Only what torch itself raises: a ConnectionResetError of the storage is this rank's own trouble.
    return type(error) is RuntimeError and _LOST_PEER.search(str(error)) is not None
