"""What a check has found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["fine", "note", "fault"]
_MARKS: dict[State, str] = {"fine": "ok", "note": "note", "fault": "FAULT"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what it is about, in a word or two.
        state: `fault` if some verb cannot work, `note` if one may be slow or fail under some conditions.
        said: what was found.
        fixes: what to do, most likely first.
    """

    subject: str
    state: State
    said: str
    fixes: tuple[str, ...] = ()


def text_of(findings: Sequence[Finding]) -> str:
    """Return the findings as people read them, one to a line, faults and notes with what to do."""
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.state]:<6}{finding.subject:<{width}}  {finding.said}")
        lines += [f"{'':<{6 + width}}  {number}) {fix}" for number, fix in enumerate(finding.fixes, 1)]
    faults = sum(finding.state == "fault" for finding in findings)
    notes = sum(finding.state == "note" for finding in findings)
    lines.append("")
    lines.append(f"{faults} fault(s), {notes} note(s)" if faults or notes else "nothing is wrong")
    return "\n".join(lines)


def value_of(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as one JSON-able object."""
    return {
        "faults": sum(finding.state == "fault" for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }
