"""Shows the progress of a run: follows `metrics.jsonl`, so it works for ranks in any process on any host."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from jobs.following import METRICS_FILE, Follower, Record
from jobs.ranks.streams import screen

_LINE_EVERY_SECONDS = 10.0
_HIDDEN = frozenset({"kind", "step", "time", "epoch", "base_rate", "rows", "mean_prediction", "mean_label"})


@contextmanager
def progress_bar(
    run_folder: str | Path,
    enabled: bool = True,
    *,
    stream: TextIO | None = None,
    line_every_seconds: float = _LINE_EVERY_SECONDS,
) -> Iterator[None]:
    """Show step, samples/s, loss and time left on stderr while the ranks work.

    A terminal gets a bar, anything else a line now and then. Evaluations get a line of their own,
    and findings of the training guard a few.

    Args:
        run_folder: the run folder; it and its `metrics.jsonl` may come later.
        enabled: False shows nothing.
        stream: where to show it; default stderr.
        line_every_seconds: time between lines where there is no terminal.
    """
    if not enabled:
        yield
        return
    with screen() as default:
        target = default if stream is None else stream
        view = _Bar(target) if target.isatty() else _Lines(target, line_every_seconds)
        shown = _Shown(view)
        follower = Follower(Path(run_folder) / METRICS_FILE, shown.hear)
        follower.start()
        try:
            yield
        finally:
            shown.ending = True
            follower.finish()
            with suppress(OSError):
                view.close(shown.progress)


@dataclass(frozen=True)
class Progress:
    """How far a run is, as its records tell.

    Attributes:
        step: last step reported.
        first_step: step at which this launch began.
        total_steps: step at which the run ends; 0 until known.
        loss: mean loss since the report before.
        samples_per_second: over all ranks.
        began: when `first_step` was reported, by the writer's clock.
        told: time of the last report, by the writer's clock.
    """

    step: int = 0
    first_step: int = 0
    total_steps: int = 0
    loss: float | None = None
    samples_per_second: float | None = None
    began: float | None = None
    told: float | None = None

    def after(self, record: dict[str, Any]) -> Progress:
        """Return the progress once a record of `metrics.jsonl` is known."""
        kind, told = record.get("kind"), record.get("time")
        if kind == "start":
            first = int(record.get("first_step") or 0)
            return Progress(first, first, int(record.get("total_steps") or 0), began=told, told=told)
        if kind != "train":
            return self
        return replace(
            self,
            step=int(record.get("step") or 0),
            loss=record.get("loss"),
            samples_per_second=record.get("samples_per_second"),
            told=told,
        )

    @property
    def seconds_left(self) -> float | None:
        """Return the time left at the mean pace since `start`, validation and saving included."""
        if self.began is None or self.told is None or self.step <= self.first_step:
            return None
        return (self.told - self.began) / (self.step - self.first_step) * (self.total_steps - self.step)

    @property
    def figures(self) -> str:
        """Return samples/s and loss, where known."""
        parts = []
        if self.samples_per_second is not None:
            parts.append(f"{self.samples_per_second:,.0f} samples/s")
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        return ", ".join(parts)

    def line(self, *, ended: bool = False) -> str:
        """Return the progress as one line of text, without the time left where the run has ended."""
        share = f" ({self.step / self.total_steps:.0%})" if self.total_steps else ""
        left = None if ended else self.seconds_left
        parts = [f"step {self.step}/{self.total_steps or '?'}{share}", self.figures]
        parts.append("" if left is None else f"ETA {tqdm.format_interval(left)}")
        return ", ".join(part for part in parts if part)


class _Bar:
    """A bar on a terminal; made at the first record, so that what is said before stays readable."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: tqdm[Any] | None = None

    def update(self, progress: Progress) -> None:
        if not progress.total_steps:
            return
        if self._bar is None:
            self._bar = tqdm(
                total=progress.total_steps, initial=progress.first_step, file=self._stream,
                unit="step", desc="train", dynamic_ncols=True, mininterval=0,
            )  # fmt: skip
        self._bar.total = progress.total_steps
        self._bar.set_postfix_str(progress.figures, refresh=False)
        self._bar.update(progress.step - self._bar.n)

    def say(self, text: str) -> None:
        tqdm.write(text, file=self._stream)

    def close(self, progress: Progress) -> None:
        self.update(progress)
        if self._bar is not None:
            self._bar.close()


class _Lines:
    """Lines for a log file or a notebook."""

    def __init__(self, stream: TextIO, every_seconds: float) -> None:
        self._stream, self._every = stream, every_seconds
        self._next = 0.0
        self._said_step = 0

    def update(self, progress: Progress) -> None:
        if progress.step > progress.first_step and time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            self._tell(progress.step, progress.line())

    def say(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def close(self, progress: Progress) -> None:
        if progress.step > progress.first_step:
            self._tell(progress.step, progress.line(ended=True))

    def _tell(self, step: int, text: str) -> None:
        if step != self._said_step:
            self._said_step = step
            self.say(text)


class _Shown:
    """Shows what the records of a run tell."""

    def __init__(self, view: _Bar | _Lines) -> None:
        self._view, self.progress = view, Progress()
        self.ending = False

    def hear(self, records: list[Record]) -> None:
        for record in records:
            self.progress = self.progress.after(record)
            line = _LINES.get(str(record.get("kind")))
            if line is not None:
                self._view.say(line(record))
        if not self.ending:
            self._view.update(self.progress)


def _pretrained_line(record: dict[str, Any]) -> str:
    found, ids, unknown = (record.get(name) or 0 for name in ("found", "ids", "unknown"))
    text = f"table {record.get('table')}: {found:,} of {ids:,} ids start from vectors"
    return f"{text}, {unknown:,} of the file are unknown" if unknown else text


def _evaluation_line(record: dict[str, Any]) -> str:
    figures = [
        f"{name} {value:.4f}"
        for name, value in record.items()
        if name.rpartition("/")[2] not in _HIDDEN
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
    ]
    return f"step {record.get('step')}, validation: {', '.join(figures)}"


def _guard_lines(record: dict[str, Any]) -> str:
    lines = [f"step {record.get('step')}, guard: {record.get('what')} ({record.get('code')})"]
    lines += [f"  likely cause: {cause}" for cause in record.get("causes", ())]
    lines += [f"  {number}) {fix}" for number, fix in enumerate(record.get("fixes", ()), start=1)]
    return "\n".join(lines)


_LINES: dict[str, Callable[[Record], str]] = {
    "evaluation": _evaluation_line,
    "pretrained": _pretrained_line,
    "guard": _guard_lines,
}
