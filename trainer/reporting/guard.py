"""What the training guard found, for the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.reporting.formats import finite_number
from trainer.reporting.history import History


@dataclass(frozen=True)
class GuardFinding:
    """A finding in words; `level` is `grave` or `note`."""

    code: str
    level: str
    when: str
    what: str
    causes: tuple[str, ...]
    fixes: tuple[str, ...]


def guard_findings(history: History) -> tuple[GuardFinding, ...]:
    """Return the findings, grave ones first and in the order of steps among them."""
    found = sorted(history.guard, key=lambda record: (record.get("level") != "grave", record["step"]))
    return tuple(
        GuardFinding(
            code=str(record.get("code", "")),
            level=str(record.get("level", "")),
            when=f"step {finite_number(record['step']) or 0:,.0f}",
            what=str(record.get("what", "")),
            causes=_texts(record.get("causes")),
            fixes=_texts(record.get("fixes")),
        )
        for record in found
    )


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(str(value) for value in values) if isinstance(values, list) else ()
