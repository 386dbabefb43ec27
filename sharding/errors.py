"""Errors that name the place and the way out; every other package builds on these two classes.

`UserError` is something the reader of the message can mend (exit code 2); any other `ShardrecError`
is a run that failed (exit code 1). `assert` stays for our own bugs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


class ShardrecError(Exception):
    """A failure with its place, what came, what is allowed, and numbered fixes.

    Args:
        what: what is wrong, one sentence without a full stop.
        where: file, config key, feature, table or rank.
        got: the value that came.
        allowed: the rule or the allowed values.
        fixes: things to do, most likely first, with numbers in them where they exist.
        also: what else is wrong, one line each.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        got: object = None,
        allowed: object = None,
        fixes: Sequence[str] = (),
        also: Sequence[str] = (),
    ) -> None:
        self.what = what
        self.where = where
        self.got = got
        self.allowed = allowed
        self.fixes = tuple(fixes)
        self.also = tuple(also)
        super().__init__(self.message())

    def message(self) -> str:
        """Return the text that a person reads: rule, place, value, allowed values, fixes, the rest."""
        lines = [self.what]
        if self.where:
            lines.append(f"  where:   {self.where}")
        if self.got is not None:
            lines.append(f"  got:     {self.got}")
        if self.allowed is not None:
            allowed = self.allowed
            if isinstance(allowed, (list, tuple, set, frozenset)):
                allowed = ", ".join(str(item) for item in allowed)
            lines.append(f"  allowed: {allowed}")
        lines.extend(f"  {number}) {fix}" for number, fix in enumerate(self.fixes, start=1))
        lines.extend(f"  also:    {line}" for line in self.also)
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Return the `--json` form: `error` is the message alone; parts that are absent have no key.

        Keys: `error`, `kind` (the class), `where`, `fixes`, and `got`, `allowed`, `details`, `also`.
        """
        message, _, details = self.what.partition("\n")
        infinite = isinstance(self.got, float) and not math.isfinite(self.got)
        parts = {
            "got": str(self.got) if infinite else self.got,  # JSON has no such number.
            "allowed": list(self.allowed) if isinstance(self.allowed, (set, frozenset)) else self.allowed,
            "details": details or None,
            "also": list(self.also) or None,
        }
        return {
            "error": message,
            "kind": type(self).__name__,
            "where": self.where,
            "fixes": list(self.fixes),
            **{name: part for name, part in parts.items() if part is not None},
        }

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle by positional args; ours are keywords, and ranks send them to the driver.
        rest = {name: getattr(self, name) for name in ("where", "got", "allowed", "fixes", "also")}
        return (_rebuild, (type(self), self.what, rest))


def _rebuild(kind: type[ShardrecError], what: str, rest: dict[str, Any]) -> ShardrecError:
    return kind(what, **rest)


class UserError(ShardrecError):
    """The input, the config or the machine is wrong, and the message says how to mend it."""

    exit_code = 2


class PlanError(UserError):
    """No sharding plan: the tables do not fit, or a constraint cannot be met."""
