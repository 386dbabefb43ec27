"""What `metrics.jsonl` tells: the course of a run, resumes included."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.reporting.formats import finite_number

Record = dict[str, Any]

_KINDS = ("train", "evaluation", "checkpoint", "ids", "guard")


@dataclass(frozen=True)
class Curve:
    """One value against the step; steps rise, values are finite."""

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class History:
    """The records of a run by kind, each step once.

    Attributes:
        starts: one record each time that training was started.
        train: logged training steps.
        evaluations: evaluations of the validation split.
        checkpoints: saved checkpoints.
        ids: what became of ids that come and go, one record for each table and logged step; table by table.
        guard: findings of the training guard, in the order in which they were told.
        unreadable_lines: lines that are no JSON object, such as the last one of a killed run.
    """

    starts: tuple[Record, ...] = ()
    train: tuple[Record, ...] = ()
    evaluations: tuple[Record, ...] = ()
    checkpoints: tuple[Record, ...] = ()
    ids: tuple[Record, ...] = ()
    guard: tuple[Record, ...] = ()
    unreadable_lines: int = 0

    @property
    def last_step(self) -> int:
        """Return the last step that anything was recorded for."""
        records = (*self.train, *self.evaluations, *self.checkpoints)
        return max((int(record["step"]) for record in records), default=0)

    @property
    def resumed_at(self) -> tuple[int, ...]:
        """Return the steps at which the run went on after a stop, each once, in order.

        A start over from nothing and one after the last step changed nothing, so they do not count.
        """
        steps = {int(finite_number(start.get("first_step")) or 0) for start in self.starts[1:]}
        return tuple(sorted(step for step in steps if 0 < step < self.last_step))

    @property
    def seconds_since_start(self) -> float | None:
        """Return the time from the last start to the last record; None where the records hold no time."""
        if not self.starts:
            return None
        start = finite_number(self.starts[-1].get("time"))
        records = (*self.train, *self.evaluations, *self.checkpoints)
        times = [
            time for time in (finite_number(record.get("time")) for record in records) if time is not None
        ]
        return None if start is None or not times else max(max(times) - start, 0.0)

    def train_curve(self, key: str) -> Curve:
        """Return a value of the training steps, without those where it is not finite."""
        return _curve(self.train, key)

    def evaluation_curve(self, key: str) -> Curve:
        """Return a metric of the validation split, without those where it is not finite."""
        return _curve(self.evaluations, key)

    def steps_without_finite_loss(self) -> int:
        """Return how many logged steps have a loss that is NaN or infinite."""
        return sum(finite_number(record.get("loss")) is None for record in self.train)


def read_history(path: Path) -> History:
    """Read `metrics.jsonl`.

    A run that was killed and resumed repeats the steps since its last checkpoint: what was recorded before
    the resume for a later step is dropped.
    """
    starts: list[Record] = []
    kept: dict[tuple[str, str], dict[int, Record]] = {(kind, ""): {} for kind in _KINDS}
    unreadable = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.strip():
            continue
        record = _parse(line)
        if record is None:
            unreadable += 1
        elif record.get("kind") == "start":
            starts.append(record)
            _forget_after(kept, int(finite_number(record.get("first_step")) or 0))
        elif record.get("kind") in _KINDS:
            step = finite_number(record.get("step"))
            if step is None:
                unreadable += 1
            else:
                own = (str(record["kind"]), str(record.get("table", "") or record.get("what", "")))
                kept.setdefault(own, {})[int(step)] = record
    return History(
        starts=tuple(starts),
        train=_in_order(kept["train", ""]),
        evaluations=_in_order(kept["evaluation", ""]),
        checkpoints=_in_order(kept["checkpoint", ""]),
        ids=tuple(record for (kind, _), of in kept.items() if kind == "ids" for record in _in_order(of)),
        guard=tuple(record for (kind, _), of in kept.items() if kind == "guard" for record in _in_order(of)),
        unreadable_lines=unreadable,
    )


def _parse(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def _forget_after(kept: dict[tuple[str, str], dict[int, Record]], step: int) -> None:
    for records in kept.values():
        for later in [recorded for recorded in records if recorded > step]:
            del records[later]


def _in_order(records: dict[int, Record]) -> tuple[Record, ...]:
    return tuple(records[step] for step in sorted(records))


def _curve(records: tuple[Record, ...], key: str) -> Curve:
    points = [(int(record["step"]), finite_number(record.get(key))) for record in records]
    known = [(step, value) for step, value in points if value is not None]
    return Curve(tuple(step for step, _ in known), tuple(value for _, value in known))
